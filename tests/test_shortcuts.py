"""What an AUROC owes to the body part, or to studies that a shortcut marks."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mura import evaluation
from mura.evaluation.shortcuts import body_part_alone, shortcut_table, stratified_auroc


@pytest.fixture
def studies():
    """Hands are mostly abnormal and legs mostly normal; the model knows this, and a little more."""
    random = np.random.default_rng(0)
    part = np.repeat(["hand", "leg"], 60)
    label = (random.random(120) < np.where(part == "hand", 0.7, 0.2)).astype(int)
    odds = np.where(part == "hand", 1.0, -1.0) + 0.5 * label + random.normal(0, 0.5, 120)
    return pd.DataFrame(
        {
            "study": [f"s{number}" for number in range(120)],
            "body_part": part,
            "patient": [f"p{number // 2}" for number in range(120)],
            "split": "valid",
            "label": label,
            "probability": 1 / (1 + np.exp(-odds)),
            "views": 1,
        }
    )


def by_pairs(table):
    pairs = itertools.product(
        table.loc[table["label"] == 1, "probability"], table.loc[table["label"] == 0, "probability"]
    )
    return [(one > other) + (one == other) / 2 for one, other in pairs]


def test_one_stratum_gives_the_usual_auroc_and_its_interval(studies):
    [row] = (
        evaluation.model_table({"m": studies}, ["auroc"], 200).query("group == 'all'").itertuples()
    )
    assert stratified_auroc(studies, None, 200) == pytest.approx((row.value, row.low, row.high))


def test_within_strata_only_pairs_of_one_stratum_count(studies):
    pairs = [pair for _, table in studies.groupby("body_part") for pair in by_pairs(table)]
    value, low, high = stratified_auroc(studies, studies["body_part"], 200)
    assert value == pytest.approx(np.mean(pairs)) and low < value < high
    assert value < stratified_auroc(studies, None, 1)[0]  # the body part helped
    one_class = studies.assign(label=(studies["body_part"] == "hand").astype(int))
    assert np.isnan(stratified_auroc(one_class, studies["body_part"], 5)[0])


def test_the_table_sets_shortcuts_beside_the_model(studies):
    marked = studies.loc[studies["label"] == 1, "study"].head(10)
    train = pd.DataFrame({"body_part": list("hhll"), "label": [1, 1, 0, 1]})
    train["body_part"] = train["body_part"].map({"h": "hand", "l": "leg"})
    alone = body_part_alone(studies, train)
    assert alone.groupby("body_part")["probability"].unique().map(list).to_dict() == {
        "hand": [1.0],
        "leg": [0.5],
    }
    both = {"body part alone": alone, "m": studies}
    table = shortcut_table(both, {"without hardware": marked}, resamples=100)
    found = table.set_index(["model", "of"])
    assert list(found.index) == [
        *(("body part alone", of) for of in ("all", "without hardware")),
        *(("m", of) for of in ("all", "within body parts", "without hardware")),
    ]
    assert found.loc[("body part alone", "all"), "value"] == pytest.approx(np.mean(by_pairs(alone)))
    assert found.loc[("m", "without hardware"), "studies"] == 110
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
