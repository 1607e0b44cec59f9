"""Confidence intervals and p-values from resampled values, and analytic ones for comparison.

Percentile and bias-corrected accelerated (BCa) intervals follow Efron and Tibshirani 1993, An
Introduction to the Bootstrap, chapters 13 and 14. All arrays have the resamples on their last
axis; NaN resamples (a metric undefined there) are left out.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from mura.files import InputError

LEVEL = 0.95
INTERVALS = ("percentile", "bca")


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def percentile_interval(resampled: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Return float64[..., 2], the central ``level`` of the resampled values [..., R]."""
    tail = (1 - level) / 2
    return _quantiles(resampled, np.broadcast_to([tail, 1 - tail], (*resampled.shape[:-1], 2)))


def bca_interval(
    point: np.ndarray, resampled: np.ndarray, jackknife: np.ndarray, level: float = LEVEL
) -> np.ndarray:
    """Return float64[..., 2], corrected for bias and for an error that changes with the value.

    Args:
        point: [...], the values themselves.
        resampled: [..., R].
        jackknife: [..., P], the values with one patient left out; NaN for a patient who is not
            in that group.
        level: Of confidence.
    """
    draws = resampled.shape[-1]
    # A tie counts half below: kappa of a small group takes few values.
    below = (resampled < point[..., None]).sum(-1) + (resampled == point[..., None]).sum(-1) / 2
    defined = np.maximum((~np.isnan(resampled)).sum(-1), 1)
    bias = ndtri(np.clip(below / defined, 0.5 / draws, 1 - 0.5 / draws))[..., None]
    count = np.maximum((~np.isnan(jackknife)).sum(-1, keepdims=True), 1)
    deviation = np.nansum(jackknife, axis=-1, keepdims=True) / count - jackknife
    spread = np.nansum(deviation**2, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        acceleration = np.nansum(deviation**3, axis=-1) / (6 * spread**1.5)
    acceleration = np.where(spread > 0, acceleration, 0.0)[..., None]
    normal = ndtri([(1 - level) / 2, (1 + level) / 2])
    shifted = bias + normal
    return _quantiles(resampled, ndtr(bias + shifted / (1 - acceleration * shifted)))


def bootstrap_p_value(difference: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value [...] of resampled differences [..., R] from zero.

    The smallest level whose percentile interval excludes zero: twice the smaller share of
    resamples on either side of it, the observed sample counted as one of them. NaN where no
    resample is defined.
    """
    defined = (~np.isnan(difference)).sum(-1)
    at_most = ((difference <= 0).sum(-1) + 1) / (defined + 1)
    at_least = ((difference >= 0).sum(-1) + 1) / (defined + 1)
    p_value = np.minimum(1.0, 2 * np.minimum(at_most, at_least))
    return np.where(defined > 0, p_value, np.nan)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for being several (Holm 1979): step-down Bonferroni, NaN kept."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def wilson_interval(
    successes: np.ndarray, trials: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high of a proportion (Wilson 1927); NaN where there were no trials."""
    z = ndtri((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = successes / trials
        centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        half = half * z / (1 + z**2 / trials)
    return centre - half, centre + half


def kappa_interval(
    kappa: float,
    n: int,
    *,
    agreement: float | None = None,
    expected: float | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    prevalence: float | None = None,
    level: float = LEVEL,
) -> Interval:
    """Return the analytic interval of a *published* kappa, from what a paper prints beside it.

    The standard error is sqrt(p_o (1 - p_o) / (n (1 - p_e)^2)) (Cohen 1960), p_o the observed
    and p_e the chance agreement. MURA's official scorer leaves out the square root, so the
    intervals in that paper are far too narrow. Studies are taken as independent.

    Args:
        kappa: As published.
        n: Number of studies.
        agreement, expected: p_o and p_e; one suffices, kappa gives the other.
        sensitivity, specificity: Instead of those two.
        prevalence: Share of abnormal studies, for sensitivity and specificity. When unknown, the
            one nearest 0.5 that reproduces ``kappa``.
        level: Of confidence.

    Raises:
        InputError: Too little was given, or it contradicts ``kappa``.
    """
    if sensitivity is not None and specificity is not None:
        agreement, expected = _agreement(kappa, sensitivity, specificity, prevalence)
    elif agreement is not None and expected is None and kappa != 1:
        expected = (agreement - kappa) / (1 - kappa)
    elif expected is not None and agreement is None:
        agreement = kappa * (1 - expected) + expected
    if agreement is None or expected is None:
        raise InputError("kappa_interval: give agreement, expected, or sensitivity+specificity.")
    if not 0 <= expected < 1 or abs((agreement - expected) / (1 - expected) - kappa) > 0.02:
        raise InputError(
            f"kappa_interval: agreement {agreement:.3f} and chance agreement {expected:.3f} do "
            f"not make a kappa of {kappa}; check the published figures."
        )
    half = ndtri((1 + level) / 2) * np.sqrt(agreement * (1 - agreement) / n) / (1 - expected)
    return Interval(float(kappa - half), float(kappa + half))


def _agreement(
    kappa: float, sensitivity: float, specificity: float, prevalence: float | None
) -> tuple[float, float]:
    """Return p_o and p_e of a test with this sensitivity and specificity."""
    share = np.array([prevalence]) if prevalence is not None else np.linspace(0.01, 0.99, 981)
    observed = sensitivity * share + specificity * (1 - share)
    called = sensitivity * share + (1 - specificity) * (1 - share)
    chance = called * share + (1 - called) * (1 - share)
    error = np.abs((observed - chance) / (1 - chance) - kappa)
    near = np.flatnonzero(error <= error.min() + 5e-4)  # published figures have three digits
    best = near[np.argmin(np.abs(share[near] - 0.5))]
    return float(observed[best]), float(chance[best])


def _quantiles(resampled: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the quantiles float64[..., K] of [..., R] at levels [..., K], row by row."""
    rows = resampled.reshape(-1, resampled.shape[-1])
    result = np.full((len(rows), levels.shape[-1]), np.nan)
    for row, level, out in zip(rows, levels.reshape(len(rows), -1), result, strict=True):
        row = row[~np.isnan(row)]
        if len(row) and not np.isnan(level).any():
            out[:] = np.quantile(row, level)
    return result.reshape(levels.shape)
