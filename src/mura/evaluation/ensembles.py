"""Ensembles: one table of predictions from several models' tables."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mura.evaluation.metrics import metric_values
from mura.evaluation.predictions import PredictionsError, aligned


def ensemble(tables: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> pd.DataFrame:
    """Average the probabilities of models that predicted the same studies.

    Args:
        tables: Model name to studies.
        weights: Model name to weight, one for each table.

    Returns:
        The first table with the ensemble's probabilities.

    Raises:
        PredictionsError: As ``aligned``.
    """
    base, probabilities = aligned(tables)
    share = np.array([weights[name] for name in tables], dtype=float)
    pooled = share / share.sum() @ probabilities
    return base.assign(probability=np.clip(pooled, 0.0, 1.0))


def greedy_selection(tune_studies: Mapping[str, pd.DataFrame], size: int = 10) -> dict[str, int]:
    """Choose an ensemble by AUROC, model by model and with replacement, on the tune studies.

    Add the model that improves the ensemble most, ``size`` times; keep the shortest prefix that
    was the best of all (Caruana et al. 2004, Ensemble Selection from Libraries of Models).

    Args:
        tune_studies: Model name to studies that trained no model and are not reported.
        size: Additions at most.

    Returns:
        Model name to how often it was taken, most often first: ``weights`` for ``ensemble``.

    Raises:
        PredictionsError: Different studies, or studies of one class.
    """
    base, probabilities = aligned(tune_studies)
    labels = base["label"].to_numpy(dtype=int)
    taken: list[int] = []
    total = np.zeros(len(base))
    best_score, best_length = -np.inf, 0
    for length in range(1, size + 1):
        scores = [
            metric_values(labels, row, metrics=("auroc",))["auroc"]
            for row in (total + probabilities) / length
        ]
        if np.isnan(scores).any():
            raise PredictionsError(
                f"greedy selection: AUROC is undefined on these {len(base)} studies; they need "
                "both classes."
            )
        chosen = int(np.argmax(scores))
        taken.append(chosen)
        total += probabilities[chosen]
        if scores[chosen] > best_score + 1e-12:
            best_score, best_length = scores[chosen], length
    names = list(tune_studies)
    kept = [names[index] for index in taken[:best_length]]
    return {name: kept.count(name) for name in sorted(set(kept), key=lambda n: -kept.count(n))}
