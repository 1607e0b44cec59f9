"""Metrics against scikit-learn and by hand; the bootstrap against a plain loop."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as reference

from mura import evaluation
from mura.data import BODY_PART_DTYPE, BODY_PARTS
from mura.evaluation.metrics import WeightedMetrics
from mura.evaluation.subgroups import phantom_facts


def random_studies(seed: int, count: int = 300, patients: int = 180, skill: float = 1.2):
    """Studies whose patients share a disposition, so that clusters matter."""
    random = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(patients), random.integers(patients, size=count - patients)])
    part = random.integers(len(BODY_PARTS), size=count)
    label = (random.normal(size=count) + random.normal(size=patients)[owner] > 0).astype(int)
    logit = skill * (label - 0.5) + random.normal(size=patients)[owner] + random.normal(size=count)
    names = np.array(BODY_PARTS)[part]
    return pd.DataFrame(
        {
            "study": [
                f"MURA-v1.1/valid/{names[i]}/patient{owner[i]:05d}/study{i}" for i in range(count)
            ],
            "body_part": pd.Series(names).astype(BODY_PART_DTYPE),
            "patient": [f"patient{index:05d}" for index in owner],
            "split": "valid",
            "label": label,
            "probability": 1 / (1 + np.exp(-logit)),
            "views": random.integers(1, 5, size=count),
        }
    )


def scikit_learn(labels, probabilities, threshold):
    called = probabilities > threshold
    return {
        "kappa": reference.cohen_kappa_score(labels, called),
        "auroc": reference.roc_auc_score(labels, probabilities),
        "average_precision": reference.average_precision_score(labels, probabilities),
        "accuracy": reference.accuracy_score(labels, called),
        "sensitivity": reference.recall_score(labels, called),
        "specificity": reference.recall_score(labels, called, pos_label=0),
        "ppv": reference.precision_score(labels, called),
        "npv": reference.precision_score(labels, called, pos_label=0),
        "f1": reference.f1_score(labels, called),
        "brier": reference.brier_score_loss(labels, probabilities),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [None, 1])  # with one decimal most probabilities are tied
def test_metrics_equal_scikit_learn(seed, decimals):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, size=137)
    probabilities = random.beta(1 + labels, 2 - labels)
    if decimals is not None:
        probabilities = probabilities.round(decimals)
    for threshold in (0.5, 0.2):
        ours = evaluation.metric_values(labels, probabilities, threshold)
        for name, value in scikit_learn(labels, probabilities, threshold).items():
            assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_weights_equal_repeated_studies():
    random = np.random.default_rng(0)
    labels, patients = random.integers(0, 2, size=60), random.integers(0, 25, size=60)
    patients = np.unique(patients, return_inverse=True)[1]
    probabilities = random.uniform(size=60).round(1)
    weights = random.integers(0, 4, size=(patients.max() + 1, 20))
    evaluate = WeightedMetrics(labels, probabilities, patients)
    values = evaluate(weights.astype(np.float32))
    for column in range(20):
        repeat = weights[patients, column]
        again = evaluation.metric_values(
            np.repeat(labels, repeat), np.repeat(probabilities, repeat)
        )
        np.testing.assert_allclose(values[:, column], list(again.values()), atol=1e-6)


def test_expected_calibration_error_by_hand():
    # Bin (0, .1]: mean .05, none abnormal. (.2, .3]: mean .25, half. (.9, 1]: mean 1, both.
    probabilities = np.array([0.0, 0.1, 0.25, 0.25, 1.0, 1.0])
    labels = np.array([0, 0, 0, 1, 1, 1])
    by_hand = (2 * 0.05 + 2 * 0.25 + 2 * 0.0) / 6
    values = evaluation.metric_values(labels, probabilities, metrics=("ece",))
    assert values["ece"] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("labels", "undefined"),
    [
        ([0, 0, 0], {"auroc", "average_precision", "sensitivity"}),
        ([1, 1, 1], {"auroc", "specificity"}),
    ],
)
def test_metrics_of_one_class_are_nan(labels, undefined):
    values = evaluation.metric_values(labels, [0.2, 0.6, 0.4])
    assert {name for name, value in values.items() if np.isnan(value)} == undefined


def test_a_study_at_the_threshold_is_normal():
    assert evaluation.metric_values([0, 1], [0.5, 0.51], metrics=("accuracy",)) == {"accuracy": 1}


def slow_bootstrap(studies, group, metric, resamples):
    """Draw patients one by one, pool their studies, call scikit-learn."""
    random = np.random.default_rng(1)
    rows = [table for _, table in studies.groupby("patient")]
    for _ in range(resamples):
        drawn = pd.concat([rows[i] for i in random.integers(len(rows), size=len(rows))])
        drawn = drawn if group == "all" else drawn[drawn["body_part"] == group]
        if metric == "auroc":
            yield reference.roc_auc_score(drawn["label"], drawn["probability"])
        else:
            yield reference.cohen_kappa_score(drawn["label"], drawn["probability"] > 0.5)


@pytest.mark.parametrize(("group", "metric"), [("all", "kappa"), ("XR_WRIST", "auroc")])
def test_bootstrap_agrees_with_a_plain_loop(group, metric):
    studies = random_studies(3)
    slow = np.array(list(slow_bootstrap(studies, group, metric, 600)))
    fast = evaluation.bootstrap(
        {"": studies}, (metric,), groups=evaluation.body_part_groups(studies), resamples=6000
    )
    fast = fast.resampled[0, fast.groups.index(group), 0]
    fast = fast[~np.isnan(fast)]
    # Two samples of one distribution: mean and spread within four standard errors, same shape.
    error = slow.std() * np.sqrt(1 / len(slow) + 1 / len(fast))
    assert abs(slow.mean() - fast.mean()) < 4 * error
    assert abs(slow.std() / fast.std() - 1) < 4 / np.sqrt(2 * len(slow))
    assert stats.ks_2samp(slow, fast).pvalue > 1e-3


def test_patient_weights_draw_as_many_patients_as_there_are():
    chunks = list(evaluation.patient_weights(40, 700, seed=5))
    weights = np.concatenate(chunks, axis=1)
    assert weights.shape == (40, 700)
    assert (weights.sum(axis=0) == 40).all()
    # Counts of a multinomial with 40 equal chances: variance 40 * 1/40 * 39/40.
    assert weights.var() == pytest.approx(39 / 40, rel=0.03)
    again = np.concatenate(list(evaluation.patient_weights(40, 300, seed=5)), axis=1)
    np.testing.assert_array_equal(again, weights[:, :300])


def test_metric_table_has_every_group_and_covers_the_value():
    studies = random_studies(4)
    table = evaluation.metric_table(studies, resamples=500)
    assert list(table.columns[:8]) == [
        "group", "metric", "value", "low", "high", "studies", "abnormal", "patients",
    ]  # fmt: skip
    assert list(table["group"].unique()) == ["all", *BODY_PARTS, "macro"]
    assert list(table["metric"].unique()) == list(evaluation.METRICS)
    parts = table[table["group"].isin(BODY_PARTS)]
    macro = table[table["group"] == "macro"].set_index("metric")["value"]
    pd.testing.assert_series_equal(
        parts.groupby("metric")["value"].mean().sort_index(), macro.sort_index()
    )
    counts = table[table["metric"] == "kappa"].set_index("group")
    assert counts.loc[list(BODY_PARTS), "studies"].sum() == counts.loc["all", "studies"] == 300
    assert counts.loc["all", "patients"] == 180
    # The calibration error of a resample is biased upwards; the other intervals hold the value.
    rest = table[table["metric"] != "ece"]
    assert ((rest["low"] <= rest["value"]) & (rest["value"] <= rest["high"])).all()
    pd.testing.assert_frame_equal(table, evaluation.metric_table(studies, resamples=500))
    alone = evaluation.metric_table(studies, resamples=0, metrics=("kappa",))
    assert alone["value"].notna().all() and alone[["low", "high"]].isna().all(axis=None)


def test_metric_table_says_why_a_metric_is_undefined():
    studies = random_studies(4)
    studies.loc[studies["body_part"] == "XR_HAND", "label"] = 1
    table = evaluation.metric_table(studies, resamples=50).set_index(["group", "metric"])
    row = table.loc[("XR_HAND", "auroc")]
    assert np.isnan([row["value"], row["low"], row["high"]]).all()
    assert row["note"].endswith("no normal studies")
    assert table.loc[("macro", "auroc"), "note"] == "undefined for at least one body part"
    assert table.loc[("all", "auroc"), "note"] == ""


def perfect_on_a_few():
    """Four patients of two abnormal studies each, six of a normal one; one normal is called so."""
    patients = [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9]
    labels = [1] * 8 + [0] * 6
    frame = random_studies(0).head(len(labels))
    return frame.assign(
        patient=[f"patient{number:05d}" for number in patients],
        label=labels,
        probability=[0.9] * 8 + [0.6] + [0.1] * 5,
        body_part="XR_HAND",
    )


def test_what_no_resample_changes_has_no_interval_of_no_width():
    table = evaluation.metric_table(perfect_on_a_few(), resamples=400)
    rows = table[table["group"] == "all"].set_index("metric")
    # all abnormal studies are found, which are of four patients; what is called normal is, of five
    for metric, patients in (("sensitivity", 4), ("npv", 5)):
        row = rows.loc[metric]
        low, high = stats.binomtest(patients, patients).proportion_ci(method="wilson")
        assert (row["value"], row["abnormal"]) == (1.0, 8)
        assert [row["low"], row["high"]] == pytest.approx([low, high])
        assert f"Wilson, {patients} patients" in row["note"]
    for metric in ("auroc", "average_precision"):
        row = rows.loc[metric]
        assert row["value"] == 1.0
        assert np.isnan([row["low"], row["high"]]).all()
        assert "no interval" in row["note"]
    assert rows.loc["specificity", "low"] < 5 / 6 < rows.loc["specificity", "high"]
    assert "Wilson" not in rows.loc["specificity", "note"]
    macro = table[table["group"] == "macro"].set_index("metric").loc["sensitivity"]
    assert macro["value"] == 1.0 and np.isnan(macro["low"])


def test_calling_everything_normal_has_a_kappa_without_an_interval():
    studies = random_studies(4).assign(probability=0.2)
    table = evaluation.metric_table(studies, resamples=200).set_index(["group", "metric"])
    assert table.loc[("all", "kappa"), "value"] == 0.0
    assert np.isnan(table.loc[("all", "kappa"), "low"])
    assert np.isnan(table.loc[("all", "ppv"), "value"])
    assert table.loc[("all", "ppv"), "note"] == "no study is called abnormal"
    assert table.loc[("all", "sensitivity"), "high"] > 0
    assert table.loc[("all", "brier"), "low"] < table.loc[("all", "brier"), "high"]


def test_what_is_the_same_but_for_rounding_has_no_interval_either():
    studies = random_studies(4)
    studies = studies.assign(probability=np.where(studies["label"] == 1, 0.7, 0.3))
    table = evaluation.metric_table(studies, resamples=200, metrics=("brier", "ece"))
    assert table["value"].to_numpy() == pytest.approx([0.09, 0.3] * (len(table) // 2))
    assert table[["low", "high"]].isna().all(axis=None)


def test_subgroups_of_the_phantom_and_of_views():
    studies = random_studies(8)
    abnormal = studies["label"] == 1
    kinds = np.where(studies.index % 2, "hardware", "fracture")
    truth = pd.DataFrame(
        {
            "path": [f"{study}/image{v}.png" for study in studies["study"] for v in (1, 2)],
            "finding": np.repeat(np.where(abnormal, kinds, "none"), 2),
            "inverted": np.tile([0, 0, 0, 1], len(studies) // 2),
        }
    )
    facts = phantom_facts(truth).loc[studies["study"]]
    assert facts["polarity"].tolist() == ["usual", "an inverted view"] * 150
    assert facts["finding"].isna().tolist() == (~abnormal).tolist()
    table = evaluation.subgroup_tables(studies, phantom_facts(truth), resamples=30)
    groups = table.groupby("subgroup", sort=False)["group"].unique().map(list).to_dict()
    assert groups == {
        "views": ["1", "2", "3", "4 or more"],
        "polarity": ["an inverted view", "usual"],
        "finding": ["fracture", "hardware"],
        "hardware": ["hardware", "other findings"],
    }
    kappa = table[table["metric"] == "kappa"].set_index(["subgroup", "group"])
    assert kappa.loc[("polarity", "usual"), "studies"] == 150
    # each kind of finding is compared with all normal studies, other values with none but theirs
    for subgroup, group, rows in (
        ("hardware", "hardware", studies[~abnormal | (kinds == "hardware")]),
        ("views", "3", studies[studies["views"] == 3]),
    ):
        found = table[(table["subgroup"] == subgroup) & (table["group"] == group)]
        assert (found["studies"] == len(rows)).all()
        expected = evaluation.metric_values(rows["label"], rows["probability"])
        assert found.set_index("metric")["value"].to_dict() == pytest.approx(expected)
    assert set(evaluation.subgroup_tables(studies, resamples=0)["subgroup"]) == {"views"}


@pytest.mark.parametrize(
    ("script", "options", "expected"),
    [
        ("interval_coverage.py", ["--simulations", "3", "--patients", "40"], "images  "),
        ("evaluation.py", ["--resamples", "20", "--models", "2"], "and extrapolated"),
    ],
)
def test_the_benchmarks_run(script, options, expected):
    path = Path(__file__).parents[1] / "benchmarks" / script
    output = subprocess.run(
        [sys.executable, str(path), *options], check=True, capture_output=True, text=True
    ).stdout
    assert expected in output
