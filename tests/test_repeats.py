"""Seeds and folds: several runs taken as one."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run, predictions

from mura import evaluation, explain
from mura.data.manifest import fold_of
from mura.evaluation import PredictionsError, metric_values
from mura.runs import REFERENCE_FILES, list_references

SETTINGS = {"folds": 3, "seed": 0}


@pytest.fixture(scope="module")
def runs(phantom_root, tmp_path_factory):
    """Three folds of one recipe, three seeds of another, and a run alone."""
    models = tmp_path_factory.mktemp("models")
    table = predictions(phantom_root, 3.0)
    folds = table["patient"].map(lambda patient: fold_of(patient, 3))
    made = [make_run(models, "alone", table, epochs=5)]
    for fold in range(3):
        of = table.assign(split=np.where(folds == fold, "valid", "tune"))
        made.append(make_run(models, f"fold{fold}", of, folds=3, fold=fold))
    for seed in (2, 0, 1):
        table = predictions(phantom_root, 1.0, seed)
        made.append(make_run(models, f"seed{seed}", table, seed=seed))
    return {run.name: run for run in made}


def names(runs):
    """The names of the runs of each set."""
    return {title: names for title, (names, _) in evaluation.together(runs).items()}


def test_runs_are_grouped_by_what_alone_differs(runs):
    assert names(runs) == {
        "cnn, 3 folds": ["fold0", "fold1", "fold2"],
        "cnn, 3 seeds": ["seed0", "seed1", "seed2"],
    }


def test_folds_predict_each_patient_once(runs, phantom_root):
    folds = [evaluation.run_studies(runs[f"fold{fold}"]) for fold in range(3)]
    joined = evaluation.out_of_fold(folds)
    assert sorted(joined["study"]) == sorted(set(runs["alone"].predictions["study"]))
    assert not joined["study"].duplicated().any()
    with pytest.raises(PredictionsError, match="held out twice"):
        evaluation.out_of_fold([folds[0], folds[0]])
    other = folds[0].assign(study=folds[0]["study"] + "x")
    with pytest.raises(PredictionsError, match="held out by two folds"):
        evaluation.out_of_fold([folds[0], other])


def test_seeds_have_a_mean_a_spread_and_an_ensemble(runs):
    seeds = ["seed0", "seed1", "seed2"]
    table = evaluation.repeat_table(runs, resamples=50).set_index("model")
    assert list(table.index) == ["cnn, 3 folds", "cnn, 3 seeds"]
    found, studies = table.loc["cnn, 3 seeds"], [evaluation.run_studies(runs[n]) for n in seeds]
    areas = [metric_values(t["label"], t["probability"])["auroc"] for t in studies]
    assert (found["lowest"], found["highest"]) == (min(areas), max(areas))
    assert found["mean"] == pytest.approx(np.mean(areas))
    assert found["sd"] == pytest.approx(np.std(areas, ddof=1))
    mean = pd.concat([t["probability"] for t in studies], axis=1).mean(axis=1)
    assert found["value"] == metric_values(studies[0]["label"], mean)["auroc"]
    assert found["low"] < found["value"] < found["high"]
    everyone = set(runs["alone"].predictions["study"])
    assert table.loc["cnn, 3 folds", "studies"] == len(everyone)


@pytest.fixture(scope="module")
def crossed(phantom_root, tmp_path_factory):
    """Two seeds of three folds each, by two recipes."""
    models, made = tmp_path_factory.mktemp("crossed"), {}
    for epochs, seed, fold in itertools.product((3, 5), (0, 1), range(3)):
        table = predictions(phantom_root, 1.0, seed + 10 * epochs)
        held_out = table["patient"].map(lambda patient: fold_of(patient, 3)) == fold
        name = f"epochs{epochs}-seed{seed}-fold{fold}"
        settings = {"epochs": epochs, "folds": 3, "seed": seed, "fold": fold}
        table = table.assign(split=np.where(held_out, "valid", "tune"))
        made[name] = make_run(models, name, table, **settings)
    return made


def test_each_seed_with_each_fold_is_one_row(crossed):
    """Out of fold per seed, then the ensemble; spread over seeds."""
    table = evaluation.repeat_table(crossed, resamples=0).set_index("model")
    title = "cnn, 2 seeds x 3 folds, epochs 3"
    assert list(table.index) == [title, "cnn, 2 seeds x 3 folds, epochs 5"]
    expected = [f"epochs3-seed{seed}-fold{fold}" for seed in (0, 1) for fold in range(3)]
    seeds = [
        evaluation.out_of_fold([evaluation.run_studies(crossed[name]) for name in some])
        for some in (expected[:3], expected[3:])
    ]
    areas = [metric_values(t["label"], t["probability"])["auroc"] for t in seeds]
    assert table.loc[title, "mean"] == pytest.approx(np.mean(areas))
    assert table.loc[title, "sd"] == pytest.approx(np.std(areas, ddof=1))
    found, joined = evaluation.together(crossed)[title]
    assert found == expected
    assert len(joined) == joined["study"].nunique() == len(seeds[0])
    both = pd.concat(seeds).groupby("study")["probability"].mean()
    np.testing.assert_allclose(joined.set_index("study")["probability"], both[joined["study"]])


def test_where_a_run_is_missing_seeds_and_folds_have_rows_of_their_own(crossed):
    """As of a recipe whose first seed alone has all folds."""
    some = [f"epochs3-seed0-fold{fold}" for fold in range(3)] + ["epochs3-seed1-fold0"]
    found = names({name: crossed[name] for name in some})
    assert found == {"cnn, 2 seeds": [some[0], some[3]], "cnn, 3 folds": some[:3]}
    some.append("epochs3-seed1-fold2")
    assert list(names({name: crossed[name] for name in some})) == [
        "cnn, 2 seeds, fold 0",
        "cnn, 2 seeds, fold 2",
        "cnn, 3 folds",
        "cnn, 2 folds",
    ]


def test_groups_that_differ_in_another_setting_say_so(crossed):
    folds = {name: run for name, run in crossed.items() if "seed0" in name}
    titles = ["cnn, 3 folds, epochs 3", "cnn, 3 folds, epochs 5"]
    assert list(names(folds)) == titles


def test_a_seed_that_was_trained_twice_counts_once(runs):
    twice = runs | {"z": runs["seed1"]}
    assert names(twice) == names(runs)


def test_reference_runs_are_read_without_a_model(runs, tmp_path):
    folder = tmp_path / "fracatlas" / "cnn"
    folder.mkdir(parents=True)
    for name in REFERENCE_FILES:
        shutil.copy(runs["alone"].folder / name, folder / name)
    (tmp_path / "fracatlas" / "unfinished").mkdir()
    [run] = list_references("FracAtlas", tmp_path)
    assert run.name == "cnn (reference)"
    whole = evaluation.run_studies(runs["alone"])
    pd.testing.assert_frame_equal(evaluation.run_studies(run), whole)
    assert list_references("phantom", tmp_path) == []
    assert explain.pointed(run, None) is None
    pd.DataFrame({"hit": [1.0]}).to_csv(folder / "pointing.csv", index=False)
    assert explain.pointed(run, None)["hit"].tolist() == [1.0]
    both = explain.all_pointed({"a": run, "alone": runs["alone"]}, None)
    assert both[["model", "hit"]].to_numpy().tolist() == [["a", 1.0]]
    assert explain.all_pointed({"alone": runs["alone"]}, None).empty
