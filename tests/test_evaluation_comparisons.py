"""Differences, DeLong, Holm, operating points, calibration and ensembles."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from mura import evaluation
from mura.evaluation.operating_points import threshold_curve
from mura.files import InputError


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


def test_delong_of_a_published_example():
    """Hanley and McNeil 1982, table I: 109 CT images rated 1 to 5.

    Area 0.893 there; Stata's manual ([R] roctab, on the same data) prints 0.8932, DeLong's
    standard error 0.0307 and the interval 0.83295 to 0.95339.
    """
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.repeat([1, 2, 3, 4, 5] * 2, normal + abnormal)
    labels = np.repeat([0, 1], [sum(normal), sum(abnormal)])
    result = evaluation.delong(labels, ratings)
    assert round(result.auroc, 4) == 0.8932
    assert round(result.standard_error, 4) == 0.0307
    assert np.round(result.interval, 5).tolist() == [0.83295, 0.95339]


def test_delong_covariance_equals_the_pairwise_definition():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, size=70)
    models = np.stack([scores(random, labels, s).round(1) for s in (1.0, 2.0, 0.3)])
    kernel = (models[:, labels == 1, None] > models[:, None, labels == 0]) + 0.5 * (
        models[:, labels == 1, None] == models[:, None, labels == 0]
    )
    expected = np.cov(kernel.mean(2)) / kernel.shape[1] + np.cov(kernel.mean(1)) / kernel.shape[2]
    area, covariance = evaluation.delong_covariance(labels, models)
    np.testing.assert_allclose(area, [reference.roc_auc_score(labels, m) for m in models])
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


def test_paired_delong_agrees_with_a_permutation_test():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, size=150)
    shared = random.normal(size=150)
    first = stats.rankdata(1.3 * labels + shared + 0.7 * random.normal(size=150))
    second = stats.rankdata(1.0 * labels + shared + 0.7 * random.normal(size=150))
    result = evaluation.delong_test(labels, first, second)
    draws = 1500
    swap = random.integers(0, 2, size=(draws, 150)).astype(bool)  # ranks are exchangeable
    differences = [
        evaluation.auroc(labels, np.where(s, second, first))
        - evaluation.auroc(labels, np.where(s, first, second))
        for s in swap
    ]
    permuted = (np.sum(np.abs(differences) >= abs(result.difference)) + 1) / (draws + 1)
    assert 0.001 < result.p < 0.2
    assert result.p == pytest.approx(permuted, abs=0.02)
    same = evaluation.delong_test(labels, first, first * 2)
    assert (same.difference, same.p) == (0.0, 1.0)


def test_clustered_delong_agrees_with_the_clustered_bootstrap():
    random = np.random.default_rng(2)
    patients = np.repeat(np.arange(120), 4)
    labels = (random.uniform(size=120) < 0.5).astype(int)[patients]
    disposition = random.normal(size=120)[patients]
    probabilities = stats.norm.cdf(labels - 0.5 + disposition + 0.3 * random.normal(size=480))
    studies = make_studies(labels, probabilities, patients)
    spread = evaluation.bootstrap({"": studies}, ("auroc",), resamples=4000).resampled.std()
    clustered = evaluation.delong(labels, probabilities, patients).standard_error
    independent = evaluation.delong(labels, probabilities).standard_error
    assert clustered == pytest.approx(spread, rel=0.08)
    assert independent < 0.7 * spread
    alone = evaluation.delong(labels, probabilities, np.arange(480)).standard_error
    assert alone == pytest.approx(independent, rel=1e-12)


def test_delong_of_classes_that_do_not_overlap_has_no_interval():
    found = evaluation.delong([0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.7, 0.8])
    assert (found.auroc, found.standard_error) == (1.0, 0.0)
    assert np.isnan(found.interval).all()


def test_delong_refuses_one_class():
    with pytest.raises(evaluation.PredictionsError, match="0 abnormal and 4 normal"):
        evaluation.delong([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4])


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1, never decreasing.
    adjusted = evaluation.holm([0.04, 0.01, np.nan, 0.03, 0.02])
    np.testing.assert_allclose(adjusted, [0.06, 0.04, np.nan, 0.06, 0.06])
    assert evaluation.holm([0.6, 0.9]).tolist() == [1.0, 1.0]


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

    every = evaluation.paired_differences(models, resamples=200, by_body_part=True)
    assert len(every) == 3 * 3 * 2  # pairs, groups (all, wrist, macro), metrics
    bca = evaluation.paired_differences(models, "poor", resamples=2000, interval="bca")
    bca = bca.set_index(["model", "metric"]).loc[("good", "auroc")]
    assert bca["low"] == pytest.approx(table.loc[("good", "auroc"), "low"], abs=0.02)


def test_paired_interval_is_narrower_than_unpaired():
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, size=400)
    base = random.normal(size=400) + labels
    models = {
        name: make_studies(labels, stats.norm.cdf(base + 0.2 * random.normal(size=400)))
        for name in "ab"
    }
    row = evaluation.paired_differences(models, metrics=("auroc",)).iloc[0]
    single = evaluation.metric_table(models["a"], metrics=("auroc",)).iloc[0]
    assert row["high"] - row["low"] < 0.6 * (single["high"] - single["low"])


def test_comparison_refuses_missing_studies_by_name():
    labels = np.array([0, 1, 0, 1])
    whole = make_studies(labels, [0.1, 0.9, 0.2, 0.8])
    with pytest.raises(evaluation.PredictionsError, match=r"b: .*study2 missing, which a has"):
        evaluation.paired_differences({"a": whole, "b": whole.drop(index=2)})
    with pytest.raises(evaluation.PredictionsError, match=r"a: .*study2 missing, which b has"):
        evaluation.paired_differences({"a": whole.drop(index=2), "b": whole})
    other = whole.assign(label=[0, 1, 1, 1])
    with pytest.raises(evaluation.PredictionsError, match=r"b: another label than in a .*study2"):
        evaluation.aligned({"a": whole, "b": other})
    with pytest.raises(evaluation.PredictionsError, match="at least two"):
        evaluation.paired_differences({"a": whole})


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


def test_threshold_curve_equals_scikit_learn():
    random = np.random.default_rng(7)
    labels = random.integers(0, 2, size=90)
    studies = make_studies(labels, scores(random, labels, 1).round(1))
    curve = threshold_curve(studies)
    false, true, _ = reference.roc_curve(labels, studies["probability"], drop_intermediate=False)
    np.testing.assert_allclose(curve["sensitivity"][::-1], true)
    np.testing.assert_allclose(1 - curve["specificity"][::-1], false)


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


def test_a_shift_keeps_to_the_order_of_studies_that_are_too_easy_or_ranked_backwards():
    probabilities = np.linspace(0.2, 0.8, 40)
    for labels in ((probabilities > 0.5).astype(int), (probabilities < 0.5).astype(int)):
        found = evaluation.fit_calibration(make_studies(labels, probabilities), "logistic")
        assert np.isfinite([found.temperature, found.shift]).all()
        assert (np.diff(found(probabilities)) > 0).all()


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
    low, high = evaluation.wilson_interval(np.array([8]), np.array([10]))
    expected = stats.binomtest(8, 10).proportion_ci(method="wilson")
    np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high])


def test_ensemble_of_probabilities_and_of_logits():
    labels = np.array([0, 1])
    one, two = make_studies(labels, [0.1, 0.5]), make_studies(labels, [0.3, 0.9])
    mean = evaluation.ensemble({"one": one, "two": two.iloc[::-1]})
    assert mean["probability"].tolist() == pytest.approx([0.2, 0.7])
    logit = evaluation.ensemble({"one": one, "two": two}, "logit_mean")
    assert logit["probability"][1] == pytest.approx(0.75)  # odds 1 and 9: sqrt(9) = 3 to 1
    weighted = evaluation.ensemble({"one": one, "two": two}, weights={"one": 3, "two": 1})
    assert weighted["probability"].tolist() == pytest.approx([0.15, 0.6])
    with pytest.raises(evaluation.PredictionsError, match="no predictions of three"):
        evaluation.ensemble({"one": one}, weights={"one": 1, "three": 1})
    with pytest.raises(evaluation.PredictionsError, match="study1 missing"):
        evaluation.ensemble({"one": one, "two": two.iloc[:1]})


def test_greedy_selection_takes_complementary_models_and_leaves_noise():
    random = np.random.default_rng(11)
    labels = random.integers(0, 2, size=2000)
    models = {
        "left": make_studies(labels, scores(random, labels, 1.5)),
        "noise": make_studies(labels, random.uniform(size=2000)),
        "right": make_studies(labels, scores(random, labels, 1.5)),
    }
    weights = evaluation.greedy_selection(models, size=6)
    assert set(weights) == {"left", "right"}
    chosen = evaluation.ensemble(models, weights=weights)
    alone = [evaluation.auroc(labels, table["probability"]) for table in models.values()]
    assert evaluation.auroc(labels, chosen["probability"]) > max(alone) + 0.03
    assert evaluation.greedy_selection({"left": models["left"]}, "brier") == {"left": 1}


def test_five_best_by_validation_loss():
    losses = {"a": 0.5, "b": 0.2, "c": 0.4, "d": 0.3, "e": 0.6, "f": 0.1}
    assert evaluation.five_best(losses) == ["f", "b", "d", "c", "a"]
    with pytest.raises(evaluation.PredictionsError, match="no validation loss for g"):
        evaluation.five_best(losses | {"g": np.nan})


def test_the_papers_kappa_interval_recomputed():
    """0.705 on 207 studies, sensitivity 0.815, specificity 0.887: not the printed +- 0.005."""
    low, high = evaluation.kappa_interval(0.705, 207, sensitivity=0.815, specificity=0.887)
    assert (low, high) == pytest.approx((0.61, 0.80), abs=0.005)
    agreement = 0.705 * (1 - 0.51) + 0.51
    again = evaluation.kappa_interval(0.705, 207, agreement=agreement)
    assert again == pytest.approx((low, high), abs=0.005)
    assert evaluation.kappa_interval(0.705, 207, expected=0.51) == pytest.approx(again)
    # The published interval is what leaving out the square root gives.
    variance = agreement * (1 - agreement) / (207 * (1 - 0.51) ** 2)
    assert 1.96 * variance == pytest.approx(0.005, abs=5e-4)
    with pytest.raises(InputError, match="do not make a kappa"):
        evaluation.kappa_interval(0.9, 207, sensitivity=0.6, specificity=0.6, prevalence=0.5)


def test_analytic_kappa_interval_agrees_with_the_bootstrap():
    random = np.random.default_rng(12)
    labels = random.integers(0, 2, size=600)
    studies = make_studies(labels, scores(random, labels, 3))
    row = evaluation.metric_table(studies, metrics=("kappa", "accuracy")).set_index(
        ["group", "metric"]
    )
    value = row.loc[("all", "kappa")]
    agreement = row.loc[("all", "accuracy"), "value"]
    low, high = evaluation.kappa_interval(value["value"], 600, agreement=agreement)
    assert high - low == pytest.approx(value["high"] - value["low"], rel=0.08)


def test_each_model_may_have_its_own_threshold():
    random = np.random.default_rng(13)
    labels = random.integers(0, 2, size=200)
    models = {name: make_studies(labels, scores(random, labels, 2)) for name in "ab"}
    table = evaluation.model_table(models, {"a": 0.2, "b": 0.7}, 0, metrics=("accuracy",))
    values = table[table["group"] == "all"].set_index("model")["value"]
    for name, threshold in (("a", 0.2), ("b", 0.7)):
        called = models[name]["probability"] > threshold
        assert values[name] == pytest.approx((called == labels).mean())
    with pytest.raises(evaluation.PredictionsError, match="no threshold for b"):
        evaluation.model_table(models, {"a": 0.2})


@pytest.mark.parametrize(
    "refused",
    [
        lambda s: evaluation.metric_table(s, interval="normal"),
        lambda s: evaluation.metric_table(s, metrics=("dice",)),
        lambda s: evaluation.fit_calibration(s, "platt"),
        lambda s: evaluation.ensemble({"a": s}, "median"),
    ],
)
def test_unknown_methods_are_refused_with_the_known_ones(refused):
    with pytest.raises(ValueError, match=r"expected (one|some) of"):
        refused(make_studies(np.array([0, 1]), [0.2, 0.7]))
