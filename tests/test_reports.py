"""Tables and model cards say what the run folders hold."""

import json

import numpy as np
import pytest
from made_runs import PHANTOM, make_run, predictions
from sklearn import metrics as reference

from mura import data, evaluation
from mura.evaluation import PredictionsError
from mura.training.model_card import model_card


@pytest.fixture(scope="module")
def run(phantom_root, tmp_path_factory):
    table = predictions(phantom_root, 2.0)
    return make_run(tmp_path_factory.mktemp("models"), "cnn", table)


@pytest.fixture(scope="module")
def studies(run):
    return evaluation.run_studies(run)


def test_leaked_patients_stop_the_evaluation(run, phantom_root, tmp_path):
    leaky = make_run(tmp_path, "leaky", run.predictions)
    patient = run.predictions.query("split == 'valid'")["patient"].iloc[0]
    (leaky.folder / "split.csv").write_text(f"patient,part\n{patient},fit\n")
    with pytest.raises(PredictionsError, match=f"leaky: {patient} evaluated"):
        evaluation.run_studies(leaky)


def test_leaderboard_is_formatted_by_model_and_by_body_part(studies):
    few = evaluation.body_part_intervals(evaluation.model_table({"a": studies}, resamples=5))
    assert few.loc["XR_WRIST", "a"] == "too few" != few.loc["all", "a"]
    studies = studies.assign(views=10)
    table = evaluation.model_table({"b": studies, "a": studies}, resamples=50)
    wide = evaluation.formatted(table)
    assert list(wide["model"]) == ["b", "a"]
    kappa = reference.cohen_kappa_score(studies["label"], studies["probability"] > 0.5)
    assert wide.loc[0, "kappa"] == f"{kappa:.3f}" == "1.000"  # perfect: no interval
    counts = f"{len(studies)} ({studies['label'].sum()} abnormal)"
    assert wide["studies"].tolist() == [counts] * 2
    parts = evaluation.by_body_part(table)
    wrist = studies[studies["body_part"] == "XR_WRIST"]
    expected = reference.cohen_kappa_score(wrist["label"], wrist["probability"] > 0.5)
    assert parts.loc["a", "XR_WRIST"] == pytest.approx(expected)
    assert list(parts.columns[-2:]) == ["macro", "all"]
    cells = evaluation.body_part_intervals(table.assign(low=0.25, high=0.875))
    assert list(cells.columns) == ["studies", "b", "a"]
    assert cells.loc["all", "studies"] == counts
    assert cells.loc["XR_WRIST", "studies"] == f"{len(wrist)} ({wrist['label'].sum()} abnormal)"
    assert list(cells.index) == list(parts.columns)
    assert cells.loc["XR_WRIST", "a"] == f"{expected:.2f} [0.25, 0.88]"
    both = evaluation.model_table({"all": studies, "wrist": wrist}, resamples=5)
    cells = evaluation.body_part_intervals(both, "auroc")
    assert list(cells.columns) == ["all", "wrist"]  # of different studies
    assert cells.loc["XR_ELBOW", "wrist"] == "–"
    assert cells.loc["XR_WRIST", "wrist"] == cells.loc["all", "wrist"] != "–"
    named = evaluation.body_part_intervals(
        evaluation.model_table({"studies": studies}, resamples=5)
    )
    assert list(named.columns) == ["studies", "studies"]  # whatever a model is called
    one_class = studies[studies["label"] == 1]
    undefined = evaluation.formatted(evaluation.model_table({"a": one_class}, resamples=5))
    assert undefined.loc[0, "auroc"] == "undefined"
    unsure = table.assign(low=float("nan"), high=float("nan"))
    assert evaluation.formatted(unsure).loc[0, "kappa"] == f"{kappa:.3f}"


def test_a_csv_of_other_splits_is_not_taken_for_the_asked_one(phantom_root):
    table = predictions(phantom_root, 1.0).astype({"label": int})
    valid = table[table["split"] == "valid"].reset_index(drop=True)
    assert set(evaluation.csv_studies(table)["split"]) == {"valid"}
    # told by a column, whatever it calls the split, or by the folder
    for other in ("tune", "validation"):
        with pytest.raises(
            PredictionsError, match=rf"mine\.csv: no rows of split 'valid'.* {other}\."
        ):
            evaluation.csv_studies(valid.assign(split=other), name="mine.csv")
    folder = valid.assign(study=valid["study"].str.replace("/valid/", "/radiographs/"))
    untold = folder.assign(split="radiographs")
    assert len(evaluation.csv_studies(untold)) == valid["study"].nunique()


def test_a_study_of_a_csv_is_the_mean_of_all_its_images_or_refused(phantom_root):
    manifest = data.read(phantom_root)
    valid = predictions(phantom_root, 1.0).astype({"label": int}).query("split == 'valid'")
    example = valid.loc[valid.groupby("study")["path"].transform("size") == 3, "study"].iloc[0]
    lacking = valid[(valid["study"] != example) | (valid["view"] == 1)]
    count = valid["study"].nunique()
    message = f"mine.csv: 1 of {count} .* lists 1 of 3 images of {example}"
    with pytest.raises(PredictionsError, match=message):
        evaluation.csv_studies(lacking, manifest, "mine.csv")
    assert len(evaluation.csv_studies(lacking)) == count  # without a manifest nothing is missing
    # fewer studies are no fault, and a row for a whole study lacks nothing
    whole = valid.drop_duplicates("study").assign(view=0)
    for table in (valid, whole, valid[valid["study"] != example]):
        assert len(evaluation.csv_studies(table, manifest)) == table["study"].nunique()


def test_facts_and_results_stand_in_one_row_per_run(run):
    [row] = evaluation.run_facts([run]).to_dict("records")
    assert (row["model"], row["problem"], row["data"]) == ("cnn", "binary", PHANTOM)
    assert (row["fit_images"], row["seconds"], row["images_per_second"]) == (60, 12.0, 100.0)
    [table] = evaluation.results_table([run]).to_dict("records")
    assert {"kappa", "auroc"} <= set(table) and table.items() >= row.items()


def test_json_holds_every_value_and_null_where_undefined(studies):
    table = evaluation.model_table(
        {"cnn": studies[studies["label"] == 0]}, ["auroc", "accuracy"], resamples=20
    )
    content = json.loads(json.dumps(evaluation.to_json(table), allow_nan=False))
    everything = content["cnn"]["all"]
    assert everything["auroc"]["value"] is None
    assert everything["auroc"]["note"] == "no abnormal studies"
    normal = studies[studies["label"] == 0]
    assert everything["accuracy"]["value"] == pytest.approx((normal["probability"] <= 0.5).mean())
    assert everything["accuracy"]["studies"] == len(normal)


def test_the_model_card_says_what_a_reader_must_know(run, studies):
    card = (run.folder / "README.md").read_text()
    counts = run.predictions["split"].value_counts()
    for expected in (
        "# Model card: cnn",
        "**not a medical device**",
        f"{counts['valid']} valid",
        "| Weights it started from | random |",
        "| Input | uint8 gray, 32 x 32 pixels, padded |",
        "| Epochs | 3, the best on the tune part was 2 |",
        "synthetic images",
        "learning_rate: 0.001",
        "## Limits",
    ):
        assert expected in card, expected
    area = reference.roc_auc_score(studies["label"], studies["probability"])
    [row] = [line for line in card.splitlines() if line.startswith("| all |")]
    assert f"{area:.3f} [" in row
    assert f"| {len(studies)} ({studies['label'].sum()} abnormal) |" in row
    called = studies["probability"] > 0.5
    sensitivity = called[studies["label"] == 1].mean()
    assert f"| {sensitivity:.3f} [" in row
    facts = run.environment | {"data": run.environment["data"] | {"name": "MURA-v1.1"}}
    unlabelled = evaluation.run_metrics(run.predictions.assign(label=None))
    other = model_card("x", run.recipe, facts, unlabelled)
    assert "synthetic" not in other
    assert "No labelled studies" in other


def test_the_limits_in_a_card_are_those_of_its_run(run):
    def limits(data, **recipe):
        facts = run.environment | {"data": run.environment["data"] | {"name": data}}
        card = model_card("x", run.recipe | recipe, facts, run.metrics)
        return card.split("## Limits")[1].split("## Recipe")[0]

    mura = limits("MURA-v1.1", weighted_loss=True)
    assert "labels of MURA-v1.1 call 1, which miss findings (Oakden-Rayner 2019)" in mura
    assert "too high where fewer are abnormal" in mura
    assert "another hospital" in mura
    fractures = limits("MURA-fractures", body_parts=["XR_WRIST"], weighted_loss=False)
    assert "labels of MURA-fractures call 1. " in fractures
    assert "- Only XR_WRIST; no other anatomy" in fractures
    assert "not calibrated. The table's operating point" in fractures
    assert "another hospital" not in limits("phantom")


def test_a_split_without_labels_is_told_from_one_that_is_not_there(phantom_root, tmp_path):
    table = predictions(phantom_root, 1.0)
    table.loc[table["split"] == "valid", "label"] = np.nan
    unlabelled = make_run(tmp_path, "cnn", table)
    with pytest.raises(PredictionsError, match=r"no study of split 'valid' is labelled"):
        evaluation.run_studies(unlabelled)
    with pytest.raises(PredictionsError, match="no rows of split 'test'"):
        evaluation.run_studies(unlabelled, "test")
