"""Decisions: bounds that hold, thresholds that are those of the evaluation."""

import numpy as np
import pandas as pd
import pytest

from mura.evaluation import PredictionsError, coverage_table, fit_decisions
from mura.evaluation.decisions import POINTS, calibrated, conformal_bounds, decide


def studies(count: int, seed: int = 0, skill: float = 2.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, count)
    odds = skill * (label - 0.5) + random.normal(size=count)
    facts = {"study": np.arange(count), "patient": np.arange(count) // 2, "label": label}
    return pd.DataFrame(facts | {"probability": 1 / (1 + np.exp(-odds))})


@pytest.mark.parametrize(("skill", "least"), [(0.5, 0.075), (2.0, 0.075), (6.0, 0.0)])  # a gap
def test_of_each_class_at_most_a_tenth_is_called_the_other(skill, least):
    shares = []
    for seed in range(200):
        bounds = conformal_bounds(studies(100, seed, skill))
        new = studies(100, 1000 + seed, skill)
        said = decide(new["probability"].to_numpy(), bounds)
        wrong = {0: said == "abnormal", 1: said == "normal"}
        shares.append([wrong[label][new["label"] == label].mean() for label in (0, 1)])
    shares = np.mean(shares, axis=0)
    assert least <= shares.min() and shares.max() <= 0.105


def test_the_bounds_are_ranks_of_the_tune_studies():
    """Nineteen of a class: the second lowest (highest) is the first that is still plausible."""
    abnormal, normal = np.linspace(0.3, 0.9, 19), np.linspace(0.1, 0.6, 19)
    table = pd.DataFrame({"label": [1] * 19 + [0] * 19, "probability": [*abnormal, *normal]})
    low, high = conformal_bounds(table)
    assert low < abnormal[1] <= np.nextafter(low, 1) and high == normal[-2]
    said = decide(np.array([abnormal[1], low, high, np.nextafter(high, 1)]), [low, high])
    assert said.tolist() == ["not sure", "normal", "not sure", "abnormal"]


def test_a_handful_of_studies_excludes_nothing():
    table = pd.DataFrame({"label": [0, 1] * 8, "probability": np.linspace(0, 1, 16)})
    assert set(decide(np.linspace(0, 1, 11), conformal_bounds(table))) == {"not sure"}


def test_decisions_are_calibrated_and_have_every_operating_point():
    table = studies(2000)
    decisions = fit_decisions(table.assign(probability=table["probability"] ** 3))
    assert tuple(decisions["points"]) == POINTS
    assert (decisions["studies"], decisions["abnormal"]) == (2000, table["label"].sum())
    for low, high in decisions["points"].values():
        assert low <= high
    mean = calibrated(table["probability"].to_numpy() ** 3, decisions).mean()
    assert mean == pytest.approx(table["label"].mean(), abs=0.01)


def test_coverage_is_told_with_intervals_and_one_class_is_refused():
    decisions, new = fit_decisions(studies(400)), studies(400, seed=1)
    table = coverage_table(new, decisions, resamples=200).set_index("measure")
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert table["studies"]["covered, normal"] == (new["label"] == 0).sum()
    answered = table["value"]["answered"] * 400
    assert table["studies"]["right where answered"] == pytest.approx(answered)
    with pytest.raises(PredictionsError, match="of one class"):
        fit_decisions(new[new["label"] == 1])
