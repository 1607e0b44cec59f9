"""The pointing game: whether activation maps point at findings whose place is known.

Zhang et al. 2016, arXiv 1608.00507, section 4.1: a map hits when its maximum lies on the object.
An enlarged coarse map has its maximum on a plateau; its hit is then the share of the plateau that
lies on the object. Chance is the share of the image that the object's boxes cover.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from mura.data import boxes
from mura.explain.cam import LocalizationError, look
from mura.runs import Run

TIED = 1e-6  # places this close to the maximum, as a share of it, are maxima too


def pointing_game(
    model: keras.Model | Run, root: str | Path, predictions: pd.DataFrame
) -> pd.DataFrame:
    """Measure whether the maps point at the findings, where the data say where those are.

    Args:
        model, root: As for ``explain.look``.
        predictions: The model's predictions, one row per image.

    Returns:
        One row per image that shows its finding and has a probability above 0.5 (there may be
        none): path, patient, body_part, finding, probability, hit (the share of the map's maxima
        whose centre lies in one of the finding's boxes), energy (the share of the map inside them)
        and chance (the share of the image that they cover), each 0-1. No rows of a model that
        has no maps.

    Raises:
        LocalizationError: The data do not say where findings are.
    """
    places = boxes(root)
    if places is None:
        raise LocalizationError(
            f"{root}: does not say where its findings are; a phantom and FracAtlas do."
        )
    findings = places.drop_duplicates("path").set_index("path")["finding"]
    called = predictions["path"].isin(findings.index) & (predictions["probability"] > 0.5)
    rows = predictions.loc[called, ["path", "patient", "body_part"]].reset_index(drop=True)
    views = look(model, root, rows)
    if any(view.activation is None for view in views):  # ``look`` has warned
        rows, views = rows.head(0), []
    measured = [points_at(view.activation, view.boxes, view.image.shape) for view in views]
    # as floats even where there are none, so that tables can be joined
    numbers = pd.DataFrame(measured, columns=["hit", "energy", "chance"], dtype=float)
    probability = np.array([view.probability for view in views], dtype=float)
    facts = {"finding": rows["path"].map(findings), "probability": probability}
    return rows.astype({"path": str, "patient": str}).assign(**facts).join(numbers)


def pointed(run: Run, root: str | Path | None) -> pd.DataFrame | None:
    """Return what ``pointing_game`` says of a run's validation images; None where it cannot be.

    A reference run brings its own; any other is played if the data are here and say where findings
    are.
    """
    kept = run.folder / "pointing.csv"
    if run.is_reference:
        return pd.read_csv(kept) if kept.is_file() else None
    if root is None or boxes(root) is None:
        return None
    return pointing_game(run, root, run.predictions.query("split == 'valid'"))


def all_pointed(runs: Mapping[str, Run], root: str | Path | None) -> pd.DataFrame:
    """Return ``pointed`` of several runs in one table, with a column ``model``; maybe no rows."""
    tables = {name: pointed(run, root) for name, run in runs.items()}
    there = [table.assign(model=name) for name, table in tables.items() if table is not None]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame({"model": []})


def points_at(
    activation: np.ndarray, places: Sequence[Sequence[float]], shape: tuple[int, int]
) -> tuple[float, float, float]:
    """Compare a map with a finding's boxes.

    Args:
        activation: float[h, w], at least 0, of the whole image at any resolution.
        places: x0, y0, x1, y1 of each box, in pixels of the image.
        shape: The image's height and width in pixels.

    Returns:
        hit, energy and chance as in ``pointing_game``; a map of zeros has no hit and no energy.
    """
    (height, width), (rows, columns) = shape, activation.shape
    inside = np.zeros(shape)  # each pixel's share that a box covers; boxes may overlap
    covered = np.zeros(activation.shape)  # and each cell's
    for x0, y0, x1, y1 in places:
        pixels = np.outer(_covered(y0, y1, height), _covered(x0, x1, width))
        down = _covered(y0 * rows / height, y1 * rows / height, rows)
        across = _covered(x0 * columns / width, x1 * columns / width, columns)
        inside = np.maximum(inside, pixels)
        covered = np.maximum(covered, np.outer(down, across))
    total, chance = float(activation.sum()), float(inside.mean())
    if total <= 0:
        return 0.0, 0.0, chance
    energy = float((covered * activation).sum()) / total
    top, left = np.nonzero(activation >= activation.max() * (1 - TIED))
    y, x = (top + 0.5) * height / rows, (left + 0.5) * width / columns
    hits = [(x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) for x0, y0, x1, y1 in places]
    return float(np.any(hits, axis=0).mean()), energy, chance


def _covered(low: float, high: float, count: int) -> np.ndarray:
    """Return the share of each unit interval [i, i + 1) that lies between low and high."""
    return np.diff(np.clip(np.arange(count + 1), low, high))
