"""Ensembles: one table of predictions out of several models' tables."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mura.evaluation.metrics import LOWER_IS_BETTER, metric_values
from mura.evaluation.predictions import PredictionsError, aligned, from_logit, to_logit

ENSEMBLES = ("mean", "logit_mean")


def ensemble(
    tables: Mapping[str, pd.DataFrame],
    method: str = "mean",
    weights: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Average the probabilities of models that predicted the same images, or the same studies.

    Args:
        tables: Model name to predictions (rows matched by ``path``) or, where not all tables
            have that column, to studies (matched by ``study``). Different inputs, image sizes or
            numbers of classes do not matter.
        method: ``"mean"`` of probabilities (the paper's) or ``"logit_mean"`` (of log-odds).
        weights: Model name to weight, e.g. how often greedy selection took it; equal when
            ``None``. Models of weight 0 need not be in ``tables``.

    Returns:
        The first table with the ensemble's probabilities.

    Raises:
        PredictionsError: The models predicted different rows, or no weight is positive.
        ValueError: No such method.
    """
    if method not in ENSEMBLES:
        raise ValueError(f"method {method!r}: expected one of {', '.join(ENSEMBLES)}.")
    if weights is not None:
        unknown = [name for name, weight in weights.items() if weight and name not in tables]
        if unknown or not any(weight > 0 for weight in weights.values()):
            raise PredictionsError(
                f"ensemble of {', '.join(tables)}: no predictions of {', '.join(unknown)}."
                if unknown
                else "ensemble: no positive weight; expected at least one."
            )
        tables = {name: table for name, table in tables.items() if weights.get(name, 0)}
    key = "path" if all("path" in table for table in tables.values()) else "study"
    base, probabilities = aligned(tables, key)
    share = np.array([weights[name] if weights is not None else 1.0 for name in tables])
    share = share / share.sum()
    if method == "mean":
        pooled = share @ probabilities
    else:
        pooled = from_logit(share @ to_logit(probabilities))
    return base.assign(probability=np.clip(pooled, 0.0, 1.0))


def greedy_selection(
    tune_studies: Mapping[str, pd.DataFrame],
    metric: str = "auroc",
    size: int = 10,
    method: str = "mean",
) -> dict[str, int]:
    """Choose an ensemble model by model, with replacement, on the tune studies.

    Starting from nothing, add the model that makes the ensemble best, ``size`` times; keep the
    shortest prefix that was the best of all (Caruana et al. 2004, Ensemble Selection from
    Libraries of Models).

    Args:
        tune_studies: Model name to studies that trained no model and are not reported.
        metric: What to improve, a name out of ``METRICS``.
        size: Additions at most.
        method: ``"mean"`` or ``"logit_mean"``, as it will be used in ``ensemble``.

    Returns:
        Model name to how often it was taken, most often first: ``weights`` for ``ensemble``.

    Raises:
        PredictionsError: Different studies, or studies for which the metric is undefined.
    """
    base, probabilities = aligned(tune_studies)
    labels = base["label"].to_numpy(dtype=int)
    values = to_logit(probabilities) if method == "logit_mean" else probabilities
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    taken: list[int] = []
    total = np.zeros(len(base))
    best_score, best_length = -np.inf, 0
    for length in range(1, size + 1):
        candidates = (total + values) / length
        if method == "logit_mean":
            candidates = from_logit(candidates)
        scores = [
            sign * metric_values(labels, row, metrics=(metric,))[metric] for row in candidates
        ]
        if np.isnan(scores).any():
            raise PredictionsError(
                f"greedy selection: {metric} is undefined on these {len(base)} studies; they "
                "need both classes."
            )
        chosen = int(np.argmax(scores))
        taken.append(chosen)
        total += values[chosen]
        if scores[chosen] > best_score + 1e-12:
            best_score, best_length = scores[chosen], length
    names = list(tune_studies)
    kept = [names[index] for index in taken[:best_length]]
    return {name: kept.count(name) for name in sorted(set(kept), key=lambda n: -kept.count(n))}


def five_best(validation_loss: Mapping[str, float], count: int = 5) -> list[str]:
    """Return the names of the runs with the lowest validation loss, best first.

    The paper's ensemble. The losses must be of the same patients and the same question:
    ``history.csv`` of a joint run, say, has that of 14 classes.

    Raises:
        PredictionsError: No runs, or a loss that is no number; names the runs.
    """
    wrong = [name for name, loss in validation_loss.items() if not np.isfinite(loss)]
    if wrong or not validation_loss:
        raise PredictionsError(
            f"five best: no validation loss for {', '.join(wrong) or 'any run'}; leave such runs "
            "out."
        )
    return sorted(validation_loss, key=lambda name: (validation_loss[name], name))[:count]
