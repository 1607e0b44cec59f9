"""What is compared with what: runs of one data set, ensembles, CSV files, other choices."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_runs import PHANTOM, make_run, predictions
from sklearn import metrics as reference

from mura import evaluation
from mura.data import BODY_PARTS
from mura.evaluation.comparison import Comparison
from mura.evaluation.intervals import holm
from mura.files import InputError, write_json
from mura.phantom.counts import STUDY_COUNTS
from mura.runs import list_runs

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
    return evaluation.compare(models, phantom_root)


def test_runs_ensembles_and_csv_files_stand_in_one_table(models, phantom_root, tmp_path):
    valid = predictions(phantom_root, 2.0, seed=5).query("split == 'valid'")
    valid[["path", "probability"]].to_csv(tmp_path / "colleague.csv", index=False)
    compared = evaluation.compare(models, phantom_root, csv_files=[tmp_path / "colleague.csv"])
    assert list(compared.studies) == [
        *("good", "joint", "poor", "wrist"),
        *("ensemble, all 3", "ensemble, greedy", "colleague"),
    ]
    table = evaluation.results(compared, evaluation.model_table(compared.studies, resamples=50))
    assert set(table.index) == set(compared.studies)
    assert table.loc["joint", "problem"] == "joint"
    assert table.loc["wrist", "problem"] == "binary, XR_WRIST"
    assert table.loc["colleague", "weights"] == table.loc["ensemble, all 3", "weights"] == "–"
    wrists = valid.query("body_part == 'XR_WRIST'")["study"].nunique()
    counts = {name: int(count.split()[0]) for name, count in table["studies"].items()}
    assert counts == dict.fromkeys(compared.studies, valid["study"].nunique()) | {"wrist": wrists}
    kappas = [float(cell.split()[0]) for cell in table["kappa"]]
    assert kappas == sorted(kappas, reverse=True)


def test_seeds_are_one_row_with_their_mean_and_extremes(phantom_root, tmp_path):
    for seed in range(3):
        make_run(tmp_path, f"cnn-seed{seed}", predictions(phantom_root, 1.0, seed), seed=seed)
    compared = evaluation.compare(tmp_path, phantom_root)
    title = "cnn, 3 seeds"
    assert list(compared.studies) == ["cnn-seed0", title]
    assert set(compared.repeated) == {"cnn-seed1", "cnn-seed2"}
    table = evaluation.results(compared, evaluation.model_table(compared.studies, resamples=50))
    [row] = evaluation.repeat_table(compared.runs | compared.repeated, resamples=0).itertuples()
    assert table.loc[title, "auroc"].startswith(f"{row.value:.3f} [")
    alone = f"{row.mean:.3f} ({row.lowest:.3f} to {row.highest:.3f})"
    assert table.loc[title, "runs alone (AUROC)"] == alone
    named = evaluation.compare(tmp_path, phantom_root, [f"cnn-seed{seed}" for seed in range(3)])
    assert list(named.runs) == [f"cnn-seed{seed}" for seed in range(3)]
    assert title in named.studies


def test_csv_files_of_other_splits_labels_or_of_some_images_are_refused(
    models, phantom_root, tmp_path
):
    file = tmp_path / "colleague.csv"
    table = predictions(phantom_root, 2.0)
    table[table["split"] == "tune"].to_csv(file, index=False)
    with pytest.raises(InputError, match=r"colleague\.csv: no rows of split 'valid'; found tune"):
        evaluation.compare(models, phantom_root, csv_files=[file])
    first = table[(table["split"] == "valid") & (table["view"] == 1)]
    first.to_csv(file, index=False)
    with pytest.raises(InputError, match=r"colleague\.csv: .* lists 1 of \d images of MURA-v1\.1/"):
        evaluation.compare(models, phantom_root, csv_files=[file])
    valid = table[table["split"] == "valid"]
    valid.assign(label=1 - valid["label"]).to_csv(file, index=False)
    with pytest.raises(InputError, match=r"colleague\.csv: its labels contradict the data folder"):
        evaluation.compare(models, phantom_root, csv_files=[file])
    # a run of which images were left out, as they could not be read, is evaluated on the others
    partial = make_run(tmp_path / "models", "partial", table[table["view"] != 2])
    assert list(evaluation.compare(tmp_path / "models", phantom_root).runs) == [partial.name]


def test_models_of_one_name_do_not_replace_each_other(models, phantom_root, tmp_path):
    files = [tmp_path / team / "predictions.csv" for team in ("one", "two", "three")]
    for skill, file in enumerate(files):
        file.parent.mkdir()
        predictions(phantom_root, skill).to_csv(file, index=False)
    studies = evaluation.compare(models, phantom_root, ["good"], files).studies
    names = ["good", "predictions", "predictions.csv", "three/predictions.csv"]
    assert list(studies) == names
    areas = [reference.roc_auc_score(studies[n]["label"], studies[n]["probability"]) for n in names]
    assert areas[1] < areas[2] < areas[3]
    assert {tuple(table["split"].unique()) for table in studies.values()} == {("valid",)}
    with pytest.raises(InputError, match=r"one.predictions\.csv: named twice"):
        evaluation.compare(models, phantom_root, ["good"], [files[0]] * 5)
    other = make_run(tmp_path / "models", "good", predictions(phantom_root, 1.0))
    with pytest.raises(InputError, match="good: 2 runs of this name"):
        evaluation.compare(models, phantom_root, ["good", other.folder])


def test_blocks_hold_models_of_the_same_studies(phantom_root, tmp_path):
    for seed, part in enumerate((None, ["XR_FOREARM"], ["XR_HUMERUS"])):
        name = part[0] if part else "all"
        make_run(
            tmp_path,
            name,
            predictions(phantom_root, 2.0, seed, part),
            body_parts=part or BODY_PARTS,
        )
    compared = evaluation.compare(tmp_path, phantom_root)
    assert compared.alike == ["all"]
    sizes = {name: len(table) for name, table in compared.studies.items()}
    table = pd.DataFrame({"all": [0.5, 0.6, 0.7]}, index=["XR_FOREARM", "all", "XR_HUMERUS"])
    blocks = evaluation.blocks(compared, table)
    assert next(list(block.index) for block in blocks.values()) == ["all"]
    assert sorted(name for block in blocks.values() for name in block.index) == sorted(table.index)
    assert len(blocks) == 3
    for title, block in blocks.items():
        studies = f"({sizes[block.index[0]]:,} studies)"
        assert title.startswith(f"here: {PHANTOM}, validation {studies}")


def test_on_muras_whole_validation_set_published_blocks_are_of_the_same_studies(compared):
    different = "Blocks were measured on different studies"
    assert evaluation.block_note(compared).startswith(different)
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
        return evaluation.block_note(
            Comparison(None, {"cnn": run}, {"cnn": table}, {}, "cnn", {}, {})
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
    assert set(compared.facts().index) >= set(compared.runs["good"].predictions["study"])
    # the ensemble is the mean of its members, study by study
    mean = np.mean([compared.studies[n]["probability"] for n in ("good", "joint", "poor")], axis=0)
    np.testing.assert_allclose(compared.studies["ensemble, all 3"]["probability"], mean)


def test_the_papers_ensemble_takes_the_five_with_the_lowest_tune_loss(phantom_root, tmp_path):
    for name, skill in zip("abcdef", (3.0, 0.2, 2.0, 2.5, 1.5, 1.0), strict=True):
        make_run(tmp_path, name, predictions(phantom_root, skill, seed=7))
    members = evaluation.compare(tmp_path, phantom_root).members
    assert set(members["ensemble, five best"]) == set("acdef")


def test_one_run_alone_is_compared_with_nothing(models, phantom_root):
    alone = evaluation.compare(models, phantom_root, names=["poor"])
    assert list(alone.studies) == ["poor"]
    assert alone.members == {}
    assert evaluation.differences(alone.studies, "poor").empty


def test_differences_are_of_the_studies_that_both_predicted(compared):
    table = evaluation.differences(compared.studies, "good", resamples=100)
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
    np.testing.assert_allclose(kappa["p_holm"], holm(kappa["p"].to_numpy()))


def test_other_choices_than_the_papers(compared, tmp_path):
    run = compared.runs["good"]
    study = compared.studies["good"]["study"].iloc[0]
    (tmp_path / "disputed.txt").write_text(f"# doubted\n{study}/\n")
    table = evaluation.choices(run, disputed=tmp_path / "disputed.txt")
    assert list(table) == [
        *("mean of views", "max of views", "noisy or of views", "logit mean of views"),
        "mean, 1 disputed left out",
    ]
    assert len(table["mean, 1 disputed left out"]) == len(table["mean of views"]) - 1
    assert (table["max of views"]["probability"] >= table["mean of views"]["probability"]).all()
    assert len(evaluation.choices(run)) == 4
    # the public list has studies of train as well
    train = "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive"
    (tmp_path / "disputed.txt").write_text(f"{study}\n{train}/,1\n")
    assert list(evaluation.choices(run, disputed=tmp_path / "disputed.txt")) == list(table)
    (tmp_path / "disputed.txt").write_text(f"{train}\n")
    with pytest.raises(InputError, match=r"disputed\.txt: none of the .* on this list of 1;"):
        evaluation.choices(run, disputed=tmp_path / "disputed.txt")


def made_on(run, name):
    """Change the data set that a run says it was made on."""
    facts = run.environment | {"data": run.environment["data"] | {"name": name}}
    write_json(run.folder / "environment.json", facts)


def test_runs_of_other_data_and_damaged_ones_are_left_out_by_name(phantom_root, tmp_path):
    table = predictions(phantom_root, 2.0)
    make_run(tmp_path, "right", table)
    made_on(make_run(tmp_path, "elsewhere", table), "MURA-v1.1")
    renamed = table.assign(path=table["path"].str.replace("image1", "image91"))
    make_run(tmp_path, "larger", renamed)
    make_run(tmp_path, "relabelled", table.assign(label=1 - table["label"]))
    damaged = make_run(tmp_path, "damaged", table)
    table.assign(probability=2.0).to_csv(damaged.folder / "predictions.csv", index=False)
    (make_run(tmp_path, "torn", table).folder / "environment.json").write_text('{"data": ')
    other = make_run(tmp_path, "other", table)
    facts = other.environment | {"parameters": "many"}
    write_json(other.folder / "environment.json", facts)
    compared = evaluation.compare(tmp_path, phantom_root)
    assert list(compared.runs) == ["right"]
    reasons = compared.left_out
    assert reasons["elsewhere"] == f"was made on MURA-v1.1, not {PHANTOM}"
    unknown = (renamed["path"] != table["path"]).sum()
    assert reasons["larger"] == f"predicted {unknown:,} images that this {PHANTOM} does not list"
    assert reasons["relabelled"] == f"was made on a {PHANTOM} with other labels"
    for name, file in (("damaged", "predictions.csv"), ("torn", "environment.json")):
        assert reasons[name].startswith(f"cannot be evaluated: {tmp_path / name / file}")
    assert "no usable parameters" in reasons["other"]
    assert evaluation.best_run(tmp_path, phantom_root).name == "right"
    # without the data at hand, runs are still compared, but nothing can be shown
    blind = evaluation.compare(tmp_path, tmp_path / "nowhere", names=["right"])
    assert (blind.root, blind.facts()) == (None, None)


def test_the_reference_run_is_the_best_on_tune(phantom_root, tmp_path):
    for choose in (evaluation.best_run, evaluation.compare):
        with pytest.raises(InputError, match="no complete runs yet; `mura train cnn` makes one"):
            choose(tmp_path, phantom_root)
    make_run(tmp_path, "able", predictions(phantom_root, 3.0))
    make_run(tmp_path, "newest", predictions(phantom_root, 0.0), finished="2026-03-01")
    # on its valid patients alone or on one body part it may be as good as it likes
    lucky, sure = predictions(phantom_root, 0.0), predictions(phantom_root, 9.0)
    lucky.loc[lucky["split"] == "valid", "probability"] = sure["probability"]
    make_run(tmp_path, "lucky", lucky)
    make_run(tmp_path, "wrist", predictions(phantom_root, 9.0, body_parts=WRIST))
    assert evaluation.best_run(tmp_path, phantom_root).name == "able"
    (tmp_path / "able" / "predictions.csv").write_text("damaged")
    assert evaluation.best_run(tmp_path, phantom_root).name in ("lucky", "newest")
    for run in list_runs(tmp_path):
        (run.folder / "predictions.csv").write_text("damaged")
    with pytest.raises(InputError, match="cannot be evaluated"):
        evaluation.best_run(tmp_path, phantom_root)


def test_the_reference_run_is_one_of_the_data_at_hand(phantom_root, tmp_path):
    models, elsewhere, own = (tmp_path / name for name in ("models", "MURA-v1.1", "own"))
    make_run(models, "drawn", predictions(phantom_root, 1.0), finished="2026-01-01")
    table = predictions(phantom_root, 9.0)
    made_on(make_run(models, "radiographs", table, finished="2025-01-01"), "MURA-v1.1")
    made_on(make_run(models, "undated", table, finished=None), "another")
    elsewhere.mkdir()
    own.mkdir()
    # whichever is better, so that an example's files are there
    assert evaluation.best_run(models, phantom_root).name == "drawn"
    assert evaluation.best_run(models, elsewhere).name == "radiographs"
    # without such a folder, or a run of it, of the data of the last finished one
    assert evaluation.best_run(models, tmp_path / "nowhere" / "MURA-v1.1").name == "drawn"
    assert evaluation.best_run(models, own).name == "drawn"


def test_faulty_lists_at_hand_do_not_hide_the_runs(phantom_root, tmp_path):
    root = shutil.copytree(phantom_root.parent, tmp_path / "data") / phantom_root.name
    make_run(tmp_path / "models", "good", predictions(phantom_root, 1.0))
    labels = root / "valid_labeled_studies.csv"
    labels.write_text(labels.read_text().replace(",1", ",7"))
    assert evaluation.best_run(tmp_path / "models", root).name == "good"
