"""Intervals and p-values from resampled values (Efron and Tibshirani 1993, chapter 13).

Resamples lie on the last axis; NaN among them (a metric undefined there) is left out.
"""

import warnings
from statistics import NormalDist

import numpy as np

LEVEL = 0.95


def percentile_interval(resampled: np.ndarray) -> np.ndarray:
    """Return float64[..., 2]: the bounds of the central 95 % of the values [..., R]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice")
        bounds = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return np.moveaxis(bounds, 0, -1)


def bootstrap_p_value(difference: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value [...] of resampled differences [..., R] from zero.

    Twice the smaller share of resamples on either side of zero, the observed sample counted as one
    of them; NaN where no resample is defined.
    """
    defined = (~np.isnan(difference)).sum(-1)
    at_most = ((difference <= 0).sum(-1) + 1) / (defined + 1)
    at_least = ((difference >= 0).sum(-1) + 1) / (defined + 1)
    p_value = np.minimum(1.0, 2 * np.minimum(at_most, at_least))
    return np.where(defined > 0, p_value, np.nan)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for multiple comparisons (Holm 1979); NaN stays NaN."""
    p_values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def wilson_interval(successes: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % bounds of a proportion (Wilson 1927); NaN where there were no trials."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = successes / trials
        centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
        half = half * z / (1 + z**2 / trials)
    return centre - half, centre + half
