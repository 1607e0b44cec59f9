"""Differences, Holm, operating points, calibration and ensembles."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from mura import evaluation
from mura.evaluation.ensembles import ensemble, greedy_selection
from mura.evaluation.intervals import holm, wilson_interval


def make_studies(labels, probabilities, patients=None, body_part="XR_WRIST", split="valid"):
    count = len(labels)
    patients = np.arange(count) if patients is None else patients
    return pd.DataFrame(
        {
            "study": [f"MURA-v1.1/{split}/{body_part}/patient1/study{i}" for i in range(count)],
            "body_part": body_part,
            "patient": [f"patient{p:05d}" for p in patients],
            "split": split,
            "label": labels,
            "probability": probabilities,
            "views": 2,
        }
    )


def scores(random, labels, skill):
    return 1 / (1 + np.exp(-(skill * (labels - 0.5) + random.normal(size=len(labels)))))


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1, never decreasing.
    adjusted = holm([0.04, 0.01, np.nan, 0.03, 0.02])
    np.testing.assert_allclose(adjusted, [0.06, 0.04, np.nan, 0.06, 0.06])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_paired_differences_find_the_better_model_and_not_a_copy():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, size=400)
    patients = random.integers(0, 250, size=400)
    good, poor = scores(random, labels, 2.5), scores(random, labels, 1.0)
    models = {
        "poor": make_studies(labels, poor, patients),
        "good": make_studies(labels, good, patients).sample(frac=1, random_state=0),
        "copy": make_studies(labels, poor, patients),
    }
    table = evaluation.paired_differences(models, reference="poor", resamples=2000)
    table = table.set_index(["model", "metric"])
    better = table.loc[("good", "kappa")]
    expected = reference.cohen_kappa_score(labels, good > 0.5)
    expected -= reference.cohen_kappa_score(labels, poor > 0.5)
    assert better["difference"] == pytest.approx(expected)
    assert 0 < better["low"] < better["difference"] < better["high"]
    assert better["p"] == pytest.approx(2 / 2001)
    assert better["p_holm"] == pytest.approx(4 / 2001)
    copy = table.loc[("copy", "auroc")]
    assert (copy["difference"], copy["low"], copy["high"], copy["p"]) == (0, 0, 0, 1)
    assert better["patients"] == len(np.unique(patients))


def test_comparison_refuses_other_studies_by_name():
    whole = make_studies(np.array([0, 1, 0, 1]), [0.1, 0.9, 0.2, 0.8])
    part, other = whole.drop(index=2), whole.assign(label=[0, 1, 1, 1])
    for one, two, message in (
        (whole, part, r"b: .*study2 missing, which a has"),
        (part, whole, r"a: .*study2 missing, which b has"),
        (whole, other, r"b: another label than in a .*study2"),
    ):
        with pytest.raises(evaluation.PredictionsError, match=message):
            evaluation.paired_differences({"a": one, "b": two}, "a")
    with pytest.raises(evaluation.PredictionsError, match="at least two"):
        evaluation.paired_differences({"a": whole}, "a")


def test_models_with_other_studies_share_a_table_but_not_a_comparison():
    random = np.random.default_rng(5)
    labels = random.integers(0, 2, size=100)
    wrist = make_studies(labels, scores(random, labels, 2))
    both = pd.concat([wrist, make_studies(labels, scores(random, labels, 2), body_part="XR_HAND")])
    models = {"wrist only": wrist, "both": both.reset_index(drop=True), "again": wrist}
    table = evaluation.model_table(models, resamples=100, metrics=("kappa",))
    assert table["model"].unique().tolist() == ["wrist only", "both", "again"]
    counts = table[table["group"] == "all"].set_index("model")["studies"]
    assert counts.to_dict() == {"wrist only": 100, "both": 200, "again": 100}
    alone = evaluation.metric_table(wrist, resamples=100, metrics=("kappa",))
    values = table[table["model"] == "again"].drop(columns="model").reset_index(drop=True)
    pd.testing.assert_frame_equal(values, alone)


def test_operating_points_are_what_their_names_say():
    random = np.random.default_rng(6)
    labels = random.integers(0, 2, size=501)
    tune = make_studies(labels, scores(random, labels, 2).round(2), split="tune")
    points = evaluation.operating_points(tune)
    assert list(points) == ["0.5", "maximum kappa", "sensitivity 0.90", "specificity 0.90"]
    p = tune["probability"].to_numpy()
    every = [-1.0, *np.arange(0.005, 1, 0.01)]  # between any two probabilities of two decimals
    results = [evaluation.metric_values(labels, p, t) for t in every]
    best = max(result["kappa"] for result in results)
    chosen = {name: evaluation.metric_values(labels, p, t) for name, t in points.items()}
    assert chosen["maximum kappa"]["kappa"] == pytest.approx(best)
    sensitive = [r["specificity"] for r in results if r["sensitivity"] >= 0.9]
    assert chosen["sensitivity 0.90"]["sensitivity"] >= 0.9
    assert chosen["sensitivity 0.90"]["specificity"] == pytest.approx(max(sensitive))
    specific = [r["sensitivity"] for r in results if r["specificity"] >= 0.9]
    assert chosen["specificity 0.90"]["specificity"] >= 0.9
    assert chosen["specificity 0.90"]["sensitivity"] == pytest.approx(max(specific))

    table = evaluation.operating_point_table(tune, points, resamples=50)
    rows = table[table["metric"] == "sensitivity"].set_index("operating_point")
    assert rows["threshold"].to_dict() == points
    assert rows.loc["specificity 0.90", "value"] == pytest.approx(max(specific))
    with pytest.raises(evaluation.PredictionsError, match="all 3 studies are normal"):
        evaluation.operating_points(make_studies([0, 0, 0], [0.1, 0.2, 0.3]))


def test_temperature_undoes_overconfidence_and_keeps_the_auroc():
    random = np.random.default_rng(8)
    logit = random.normal(scale=1.5, size=20_000)
    labels = (random.uniform(size=20_000) < 1 / (1 + np.exp(-logit))).astype(int)
    tune = make_studies(labels, 1 / (1 + np.exp(-3 * logit)))
    temperature = evaluation.fit_calibration(tune)
    assert temperature.temperature == pytest.approx(3, rel=0.05)
    calibrated = evaluation.calibrate(tune, temperature)
    before = evaluation.metric_values(tune["label"], tune["probability"])
    after = evaluation.metric_values(calibrated["label"], calibrated["probability"])
    assert after["ece"] < 0.02 < 0.08 < before["ece"]
    assert after["auroc"] == pytest.approx(before["auroc"], abs=1e-3)
    assert after["brier"] < before["brier"]


def test_a_shift_undoes_a_weighted_loss_where_a_temperature_cannot():
    """Trained with both classes weighed alike, a model gives log likelihood ratios."""
    random = np.random.default_rng(12)
    labels = (random.uniform(size=20_000) < 0.25).astype(int)
    ratio = 2 * random.normal(size=20_000) + 4 * labels - 2  # two normals, one unit of d' = 2
    tune = make_studies(labels, 1 / (1 + np.exp(-ratio)))
    found = evaluation.fit_calibration(tune, "logistic")
    assert found.temperature == pytest.approx(1, abs=0.05)
    assert found.shift == pytest.approx(np.log(0.25 / 0.75), abs=0.1)
    errors = {}
    for method in ("temperature", "logistic"):
        calibrated = evaluation.calibrate(tune, evaluation.fit_calibration(tune, method))
        values = evaluation.metric_values(calibrated["label"], calibrated["probability"])
        errors[method] = values["ece"]
    assert errors["logistic"] < 0.02 < 0.1 < errors["temperature"]


def test_isotonic_calibration_follows_the_shares():
    random = np.random.default_rng(9)
    probabilities = random.uniform(size=20_000)
    labels = (random.uniform(size=20_000) < probabilities**2).astype(int)
    isotonic = evaluation.fit_calibration(make_studies(labels, probabilities), "isotonic")
    grid = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(isotonic(grid), grid**2, atol=0.08)
    assert (np.diff(isotonic(np.linspace(0, 1, 500))) >= 0).all()
    with pytest.raises(evaluation.PredictionsError, match="one class"):
        evaluation.fit_calibration(make_studies([1, 1], [0.2, 0.3]))


def test_reliability_table_equals_scikit_learn():
    random = np.random.default_rng(10)
    labels = random.integers(0, 2, size=300)
    studies = make_studies(labels, scores(random, labels, 3))
    table = evaluation.reliability_table(studies).dropna()
    share, mean = calibration_curve(labels, studies["probability"], n_bins=10)
    np.testing.assert_allclose(table["abnormal"], share)
    np.testing.assert_allclose(table["probability"], mean)
    assert table["studies"].sum() == 300
    low, high = wilson_interval(np.array([8]), np.array([10]))
    expected = stats.binomtest(8, 10).proportion_ci(method="wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high])


def test_ensemble_of_probabilities():
    labels = np.array([0, 1])
    one, two = make_studies(labels, [0.1, 0.5]), make_studies(labels, [0.3, 0.9])
    weights = {"one": 3, "two": 1}
    weighted = ensemble({"one": one, "two": two.iloc[::-1]}, weights)
    assert weighted["probability"].tolist() == pytest.approx([0.15, 0.6])
    with pytest.raises(evaluation.PredictionsError, match="study1 missing"):
        ensemble({"one": one, "two": two.iloc[:1]}, weights)


def test_greedy_selection_takes_complementary_models_and_leaves_noise():
    random = np.random.default_rng(11)
    labels = random.integers(0, 2, size=2000)
    models = {
        "left": make_studies(labels, scores(random, labels, 1.5)),
        "noise": make_studies(labels, random.uniform(size=2000)),
        "right": make_studies(labels, scores(random, labels, 1.5)),
    }
    weights = greedy_selection(models, size=6)
    assert set(weights) == {"left", "right"}
    chosen = ensemble({name: models[name] for name in weights}, weights)
    alone = [reference.roc_auc_score(labels, table["probability"]) for table in models.values()]
    assert reference.roc_auc_score(labels, chosen["probability"]) > max(alone) + 0.03
    assert greedy_selection({"left": models["left"]}) == {"left": 1}


@pytest.mark.parametrize(
    "refused",
    [
        lambda s: evaluation.metric_table(s, metrics=("dice",)),
        lambda s: evaluation.fit_calibration(s, "platt"),
    ],
)
def test_unknown_methods_are_refused_with_the_known_ones(refused):
    with pytest.raises(ValueError, match=r"expected (one|some) of"):
        refused(make_studies(np.array([0, 1]), [0.2, 0.7]))
