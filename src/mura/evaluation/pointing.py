"""How often activation maps point at findings, over patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mura.data import in_source_order
from mura.evaluation.bootstrap import RESAMPLES, patient_weights
from mura.evaluation.intervals import percentile_interval


def pointing_table(pointed: pd.DataFrame, by: str = "finding") -> pd.DataFrame:
    """Summarise what ``explain.pointing_game`` returns: overall and by the values of a column.

    Columns group (``"all"`` first), hits (sum of the images' hits), images, accuracy (hits /
    images), energy and chance (means), low and high (the accuracy's 95 % bootstrap interval over
    patients), and times_chance (accuracy / chance).
    """
    order = in_source_order(pointed[by]).cat.remove_unused_categories().cat.categories
    groups = {"all": np.ones(len(pointed), dtype=bool)}
    groups |= {name: (pointed[by] == name).to_numpy() for name in order}
    means = pointed[["hit", "energy", "chance"]]
    rows = [(n, pointed["hit"][of].sum(), of.sum(), *means[of].mean()) for n, of in groups.items()]
    table = pd.DataFrame(rows, columns=["group", "hits", "images", "accuracy", "energy", "chance"])
    low, high = _accuracy_intervals(pointed, list(groups.values())).T
    return table.assign(low=low, high=high, times_chance=table["accuracy"] / table["chance"])


def _accuracy_intervals(pointed: pd.DataFrame, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return float64[groups, 2]: the interval of hits / images under resampled patients."""
    if pointed.empty:
        return np.full((len(groups), 2), np.nan)
    code, people = pd.factorize(pointed["patient"])
    hit, count = pointed["hit"].to_numpy(dtype=float), len(people)
    # per group and patient
    images = np.array([np.bincount(code, chosen, count) for chosen in groups])
    hits = np.array([np.bincount(code, chosen * hit, count) for chosen in groups])
    shares = []
    for weights in patient_weights(count, RESAMPLES, seed=0):
        drawn = images @ weights
        # a resample may hold no image of a group
        unknown = np.full(drawn.shape, np.nan)
        shares.append(np.divide(hits @ weights, drawn, out=unknown, where=drawn > 0))
    return percentile_interval(np.concatenate(shares, axis=1))
