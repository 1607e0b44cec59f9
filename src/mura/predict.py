"""Answer normal or abnormal for images and studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mura.data import ImageError, load_square, study_images
from mura.export import ExportedModel, exported_model
from mura.runs import Run

if TYPE_CHECKING:  # an exported model answers without Keras
    import keras

    Predictor = keras.Model | ExportedModel | Run

BATCH = 32  # images in memory at a time


@dataclass(frozen=True)
class Prediction:
    """The answer for one image or study folder."""

    path: str
    probability: float  # of *abnormal*, the mean over the views; NaN if there is an error
    answer: str  # "normal", "abnormal", or "" if there is an error
    views: int
    error: str  # "" if everything could be read


def answer(probability: float) -> str:
    """Return "abnormal" above 0.5 (MURA paper, section 3.1), else "normal"."""
    return "abnormal" if probability > 0.5 else "normal"


def predict_each(model: Predictor, paths: Iterable[str | Path]) -> list[Prediction]:
    """Predict images (any size and Pillow mode) and study folders, one prediction per path.

    A study's probability is the mean over its views (MURA paper, section 3.1). An unreadable file
    does not stop the others; one unreadable view makes its study an error.
    """
    studies: list[tuple[str, list[Path], str]] = []  # path, views, error
    for path in map(Path, paths):
        try:
            views, error = study_images(path) if path.is_dir() else [path], ""
        except (ImageError, OSError) as problem:
            views, error = [], str(problem)
        studies.append((str(path), views, error))
    probability, errors = _predict_files(model, [file for _, views, _ in studies for file in views])
    predictions, end = [], 0
    for path, views, error in studies:
        own, end = slice(end, end + len(views)), end + len(views)
        error = error or "; ".join(filter(None, errors[own]))
        mean = float("nan") if error else float(probability[own].mean())
        said = "" if error else answer(mean)
        predictions.append(Prediction(path, mean, said, len(views), error))
    return predictions


def predict_paths(model: Predictor, paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return :func:`predict_each` as DataFrame[path, probability, answer, views, error]."""
    columns = list(Prediction.__dataclass_fields__)
    return pd.DataFrame(map(asdict, predict_each(model, paths)), columns=columns)


def _predict_files(model: Predictor, files: Sequence[Path]) -> tuple[np.ndarray, list[str]]:
    """Return probabilities float64[N] (NaN where unreadable) and each file's error, or ""."""
    probability, errors = np.full(len(files), np.nan), [""] * len(files)
    if not files:
        return probability, errors
    if isinstance(model, Run):
        model = exported_model(model) or model.load_model()
    answers = model
    if not isinstance(model, ExportedModel):
        from mura import models

        answers = models.answering(model, few=len(files) <= BATCH)
    for start in range(0, len(files), BATCH):
        images, rows = [], []
        for row, file in enumerate(files[start : start + BATCH], start):
            try:
                images.append(load_square(file, model.input_shape[1]))
                rows.append(row)
            except (ImageError, OSError) as error:
                errors[row] = str(error)
        if images:
            batch = np.stack(images)[..., None]  # uint8[B, S, S, 1]
            probability[rows] = np.asarray(answers(batch))[:, 0]
    return probability, errors
