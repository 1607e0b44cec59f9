"""Learning curves and starts: means over seeds with intervals over patients and seeds."""

import numpy as np
import pytest
from made_runs import make_run, predictions

from mura import evaluation
from mura.evaluation import PredictionsError, metric_values
from mura.files import write_json
from mura.runs import Run


@pytest.fixture(scope="module")
def runs(phantom_root, tmp_path_factory):
    """Two seeds of each of four sizes; the more patients, the better."""
    models, made = tmp_path_factory.mktemp("curve"), []
    for patients, skill in {10: 0.5, 20: 1.0, 40: 2.0, 80: 3.0}.items():
        for seed in (0, 1):
            table = predictions(phantom_root, skill, seed)
            run = make_run(
                models, f"{patients}-{seed}", table, seed=seed, train_fraction=patients / 80
            )
            data = run.environment["data"] | {"patients": {"fit": patients}}
            write_json(run.folder / "environment.json", run.environment | {"data": data})
            made.append(Run.load(run.folder))
    return made


def auroc(run):
    studies = evaluation.run_studies(run)
    return metric_values(studies["label"], studies["probability"])["auroc"]


def test_a_point_is_the_mean_of_its_seeds_and_the_law_predicts_the_next(runs):
    points, law = evaluation.learning_curve(runs[::-1], resamples=300)
    assert list(points["patients"]) == [10, 20, 40, 80]
    assert list(points["seeds"]) == [2, 2, 2, 2]
    means = [np.mean([auroc(run) for run in runs[i : i + 2]]) for i in range(0, 8, 2)]
    np.testing.assert_allclose(points["value"], means)
    assert (points["low"] < points["value"]).all() and (points["value"] < points["high"]).all()
    law = law.set_index("quantity")
    slope, offset = np.polyfit(np.log(points["patients"]), np.log(1 - points["value"]), 1)
    assert law.loc["exponent", "value"] == pytest.approx(-slope)
    assert law.loc["exponent", "low"] < -slope < law.loc["exponent", "high"]
    twice = law.loc["AUROC with twice the patients"]
    assert twice["value"] == pytest.approx(1 - np.exp(offset) * 160**slope)
    assert points["law"].iloc[-1] < twice["value"] and twice["low"] < twice["high"] <= 1


def test_a_line_is_not_drawn_through_two_shares(runs):
    with pytest.raises(PredictionsError, match="needs 3 shares of the patients; here 2"):
        evaluation.learning_curve(runs[:4])


def test_a_start_is_compared_on_the_same_patients_over_the_seeds_of_both(runs):
    table = evaluation.start_table({"random": runs[:2], "phantom": runs[6:]}, "random", 300)
    gain = table.loc["phantom"]
    expected = np.mean([auroc(r) for r in runs[6:]]) - np.mean([auroc(r) for r in runs[:2]])
    assert gain["difference"] == pytest.approx(expected)
    assert gain["difference_low"] < gain["difference"] < gain["difference_high"]
    assert 0 < gain["p"] < 0.2 and np.isnan(table.loc["random", "p"])
    same = evaluation.start_table({"one": runs[:2], "other": runs[:2]}, "one", 300).loc["other"]
    assert same["difference"] == 0 and same["difference_low"] < 0 < same["difference_high"]


def test_the_interval_of_seeds_that_differ_is_wider_than_that_of_one(runs):
    """Runs of far apart sizes stand for seeds of much luck."""
    table = evaluation.start_table({"one": runs[6:7], "luck": [runs[0], runs[6]]}, "one", 300)
    width = table["high"] - table["low"]
    assert width["luck"] > 1.5 * width["one"]
