"""Metrics of decisions and of probabilities, for one weighting of the patients or many.

Ratios of sums (kappa, accuracy, Brier score ...) come from one matrix product, *sums per patient x
weights of the patients*; AUROC and average precision from cumulative sums of the same weights in
the order of the probabilities. A bootstrap has one column of weights per resample; the metric
itself is one column of ones.

A study is called abnormal when its probability is *above* the threshold (the paper: > 0.5).
"""

from collections.abc import Sequence

import numpy as np

METRICS = ("kappa", "auroc", "average_precision", "accuracy", "sensitivity", "specificity")
# ppv, positive predictive value: the share abnormal of those called abnormal; ece, expected
# calibration error (Guo et al. 2017, arXiv 1706.04599), of P(abnormal)
METRICS += ("ppv", "npv", "f1", "brier", "ece")
# the outcomes that a proportion is based on: 0 TN, 1 FP, 2 FN, 3 TP
PROPORTIONS = {
    "accuracy": (0, 1, 2, 3),
    "sensitivity": (2, 3),
    "specificity": (0, 1),
    "ppv": (1, 3),
    "npv": (0, 2),
}
RANKING = ("auroc", "average_precision")
CALIBRATION_BINS = 10


class WeightedMetrics:
    """The metrics of one set of studies for any weights of its patients.

    Args:
        labels, probabilities: [N], 0 normal or 1 abnormal; of abnormal, 0-1.
        patients: int[N] in 0..P-1, the patient of each study.
        metrics: Names from ``METRICS``.
        threshold: Studies with a probability above it are called abnormal.
    """

    def __init__(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        patients: np.ndarray,
        metrics: Sequence[str] = METRICS,
        threshold: float = 0.5,
    ):
        unknown = [metric for metric in metrics if metric not in METRICS]
        if unknown:
            raise ValueError(f"metrics {', '.join(unknown)}: expected some of {METRICS}.")
        self.metrics = tuple(metrics)
        abnormal = np.asarray(labels).astype(bool)
        probabilities = np.asarray(probabilities, dtype=float)
        self._sums = _sums_per_patient(abnormal, probabilities, patients, threshold)
        self._ranks = None
        if set(metrics) & set(RANKING) and len(abnormal):
            self._ranks = _Ranks(abnormal, probabilities, patients)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return float64[metrics, R] for weights float[P, R]; NaN where a metric is undefined.

        The sums are taken in the dtype of ``weights``: float32 holds counts below 2**24 exactly.
        """
        values = _ratios((self._sums.astype(weights.dtype) @ weights).astype(float))
        if self._ranks is not None:
            for metric in set(RANKING) & set(self.metrics):
                values[metric] = getattr(self._ranks, metric)(weights)
        undefined = np.full(weights.shape[1], np.nan)
        return np.stack([values.get(metric, undefined) for metric in self.metrics])

    def patients_behind(self) -> np.ndarray:
        """Return int64[metrics]: how many patients a proportion is based on; 0 for others."""
        studies = self._sums[:4]
        based_on = [list(PROPORTIONS.get(metric, ())) for metric in self.metrics]
        return np.array([(studies[rows].sum(axis=0) > 0).sum() for rows in based_on], dtype=int)


def metric_values(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float = 0.5,
    metrics: Sequence[str] = METRICS,
) -> dict[str, float]:
    """Return each metric of the studies (or images); NaN where it is undefined.

    AUROC, average precision and sensitivity need an abnormal study, AUROC and specificity a normal
    one, a predictive value an answer of its kind, and kappa more than one class.
    """
    studies = np.arange(len(labels))
    evaluate = WeightedMetrics(labels, probabilities, studies, metrics, threshold)
    values = evaluate(np.ones((len(labels), 1)))[:, 0]
    return dict(zip(metrics, values.tolist(), strict=True))


def calibration_bin(probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Return int[N], the equal-width bin (low, high] of each probability; 0 is in the first."""
    return np.clip(np.ceil(np.asarray(probabilities) * bins).astype(int) - 1, 0, bins - 1)


def kappa_of_counts(counts: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Return Cohen's kappa of TN, FP, FN, TP; NaN where chance agreement is 1."""
    tn, fp, fn, tp = counts
    # with two classes, (observed - chance) / (1 - chance) simplifies to this ratio
    disagreement = (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn)
    return _divide(2 * (tp * tn - fp * fn), disagreement)


def _ratios(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics of sums [5 + bins, R], as ``_sums_per_patient`` takes them."""
    tn, fp, fn, tp, squared_error, *gaps = sums
    total = tn + fp + fn + tp
    return {
        "kappa": kappa_of_counts((tn, fp, fn, tp)),
        "accuracy": _divide(tn + tp, total),
        "sensitivity": _divide(tp, tp + fn),
        "specificity": _divide(tn, tn + fp),
        "ppv": _divide(tp, tp + fp),
        "npv": _divide(tn, tn + fn),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "brier": _divide(squared_error, total),
        "ece": _divide(np.abs(gaps).sum(axis=0), total),
    }


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _sums_per_patient(
    abnormal: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, threshold: float
) -> np.ndarray:
    """Return [5 + bins, P]: confusion counts, squared errors, and per bin sum(p - label)."""
    called = probabilities > threshold
    error = probabilities - abnormal
    sums = np.zeros((5 + CALIBRATION_BINS, int(patients.max(initial=-1)) + 1))
    outcome = 2 * abnormal + called  # 0 true negative, 1 false positive, 2 false negative, 3 true
    np.add.at(sums, (outcome, patients), 1.0)
    np.add.at(sums, (4, patients), error**2)
    np.add.at(sums, (5 + calibration_bin(probabilities), patients), error)
    return sums


class _Ranks:
    """AUROC and average precision from cumulative weights in the order of the probabilities."""

    def __init__(self, abnormal: np.ndarray, probabilities: np.ndarray, patients: np.ndarray):
        order = np.argsort(probabilities, kind="stable")
        abnormal, probabilities, patients = abnormal[order], probabilities[order], patients[order]
        self.normal_patients, self.abnormal_patients = patients[~abnormal], patients[abnormal]
        normal, positive = probabilities[~abnormal], probabilities[abnormal]
        # Row k of a cumulative sum with a leading row of zeros is the weight of the k lowest.
        self.normal_below = np.searchsorted(normal, positive, side="left")
        self.normal_up_to = np.searchsorted(normal, positive, side="right")
        self.abnormal_below = np.searchsorted(positive, positive, side="left")

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Return float64[R]: the weighted share of (abnormal, normal) pairs in the right order."""
        below = _cumulative(weights[self.normal_patients])
        abnormal = weights[self.abnormal_patients]
        ordered = np.einsum("nr,nr->r", abnormal, below[self.normal_below])
        if (self.normal_below != self.normal_up_to).any():
            up_to = np.einsum("nr,nr->r", abnormal, below[self.normal_up_to])
            ordered = (ordered.astype(float) + up_to) / 2
        return _divide(ordered.astype(float), below[-1].astype(float) * abnormal.sum(axis=0))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Return float64[R]: the weighted mean over abnormal studies of the precision there."""
        abnormal = weights[self.abnormal_patients]
        true, false = _cumulative(abnormal), _cumulative(weights[self.normal_patients])
        true_positive = true[-1] - true[self.abnormal_below]
        false_positive = false[-1] - false[self.normal_below]
        called = true_positive + false_positive
        # Where nothing is called, the study itself weighs nothing: its precision never counts.
        precision = true_positive / np.where(called > 0, called, 1)
        return _divide(np.einsum("nr,nr->r", abnormal, precision).astype(float), true[-1])


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """Return [N + 1, R]: row k is the sum of the first k rows."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]), dtype=weights.dtype)
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums
