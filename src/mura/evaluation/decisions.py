"""Decisions: from a probability to *normal*, *abnormal* or *not sure*, fitted on tune patients.

An operating point is a pair of bounds on the model's probability: up to the lower one a study is
called normal, above the upper one abnormal, between them *not sure*. A threshold is a pair of equal
bounds. Everything is fitted on studies that neither trained the model nor are reported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES, patient_weights
from mura.evaluation.calibration import Logistic, fit_calibration
from mura.evaluation.intervals import percentile_interval
from mura.evaluation.operating_points import operating_points

SURE = "conformal90"  # the operating point that may say *not sure*
TRAINED = "trained"  # 0.5 (MURA paper, section 3.1): what a model without decisions has
POINTS = (SURE, TRAINED, "kappa", "sensitivity90", "specificity90")
ALPHA = 0.10  # at most this share of each class is called the other


def fit_decisions(tune_studies: pd.DataFrame) -> dict[str, Any]:
    """Return what ``calibration.json`` holds.

    Args:
        tune_studies: One row per study, with ``probability`` and ``label``.

    Returns:
        ``temperature`` and ``shift`` (``calibration.Logistic``), ``studies`` and ``abnormal`` (how
        many there were), and ``points``: [lower, upper] of each of ``POINTS``.

    Raises:
        PredictionsError: Studies of one class only.
    """
    calibration = fit_calibration(tune_studies, "logistic")
    thresholds = [[each, each] for each in operating_points(tune_studies).values()]
    bounds = [conformal_bounds(tune_studies), *thresholds]
    return {
        "temperature": calibration.temperature,
        "shift": calibration.shift,
        "studies": len(tune_studies),
        "abnormal": int(tune_studies["label"].sum()),
        "points": dict(zip(POINTS, bounds, strict=True)),
    }


def conformal_bounds(tune_studies: pd.DataFrame, alpha: float = ALPHA) -> list[float]:
    """Return the bounds beyond which one class alone is plausible: class-wise split conformal.

    A class is plausible while more than ``alpha`` of its tune studies, and the new one, are at
    least as extreme (Vovk, Gammerman and Shafer 2005, section 4.5; Angelopoulos and Bates 2021,
    arXiv 2107.07511, section 4.2). Where both are (an overlap) or neither is (a gap), the answer is
    *not sure*; of exchangeable studies of either class at most ``alpha`` are called the other. With
    fewer than 1 / alpha - 1 studies of a class, no answer excludes it.
    """
    label, probability = tune_studies["label"].to_numpy(), tune_studies["probability"].to_numpy()
    abnormal, normal = np.sort(probability[label == 1]), np.sort(probability[label == 0])[::-1]
    ranks = [int(alpha * (len(each) + 1) + 1e-9) for each in (abnormal, normal)]
    lowest = abnormal[ranks[0] - 1] if ranks[0] else 0.0
    highest = normal[ranks[1] - 1] if ranks[1] else 1.0
    # abnormal is plausible from ``lowest`` on, which is above the float just below it
    return sorted([float(np.nextafter(lowest, -1)), float(highest)])


def decide(probability: np.ndarray, bounds: Sequence[float]) -> np.ndarray:
    """Return "normal", "abnormal" or "not sure" for each of the probabilities: str, same shape."""
    low, high = bounds
    unsure = np.where(probability <= low, "normal", "not sure")
    return np.where(probability > high, "abnormal", unsure)


def calibrated(probability: np.ndarray, decisions: Mapping[str, Any]) -> np.ndarray:
    """Return calibrated probabilities of the same shape."""
    return Logistic(decisions["temperature"], decisions["shift"])(probability)


def coverage_table(
    studies: pd.DataFrame,
    decisions: Mapping[str, Any],
    point: str = SURE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what an operating point does on studies that it was not fitted on.

    Returns:
        Rows "covered, normal" and "covered, abnormal" (not called the other class), "answered" (not
        *not sure*) and "right where answered"; columns measure, value, low, high (95 % over
        patients) and studies (how many it is a share of). NaN where there are none.
    """
    said = decide(studies["probability"].to_numpy(dtype=float), decisions["points"][point])
    truth = np.where(studies["label"].to_numpy() == 1, "abnormal", "normal")
    answered, every = said != "not sure", np.ones(len(said), dtype=bool)
    covered = ~answered | (said == truth)
    rows = {
        "covered, normal": (truth == "normal", covered),
        "covered, abnormal": (truth == "abnormal", covered),
        "answered": (every, answered),
        "right where answered": (answered, covered),
    }
    code, patients = pd.factorize(studies["patient"])
    weights = np.concatenate(list(patient_weights(len(patients), resamples, seed)), axis=1)[code]
    table = []
    with np.errstate(invalid="ignore"):
        for name, (of, hit) in rows.items():
            drawn = (of & hit) @ weights / (of @ weights)
            bounds = percentile_interval(drawn)
            table.append((name, np.divide((of & hit).sum(), of.sum()), *bounds, of.sum()))
    return pd.DataFrame(table, columns=["measure", "value", "low", "high", "studies"])
