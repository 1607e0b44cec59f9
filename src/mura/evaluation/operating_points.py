"""Operating points: thresholds chosen on the tune patients and applied unchanged elsewhere."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES, bootstrap
from mura.evaluation.metrics import METRICS, RANKING, kappa_of_counts
from mura.evaluation.predictions import PredictionsError
from mura.evaluation.tables import tabulate

RATE = 0.90  # of the two points that fix a sensitivity or a specificity
# the ranking metrics, Brier score and calibration error do not depend on the threshold
DECISION_METRICS = tuple(m for m in METRICS if m not in (*RANKING, "brier", "ece"))


def operating_points(tune_studies: pd.DataFrame) -> dict[str, float]:
    """Choose thresholds on studies that neither trained the model nor are reported.

    ``"0.5"`` is the paper's; ``"maximum kappa"`` has the highest kappa on these studies (the
    one nearest 0.5 if there are several); ``"sensitivity 0.90"`` is the highest threshold that
    finds 90 % of the abnormal studies, ``"specificity 0.90"`` the lowest that clears 90 % of the
    normal ones. Raises as ``threshold_curve``, whose thresholds these are.
    """
    curve = threshold_curve(tune_studies)
    best = curve[curve["kappa"] >= curve["kappa"].max() - 1e-12]
    nearest = (best["threshold"] - 0.5).abs().idxmin()
    # with a margin: rounding must not decide whether 0.90 was reached
    sensitive = curve[curve["sensitivity"] >= RATE - 1e-9]
    specific = curve[curve["specificity"] >= RATE - 1e-9]
    return {
        "0.5": 0.5,
        "maximum kappa": float(best["threshold"][nearest]),
        f"sensitivity {RATE:.2f}": float(sensitive["threshold"].max()),
        f"specificity {RATE:.2f}": float(specific["threshold"].min()),
    }


def threshold_curve(studies: pd.DataFrame) -> pd.DataFrame:
    """Return what each possible threshold does, lowest first.

    Columns threshold (midway between neighbouring probabilities, and below and above all),
    sensitivity, specificity, precision (NaN where nothing is called abnormal), kappa.

    Raises:
        PredictionsError: Studies of one class only.
    """
    abnormal = studies["label"].to_numpy() == 1
    if abnormal.all() or not abnormal.any():
        found = f"all {len(studies)} studies are {'abnormal' if abnormal.any() else 'normal'}"
        raise PredictionsError(f"operating points: {found}; expected both classes.")
    scores, place = np.unique(studies["probability"].to_numpy(dtype=float), return_inverse=True)
    # row k: the k lowest distinct probabilities are called normal
    fn = np.concatenate([[0], np.cumsum(np.bincount(place, abnormal))])
    tn = np.concatenate([[0], np.cumsum(np.bincount(place, ~abnormal))])
    tp, fp = abnormal.sum() - fn, (~abnormal).sum() - tn
    between = (scores[:-1] + scores[1:]) / 2
    columns = {
        "threshold": [scores[0] / 2 - 0.5, *between, (scores[-1] + 1) / 2],
        "sensitivity": tp / abnormal.sum(),
        "specificity": tn / (~abnormal).sum(),
        "precision": np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), np.nan),
        "kappa": kappa_of_counts((tn, fp, fn, tp)),
    }
    return pd.DataFrame(columns)


def operating_point_table(
    studies: pd.DataFrame,
    thresholds: Mapping[str, float],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the overall metrics of one split's studies at thresholds that were chosen elsewhere.

    Args:
        studies: Of one model, as a rule of ``"valid"``.
        thresholds: As ``operating_points`` returns them for the tune studies.
        resamples, seed: As in ``metric_table``.

    Returns:
        Columns operating_point, threshold, then those of ``metric_table``.
    """
    draws = {"resamples": resamples, "seed": seed}
    tables = [
        tabulate(bootstrap({name: studies}, DECISION_METRICS, threshold, **draws))
        for name, threshold in thresholds.items()
    ]
    table = pd.concat(tables, ignore_index=True).rename(columns={"model": "operating_point"})
    table.insert(1, "threshold", table["operating_point"].map(thresholds))
    return table
