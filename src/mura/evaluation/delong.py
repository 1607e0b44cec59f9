"""DeLong's variance of the AUROC: an analytic cross-check of the bootstrap.

DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837). Its structural components are ranks
of one class among the other, so sorting suffices: O(N log N), as Sun and Xu 2014 (IEEE Signal
Processing Letters 21:1389) noticed. With ``patients``, Obuchowski's extension to
clustered data (1997, Biometrics 53:567), in which a patient's studies need not be independent.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from mura.evaluation.intervals import LEVEL, Interval
from mura.evaluation.predictions import PredictionsError


class DeLong(NamedTuple):
    """An AUROC, its standard error and its interval: NaN where the error is estimated as none."""

    auroc: float
    standard_error: float
    interval: Interval


class DeLongTest(NamedTuple):
    """Two AUROCs on the same studies, first minus second."""

    first: float
    second: float
    difference: float
    standard_error: float
    interval: Interval
    p: float


def delong(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray | None = None,
    level: float = LEVEL,
) -> DeLong:
    """Return the AUROC with DeLong's standard error, clustered when ``patients`` is given.

    Args:
        labels: [N], 0 normal or 1 abnormal.
        probabilities: [N].
        patients: [N], who each study belongs to; independent studies when ``None``.
        level: Of confidence.

    Raises:
        PredictionsError: Fewer than two studies (or patients) with either label.
    """
    area, covariance = delong_covariance(labels, np.atleast_2d(probabilities), patients)
    error = float(np.sqrt(covariance[0, 0]))
    # no error, as of classes that do not overlap, says that these studies are too few to tell
    half = float(ndtri((1 + level) / 2)) * error if error > 0 else float("nan")
    value = float(area[0])
    return DeLong(value, error, Interval(value - half, value + half))


def delong_test(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray | None = None,
    level: float = LEVEL,
) -> DeLongTest:
    """Return the paired test that two models' AUROCs on the same studies are equal.

    Arguments are those of ``delong``, with both models' probabilities. The p-value is two-sided,
    and 1 where the two rank every pair alike.
    """
    area, covariance = delong_covariance(labels, np.stack([first, second]), patients)
    contrast = np.array([1.0, -1.0])
    difference = float(contrast @ area)
    error = float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))
    half = float(ndtri((1 + level) / 2)) * error
    if error > 0:
        p = float(2 * ndtr(-abs(difference) / error))
    else:
        p = 1.0 if difference == 0 else 0.0
    interval = Interval(difference - half, difference + half)
    return DeLongTest(float(area[0]), float(area[1]), difference, error, interval, p)


def delong_covariance(
    labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUROCs float64[M] and their covariance float64[M, M].

    Args:
        labels: [N].
        probabilities: [M, N], a row per model.
        patients: [N] or ``None``.
    """
    abnormal = np.asarray(labels).astype(bool)
    probabilities = np.asarray(probabilities, dtype=float)
    positives, negatives = int(abnormal.sum()), int((~abnormal).sum())
    cluster = np.arange(len(abnormal))
    if patients is not None:
        _, cluster = np.unique(patients, return_inverse=True)
    clusters = int(cluster.max(initial=-1)) + 1
    with_positive = len(np.unique(cluster[abnormal]))
    with_negative = len(np.unique(cluster[~abnormal]))
    if min(with_positive, with_negative) < 2:
        raise PredictionsError(
            f"DeLong: {positives} abnormal and {negatives} normal studies of {with_positive} and "
            f"{with_negative} patients; expected at least two of each."
        )
    # The share of normals below each abnormal, and of abnormals above each normal (ties 1/2).
    below = np.stack([_share_below(row[~abnormal], row[abnormal]) for row in probabilities])
    above = 1 - np.stack([_share_below(row[abnormal], row[~abnormal]) for row in probabilities])
    area = below.mean(axis=1)

    def per_cluster(components: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        sums = np.zeros((len(area), clusters))
        for row, component in zip(sums, components - area[:, None], strict=True):
            row += np.bincount(cluster[chosen], component, minlength=clusters)
        return sums

    over_positives = per_cluster(below, abnormal)
    over_negatives = per_cluster(above, ~abnormal)
    # Obuchowski's equations 5 to 8; with one study per patient the cross terms vanish and the
    # rest is DeLong's.
    covariance = with_positive / (with_positive - 1) * over_positives @ over_positives.T
    covariance = covariance / positives**2
    covariance += (
        with_negative / (with_negative - 1) * over_negatives @ over_negatives.T / (negatives**2)
    )
    cross = over_positives @ over_negatives.T * clusters / (clusters - 1) / positives / negatives
    return area, covariance + cross + cross.T


def _share_below(of: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the share of ``of`` below each value, ties counting one half."""
    ordered = np.sort(of)
    below = np.searchsorted(ordered, values, side="left")
    return (below + np.searchsorted(ordered, values, side="right")) / (2 * len(of))
