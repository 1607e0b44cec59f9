"""An image or a study in; normal or abnormal out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mura.images import ImageError, load_square
from mura.runs import Run

if TYPE_CHECKING:
    import keras

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def answer(probability: float, threshold: float = 0.5) -> str:
    """Return "abnormal" above the threshold (the paper's rule, section 3.1), else "normal"."""
    return "abnormal" if probability > threshold else "normal"


def predict_image(model: keras.Model | Run, path: str | Path) -> float:
    """Return the probability that the radiograph in one file shows a finding, 0-1.

    Raises:
        ImageError: The file is no image that can be read.
    """
    return float(predict_files(model, [path])["probability"].iloc[0])


def predict_study(model: keras.Model | Run, folder: str | Path) -> float:
    """Return a study's probability: the mean over the views in its folder (paper, section 3.1).

    Raises:
        ImageError: The folder holds no image, or one that cannot be read.
    """
    return float(predict_files(model, study_images(folder))["probability"].mean())


def study_images(folder: str | Path) -> list[Path]:
    """Return a study folder's images by name, without the ``._*`` files that macOS leaves.

    Raises:
        ImageError: There is none.
    """
    folder = Path(folder)
    images = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not images:
        raise ImageError(f"{folder}: no images here; name an image or a study's folder.")
    return images


def predict_paths(model: keras.Model | Run, paths: Iterable[str | Path]) -> pd.DataFrame:
    """Predict images and study folders; one that cannot be read does not stop the others.

    Returns:
        DataFrame[path, probability, answer ("normal", "abnormal" or ""), views, error], one row
        per path in its order; the probability of a folder is the mean over its views.
    """
    files: list[Path] = []
    rows = []
    for path in map(Path, paths):
        row = {"path": str(path), "error": "", "first": len(files)}
        try:
            files += study_images(path) if path.is_dir() else [path]
        except (ImageError, OSError) as error:
            row["error"] = str(error)
        rows.append(row | {"views": len(files) - row["first"]})
    predicted = predict_files(model, files, skip_unreadable=True)
    for row in rows:
        views = predicted.iloc[row["first"] : row.pop("first") + row["views"]]
        row["error"] = row["error"] or "; ".join(filter(None, views["error"]))
        row["probability"] = float("nan") if row["error"] else float(views["probability"].mean())
        row["answer"] = "" if row["error"] else answer(row["probability"])
    return pd.DataFrame(rows)[["path", "probability", "answer", "views", "error"]]


def predict_files(
    model: keras.Model | Run,
    paths: Iterable[str | Path],
    batch_size: int = 32,
    skip_unreadable: bool = False,
) -> pd.DataFrame:
    """Predict image files, a batch in memory at a time.

    Args:
        model: A model of this project, or the run that holds it.
        paths: Image files of any size and Pillow mode.
        batch_size: Images per step.
        skip_unreadable: Whether an unreadable file becomes a row with an error instead of
            stopping the rest.

    Returns:
        DataFrame[path (str), probability (float64, NaN where unreadable), error (str, "" where
        readable)] in the order of ``paths``.

    Raises:
        ImageError: A file cannot be read, and ``skip_unreadable`` is false.
    """
    if isinstance(model, Run):
        model = model.load_model()
    paths = [Path(path) for path in paths]
    size = model.input_shape[1]
    probability = np.full(len(paths), np.nan)
    errors = [""] * len(paths)
    for start in range(0, len(paths), batch_size):
        images, rows = [], []
        for row in range(start, min(start + batch_size, len(paths))):
            try:
                images.append(load_square(paths[row], size))
                rows.append(row)
            except (ImageError, OSError) as error:
                if not skip_unreadable:
                    raise
                errors[row] = str(error)
        if images:
            batch = np.stack(images)[..., None]  # uint8[B, S, S, 1]
            probability[rows] = np.asarray(model.predict_on_batch(batch))[:, 0]
    return pd.DataFrame(
        {"path": [str(path) for path in paths], "probability": probability, "error": errors}
    )
