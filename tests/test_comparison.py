"""What is compared with what: runs of one data set, ensembles, CSV files, other choices."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_runs import PHANTOM, make_run, predictions
from sklearn import metrics as reference

from mura import evaluation
from mura.data import BODY_PARTS
from mura.evaluation import comparison, reports
from mura.files import InputError, read_json, write_json
from mura.phantom.counts import STUDY_COUNTS

WRIST = ["XR_WRIST"]


@pytest.fixture(scope="module")
def models(phantom_root, tmp_path_factory):
    """Three runs of all body parts, one with 14 classes, and one of the wrist alone."""
    models = tmp_path_factory.mktemp("models")
    make_run(models, "poor", predictions(phantom_root, 0.5, seed=1))
    make_run(models, "good", predictions(phantom_root, 4.0, seed=2))
    make_run(models, "joint", predictions(phantom_root, 3.0, seed=3), head="joint")
    make_run(models, "wrist", predictions(phantom_root, 3.0, 4, WRIST), body_parts=WRIST)
    return models


@pytest.fixture(scope="module")
def compared(models, phantom_root):
    return comparison.compare(models, phantom_root)


def test_runs_ensembles_and_csv_files_stand_in_one_table(models, phantom_root, tmp_path):
    valid = predictions(phantom_root, 2.0, seed=5).query("split == 'valid'")
    valid[["path", "probability"]].to_csv(tmp_path / "colleague.csv", index=False)
    compared = comparison.compare(models, phantom_root, csv_files=[tmp_path / "colleague.csv"])
    assert list(compared.studies) == [
        *("good", "joint", "poor", "wrist"),
        *("ensemble, all 3", "ensemble, greedy", "colleague"),
    ]
    table = comparison.results(compared, reports.leaderboard(compared.studies, resamples=50))
    assert set(table.index) == set(compared.studies)
    assert table.loc["joint", "problem"] == "joint"
    assert table.loc["wrist", "problem"] == "binary, XR_WRIST"
    assert table.loc["colleague", "weights"] == table.loc["ensemble, all 3", "weights"] == "–"
    wrists = valid.query("body_part == 'XR_WRIST'")["study"].nunique()
    counts = {name: int(count.split()[0]) for name, count in table["studies"].items()}
    assert counts == dict.fromkeys(compared.studies, valid["study"].nunique()) | {"wrist": wrists}
    kappas = [float(cell.split()[0]) for cell in table["kappa"]]
    assert kappas == sorted(kappas, reverse=True)


def test_csv_files_of_other_splits_or_of_some_images_are_refused(models, phantom_root, tmp_path):
    file = tmp_path / "colleague.csv"
    table = predictions(phantom_root, 2.0)
    table[table["split"] == "tune"].to_csv(file, index=False)
    with pytest.raises(InputError, match=r"colleague\.csv: no rows of split 'valid'; found tune"):
        comparison.compare(models, phantom_root, csv_files=[file])
    first = table[(table["split"] == "valid") & (table["view"] == 1)]
    first.to_csv(file, index=False)
    with pytest.raises(InputError, match=r"colleague\.csv: .* lists 1 of \d images of MURA-v1\.1/"):
        comparison.compare(models, phantom_root, csv_files=[file])
    # a run of which images were left out, as they could not be read, is evaluated on the others
    partial = make_run(tmp_path / "models", "partial", table[table["view"] != 2])
    assert list(comparison.compare(tmp_path / "models", phantom_root).runs) == [partial.name]


def test_models_of_one_name_do_not_replace_each_other(models, phantom_root, tmp_path):
    files = [tmp_path / team / "predictions.csv" for team in ("one", "two", "three")]
    for skill, file in enumerate(files):
        file.parent.mkdir()
        predictions(phantom_root, skill).to_csv(file, index=False)
    studies = comparison.compare(models, phantom_root, ["good"], files).studies
    names = ["good", "predictions", "predictions.csv", "three/predictions.csv"]
    assert list(studies) == names
    areas = [reference.roc_auc_score(studies[n]["label"], studies[n]["probability"]) for n in names]
    assert areas[1] < areas[2] < areas[3]
    assert {tuple(table["split"].unique()) for table in studies.values()} == {("valid",)}
    with pytest.raises(InputError, match=r"one.predictions\.csv: named twice"):
        comparison.compare(models, phantom_root, ["good"], [files[0]] * 5)
    other = make_run(tmp_path / "models", "good", predictions(phantom_root, 1.0))
    with pytest.raises(InputError, match="good: 2 runs of this name"):
        comparison.compare(models, phantom_root, ["good", other.folder])


def test_blocks_hold_models_of_the_same_studies(phantom_root, tmp_path):
    for seed, part in enumerate((None, ["XR_FOREARM"], ["XR_HUMERUS"])):
        name = part[0] if part else "all"
        make_run(
            tmp_path,
            name,
            predictions(phantom_root, 2.0, seed, part),
            body_parts=part or BODY_PARTS,
        )
    compared = comparison.compare(tmp_path, phantom_root)
    assert compared.alike == ["all"]
    sizes = {name: len(table) for name, table in compared.studies.items()}
    table = pd.DataFrame({"all": [0.5, 0.6, 0.7]}, index=["XR_FOREARM", "all", "XR_HUMERUS"])
    blocks = comparison.blocks(compared, table)
    assert next(list(block.index) for block in blocks.values()) == ["all"]
    assert sorted(name for block in blocks.values() for name in block.index) == sorted(table.index)
    assert len(blocks) == 3
    for title, block in blocks.items():
        studies = f"({sizes[block.index[0]]:,} studies)"
        assert title.startswith(f"here: {PHANTOM}, validation {studies}")


def test_on_muras_whole_validation_set_published_blocks_are_of_the_same_studies(compared):
    different = "Blocks were measured on different studies"
    assert comparison.block_note(compared).startswith(different)
    kinds = [
        (part, label)
        for part, counts in STUDY_COUNTS["valid"].items()
        for label, count in enumerate(counts)
        for _ in range(count)
    ]
    studies = pd.DataFrame(kinds, columns=["body_part", "label"]).assign(split="valid")
    assert len(studies) == 1199

    def note(table, data="MURA-v1.1"):
        run = SimpleNamespace(environment={"data": {"name": data}})
        return comparison.block_note(
            comparison.Comparison(None, {"cnn": run}, {"cnn": table}, {}, "cnn", {}, {})
        )

    same = note(studies)
    assert "official validation set is of the same 1,199 studies" in same
    assert "the other published blocks are not" in same
    assert note(studies, "phantom").startswith(different)
    assert note(studies.head(1198)).startswith(different)
    assert note(studies.assign(label=1 - studies["label"])).startswith(different)


def test_choices_are_made_on_the_tune_patients(compared):
    assert compared.chosen == "good"
    assert list(compared.peers) == ["good", "joint", "poor"]
    assert compared.data == PHANTOM
    assert set(compared.members["ensemble, all 3"]) == {"good", "joint", "poor"}
    assert set(compared.members["ensemble, greedy"]) <= {"good", "joint", "poor"}
    assert set(compared.tune) == set(compared.studies)
    assert set(compared.tune["good"]["split"]) == {"tune"}
    # the ensemble is the mean of its members, study by study
    mean = np.mean([compared.studies[n]["probability"] for n in ("good", "joint", "poor")], axis=0)
    np.testing.assert_allclose(compared.studies["ensemble, all 3"]["probability"], mean)


def test_the_papers_ensemble_takes_the_five_with_the_lowest_tune_loss(phantom_root, tmp_path):
    for name, skill in zip("abcdef", (3.0, 0.2, 2.0, 2.5, 1.5, 1.0), strict=True):
        make_run(tmp_path, name, predictions(phantom_root, skill, seed=7))
    members = comparison.compare(tmp_path, phantom_root).members
    assert set(members["ensemble, five best"]) == set("acdef")


def test_one_run_alone_is_compared_with_nothing(models, phantom_root):
    alone = comparison.compare(models, phantom_root, names=["poor"])
    assert list(alone.studies) == ["poor"]
    assert alone.members == {}
    assert comparison.differences(alone.studies, "poor").empty


def test_differences_are_of_the_studies_that_both_predicted(compared):
    table = comparison.differences(compared.studies, "good", resamples=100)
    kappa = table[table["metric"] == "kappa"].set_index("model")
    assert set(kappa.index) == set(compared.studies) - {"good"}
    wrist = compared.studies["wrist"]
    assert kappa.loc["wrist", "studies"] == len(wrist)
    same = compared.studies["good"].set_index("study").loc[wrist["study"]]
    expected = [
        reference.cohen_kappa_score(table["label"], table["probability"] > 0.5)
        for table in (wrist, same)
    ]
    assert kappa.loc["wrist", "difference"] == pytest.approx(expected[0] - expected[1])
    np.testing.assert_allclose(kappa["p_holm"], evaluation.holm(kappa["p"].to_numpy()))


def test_other_choices_than_the_papers(compared, tmp_path):
    run = compared.runs["good"]
    study = compared.studies["good"]["study"].iloc[0]
    (tmp_path / "disputed.txt").write_text(f"# doubted\n{study}/\n")
    table = comparison.choices(run, disputed=tmp_path / "disputed.txt")
    assert list(table) == [
        *("mean of views", "max of views", "noisy or of views", "logit mean of views"),
        "mean, 1 disputed left out",
    ]
    assert len(table["mean, 1 disputed left out"]) == len(table["mean of views"]) - 1
    assert (table["max of views"]["probability"] >= table["mean of views"]["probability"]).all()
    assert len(comparison.choices(run)) == 4
    # the public list has studies of train as well
    train = "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive"
    (tmp_path / "disputed.txt").write_text(f"{study}\n{train}/,1\n")
    assert list(comparison.choices(run, disputed=tmp_path / "disputed.txt")) == list(table)
    (tmp_path / "disputed.txt").write_text(f"{train}\n")
    with pytest.raises(InputError, match=r"disputed\.txt: none of its 1 studies is among"):
        comparison.choices(run, disputed=tmp_path / "disputed.txt")


def test_runs_of_other_data_and_damaged_ones_are_left_out_by_name(phantom_root, tmp_path):
    table = predictions(phantom_root, 2.0)
    make_run(tmp_path, "right", table)
    elsewhere = make_run(tmp_path, "elsewhere", table)
    facts = read_json(elsewhere.folder / "environment.json")
    facts["data"]["name"] = "MURA-v1.1"
    write_json(elsewhere.folder / "environment.json", facts)
    renamed = table.assign(path=table["path"].str.replace("image1", "image91"))
    make_run(tmp_path, "larger", renamed)
    make_run(tmp_path, "relabelled", table.assign(label=1 - table["label"]))
    damaged = make_run(tmp_path, "damaged", table)
    broken = table.assign(probability=2.0)
    broken.to_csv(damaged.folder / "predictions.csv", index=False)
    (make_run(tmp_path, "torn", table).folder / "environment.json").write_text('{"data": ')
    (make_run(tmp_path, "torn-recipe", table).folder / "recipe.json").write_text("{}")
    compared = comparison.compare(tmp_path, phantom_root)
    assert list(compared.runs) == ["right"]
    reasons = compared.left_out
    assert reasons["elsewhere"] == f"was made on MURA-v1.1, not {PHANTOM}"
    unknown = (renamed["path"] != table["path"]).sum()
    assert reasons["larger"] == f"predicted {unknown:,} images that this {PHANTOM} does not list"
    assert reasons["relabelled"] == f"was made on a {PHANTOM} with other labels"
    assert "cannot be evaluated" in reasons["damaged"]
    assert "environment.json" in reasons["torn"] and "recipe.json" in reasons["torn-recipe"]
    assert "2.0" in reasons["damaged"]
    # without the data at hand, runs are still compared, but nothing can be shown
    blind = comparison.compare(tmp_path, tmp_path / "nowhere", names=["right"])
    assert (blind.root, blind.truth()) == (None, None)


def test_without_runs_it_says_how_to_make_one(phantom_root, tmp_path):
    with pytest.raises(InputError, match="mura train cnn"):
        comparison.compare(tmp_path, phantom_root)


def test_the_truth_table_comes_with_a_phantom(compared, phantom_root):
    truth = compared.truth()
    assert isinstance(truth, pd.DataFrame)
    assert set(truth["path"]) >= set(compared.runs["good"].predictions["path"])
