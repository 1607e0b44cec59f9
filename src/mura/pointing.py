"""Measure whether activation maps point at findings whose place is known: the pointing game.

Zhang et al. 2016, arXiv 1608.00507, section 4.1: a map hits when its maximum lies on the object.
Chance is the share of the image that the object's box covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mura.evaluation import read_truth
from mura.localization import LocalizationError, look
from mura.manifest import BODY_PARTS
from mura.runs import Run

if TYPE_CHECKING:
    import keras


def pointing_game(
    model: keras.Model | Run,
    root: str | Path,
    predictions: pd.DataFrame,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """Measure on a phantom whether the maps point at the findings.

    Args:
        model: A model of this project or the run that holds it.
        root: The phantom's data folder.
        predictions: One row per image, with ``path`` and ``body_part``: those to be looked at. With
            the model's ``probability`` as well, only those that it calls abnormal are read.
        threshold: Images with a probability above it are called abnormal.

    Returns:
        One row per image that shows its finding and is called abnormal (there may be none): path,
        body_part, finding, probability, hit (bool: the map's maximum lies in the finding's box),
        energy (share of the map inside the box, 0-1), chance (share of the image that the box
        covers: what a random point would hit, and what an even map would hold).

    Raises:
        LocalizationError: The folder has no truth table.
    """
    truth = read_truth(root)
    if truth is None:
        raise LocalizationError(
            f"{root}: no truth.csv beside it; findings are only known on a phantom."
        )
    visible = truth[truth["visible"] == 1].set_index("path")
    rows = predictions[predictions["path"].isin(visible.index)]
    if "probability" in rows:
        rows = rows[rows["probability"] > threshold]
    found = []
    for part, view in zip(rows["body_part"], look(model, root, rows), strict=True):
        if view.probability > threshold:
            hit, energy, chance = points_at(view.activation, view.box, view.image.shape)
            facts = (view.path, str(part), visible.loc[view.path, "finding"], view.probability)
            found.append((*facts, hit, energy, chance))
    columns = ["path", "body_part", "finding", "probability", "hit", "energy", "chance"]
    # a table without rows has the same dtypes, so that tables can be joined
    numbers = {"probability": float, "hit": bool, "energy": float, "chance": float}
    return pd.DataFrame(found, columns=columns).astype(numbers)


def pointing_table(pointed: pd.DataFrame, by: str = "finding") -> pd.DataFrame:
    """Summarise ``pointing_game``, overall and for each value of a column.

    Returns:
        Columns group (``"all"`` first), hits, images, accuracy (hits / images), energy and chance
        (means), and times_chance (accuracy / chance).
    """
    order = [part for part in BODY_PARTS if part in set(pointed[by])] or sorted(set(pointed[by]))
    groups = {"all": pointed} | {name: pointed[pointed[by] == name] for name in order}
    table = pd.DataFrame(
        [
            (name, int(rows["hit"].sum()), len(rows), *rows[["hit", "energy", "chance"]].mean())
            for name, rows in groups.items()
        ],
        columns=["group", "hits", "images", "accuracy", "energy", "chance"],
    )
    return table.assign(times_chance=table["accuracy"] / table["chance"])


def points_at(
    activation: np.ndarray, box: Sequence[float], shape: tuple[int, int]
) -> tuple[bool, float, float]:
    """Say whether a map's maximum lies in a box, how much of the map does, and how large it is.

    Args:
        activation: float[h, w], at least 0, of the whole image at any resolution.
        box: x0, y0, x1, y1 in pixels of the image.
        shape: The image's height and width in pixels.

    Returns:
        hit, energy (0-1) and the box's share of the image (0-1). A map of zeros points nowhere:
        no hit, no energy.
    """
    x0, y0, x1, y1 = box
    height, width = shape
    rows, columns = activation.shape
    # how much of each row and column of the map the box covers, 0-1
    down = _covered(y0 * rows / height, y1 * rows / height, rows)
    across = _covered(x0 * columns / width, x1 * columns / width, columns)
    total = float(activation.sum())
    energy = float(down @ activation @ across) / total if total > 0 else 0.0
    top, left = np.unravel_index(np.argmax(activation), activation.shape)
    y, x = (top + 0.5) * height / rows, (left + 0.5) * width / columns
    hit = total > 0 and x0 <= x < x1 and y0 <= y < y1
    return bool(hit), energy, (x1 - x0) * (y1 - y0) / (height * width)


def _covered(low: float, high: float, count: int) -> np.ndarray:
    """Return the share of each unit interval [i, i + 1) that lies between low and high."""
    edges = np.clip(np.arange(count + 1), low, high)
    return np.diff(edges)
