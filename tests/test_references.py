"""The tracked reference runs, and the tables that are made from them."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from made_runs import make_run, predictions

from mura import evaluation
from mura.evaluation.references import SHORTCUTS
from mura.runs import list_references, results_folder

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="module")
def results(phantom_root, tmp_path_factory):
    """Two seeds of one network, another one from photographs, and its control."""
    results = tmp_path_factory.mktemp("results")
    folder = results / "phantom"
    for seed in (0, 1):
        make_run(folder, f"cnn-seed{seed}", predictions(phantom_root, 3.0, seed), seed=seed)
    settings = {"architecture": "vgg16", "epochs": 7}
    better, worse = predictions(phantom_root, 4.0, 2), predictions(phantom_root, 1.0, 3)
    make_run(folder, "vgg16", better, **settings, weights="photographs")
    make_run(folder / "controls", "vgg16", worse, **settings)
    table = pd.DataFrame({"patient": list("aab"), "body_part": "XR_WRIST", "finding": "line"})
    table = table.assign(hit=[1.0, 0.0, 1.0], energy=0.5, chance=0.25)
    table.to_csv(folder / "vgg16" / "pointing.csv", index=False)
    return results


def test_each_network_has_a_row_and_its_seeds_another(results):
    table = evaluation.reference_table("phantom", results, resamples=50)
    assert list(table.index) == ["cnn", "vgg16", "cnn, 2 seeds"]
    assert table.loc["vgg16", "pointing game (chance)"].endswith("(0.250)")
    assert table.loc["vgg16", "pointing game (chance)"].startswith("0.667 [")
    assert list(table["runs alone"].astype(bool)) == [False, False, True]
    first = list_references("phantom", results)[0]
    whole = evaluation.model_table({"m": evaluation.run_studies(first)}, ["auroc"], 50)
    assert table.loc["cnn", "AUROC"] == evaluation.formatted(whole)["auroc"][0]


def test_shortcuts_measured_where_the_data_were_stand_in_the_table(results):
    file = results_folder("phantom", results) / SHORTCUTS
    rows = [("cnn", "all", 0.8, 0.7, 0.9), ("body part alone", "all", 0.6, 0.5, 0.7)]
    pd.DataFrame(rows, columns=["model", "of", "value", "low", "high"]).to_csv(file, index=False)
    table = evaluation.reference_table("phantom", results, resamples=0)
    file.unlink()
    assert table.loc["cnn", "AUROC, all"] == "0.800 [0.700, 0.900]"
    assert list(table.loc["body part alone"]).count("") == table.shape[1] - 1
    assert "κ" not in table


def test_a_control_is_compared_with_the_run_of_its_recipe(results):
    table = evaluation.pretraining_table("phantom", results, resamples=200)
    assert list(table.index) == ["vgg16"]
    value, interval = table.loc["vgg16", "difference"].split(" ", 1)
    low, high = map(float, interval.strip("[]").split(", "))
    assert low < float(value) < high and float(value) > 0
    assert table.loc["vgg16", "photographs"] > table.loc["vgg16", "random"]


def test_controls_differ_from_a_reference_run_in_their_start_alone():
    import reference

    for name in ("phantom", "fracatlas"):
        plan = reference.plan(name, Path("backbones"))
        controls = [run for run in plan if run.startswith("controls/")]
        assert len(controls) == 2
        for control in controls:
            same = [r for r in plan.values() if r.replace(weights=None) == plan[control]]
            assert len(same) == 2, control


def test_readmes_tables_are_those_of_the_results():
    import tables

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.with_tables(text) == text, "make tables"


def test_the_shortcuts_were_measured_on_the_answers_that_are_kept():
    kept = pd.read_csv(results_folder("FracAtlas") / SHORTCUTS).query("of == 'all'")
    kept = kept.set_index("model")["value"]
    runs = {run.folder.name: run for run in list_references("FracAtlas")}
    for title, (_, studies) in evaluation.rows_of(runs).items():
        values = evaluation.metric_values(studies["label"], studies["probability"])
        assert kept[title] == pytest.approx(values["auroc"], abs=1e-4), "make reference"
