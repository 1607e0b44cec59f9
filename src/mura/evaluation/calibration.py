"""Calibration: what 70 % means, and how to make it mean 70 %.

They are fitted on the tune studies and keep the order of the probabilities, so AUROC stays
(isotonic steps may add ties). With the MURA paper's weighted loss, a model learns the probability
for equally many normal and abnormal images. Where fewer are abnormal this is too high; shifting
the log-odds corrects it, dividing them does not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mura.evaluation.intervals import wilson_interval
from mura.evaluation.metrics import CALIBRATION_BINS, calibration_bin
from mura.evaluation.predictions import PredictionsError, from_logit, to_logit

CALIBRATIONS = ("temperature", "logistic", "isotonic")


@dataclass(frozen=True)
class Logistic:
    """Log-odds divided by one number (Guo et al. 2017), then shifted by another (Platt 1999)."""

    temperature: float  # above 1 where a model is overconfident
    shift: float = 0.0  # log-odds; below 0 where fewer studies are abnormal than the model expects

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities of the same shape."""
        return from_logit(to_logit(probabilities) / self.temperature + self.shift)


Calibration = Callable[[np.ndarray], np.ndarray]


def fit_calibration(tune_studies: pd.DataFrame, method: str = "temperature") -> Calibration:
    """Fit a calibration on studies that neither trained the model nor are reported.

    Args:
        tune_studies: One row per study, with ``probability`` and ``label``.
        method: ``"temperature"`` (one parameter: safe on few studies), ``"logistic"`` (two: also
            corrects for another share of abnormal studies) or ``"isotonic"`` (any non-decreasing
            shape: needs hundreds of studies).

    Returns:
        A function from probabilities to calibrated ones; a ``Logistic`` unless isotonic.

    Raises:
        PredictionsError: Studies of one class only.
        ValueError: No such method.
    """
    if method not in CALIBRATIONS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(CALIBRATIONS)}.")
    # imported here: these two take longer than everything else in this package
    from scipy.optimize import minimize, minimize_scalar
    from sklearn.isotonic import IsotonicRegression

    labels = tune_studies["label"].to_numpy(dtype=float)
    probabilities = tune_studies["probability"].to_numpy(dtype=float)
    if len(np.unique(labels)) < 2:
        found = f"the {len(labels)} studies are of one class"
        raise PredictionsError(f"calibration: {found}; expected both.")
    if method == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return fitted.fit(probabilities, labels).predict
    sign, logits = np.where(labels == 1, 1.0, -1.0), to_logit(probabilities)

    def loss(log_temperature: float, shift: float = 0.0) -> float:
        moved = logits / np.exp(log_temperature) + shift
        return float(np.logaddexp(0.0, -sign * moved).mean())

    # 1/20 to 20: beyond that the model is either noise or perfect on these studies
    limits = (-3.0, 3.0)
    found = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-8})
    if method == "temperature":
        return Logistic(float(np.exp(found.x)))
    both = minimize(lambda x: loss(*x), [found.x, 0.0], bounds=[limits, (-10.0, 10.0)], tol=1e-12)
    return Logistic(float(np.exp(both.x[0])), float(both.x[1]))


def calibrate(table: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Return studies (or predictions) with their probabilities calibrated."""
    return table.assign(probability=calibration(table["probability"].to_numpy(dtype=float)))


def reliability_table(studies: pd.DataFrame, bins: int = CALIBRATION_BINS) -> pd.DataFrame:
    """Return how often studies of about the same probability are abnormal, a row per equal bin.

    Columns low, high (the bin's edges), studies, probability (mean), abnormal (share),
    abnormal_low, abnormal_high (95 % Wilson interval); NaN where a bin is empty.
    """
    probabilities = studies["probability"].to_numpy(dtype=float)
    bin_ = calibration_bin(probabilities, bins)
    count = np.bincount(bin_, minlength=bins)
    abnormal = np.bincount(bin_, studies["label"].to_numpy(dtype=float), minlength=bins)
    low, high = wilson_interval(abnormal, count)
    edges = np.arange(bins + 1) / bins
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_, probabilities, minlength=bins) / count
        share = abnormal / count
    columns = "low high studies probability abnormal abnormal_low abnormal_high"
    values = (edges[:-1], edges[1:], count, mean, share, low, high)
    return pd.DataFrame(dict(zip(columns.split(), values, strict=True)))
