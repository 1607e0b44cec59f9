"""Ensembles: one table of predictions from several models' tables."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mura.evaluation.metrics import metric_values
from mura.evaluation.predictions import PredictionsError, aligned


def ensemble(tables: Mapping[str, pd.DataFrame], weights: Mapping[str, float]) -> pd.DataFrame:
    """Return the first table with the models' weighted mean probability; raises as ``aligned``."""
    base, probabilities = aligned(tables)
    share = np.array([weights[name] for name in tables], dtype=float)
    pooled = share / share.sum() @ probabilities
    return base.assign(probability=np.clip(pooled, 0.0, 1.0))


def greedy_selection(tune_studies: Mapping[str, pd.DataFrame], size: int = 10) -> dict[str, int]:
    """Choose an ensemble by AUROC, model by model and with replacement, on the tune studies.

    Add the model that improves the ensemble most, ``size`` times; keep the shortest prefix that
    was the best of all (Caruana et al. 2004, Ensemble Selection from Libraries of Models).

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
        means = (total + probabilities) / length
        scores = [metric_values(labels, row, metrics=["auroc"])["auroc"] for row in means]
        if np.isnan(scores).any():
            raise PredictionsError(
                f"greedy selection: AUROC needs both classes; these {len(base)} studies have one."
            )
        chosen = int(np.argmax(scores))
        taken.append(chosen)
        total += probabilities[chosen]
        if scores[chosen] > best_score + 1e-12:
            best_score, best_length = scores[chosen], length
    names = list(tune_studies)
    kept = [names[index] for index in taken[:best_length]]
    return {name: kept.count(name) for name in sorted(set(kept), key=lambda n: -kept.count(n))}
