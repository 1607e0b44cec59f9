"""Answer normal or abnormal for images and studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mura.data import ImageError, fit_square, study_images
from mura.data.image_checks import read_noted
from mura.data.images import left_out
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
    error: str  # "" if everything could be read and no image is blank
    notes: str  # what is unusual about the images, and which files were left out; else ""


def answer(probability: float) -> str:
    """Return "abnormal" above 0.5 (MURA paper, section 3.1), else "normal"."""
    return "abnormal" if probability > 0.5 else "normal"


def predict_each(model: Predictor, paths: Iterable[str | Path]) -> list[Prediction]:
    """Predict images (any size and Pillow mode) and study folders, one prediction per path.

    A study's probability is the mean over its views (MURA paper, section 3.1). An unreadable or
    blank file does not stop the others; one such view makes its study an error. ``notes`` says what
    the audit would find (``NOTED``), and what a study's folder holds besides its images.
    """
    studies: list[tuple[Path, list[Path], list[str], str]] = []  # path, views, left out, error
    for path in map(Path, paths):
        try:
            views, left = (study_images(path), left_out(path)) if path.is_dir() else ([path], [])
            studies.append((path, views, left, ""))
        except (ImageError, OSError) as problem:
            studies.append((path, [], [], str(problem)))
    files = [file for _, views, _, _ in studies for file in views]
    probability, errors, notes = _predict_files(model, files)
    predictions, end = [], 0
    for path, views, left, error in studies:
        own, end = slice(end, end + len(views)), end + len(views)
        error = error or "; ".join(filter(None, errors[own]))
        mean = float("nan") if error else float(probability[own].mean())
        said = "" if error else answer(mean)
        noted = zip(views, notes[own], strict=True)
        noted = [n if file == path else f"{file.name}: {n}" for file, n in noted if n]
        if left:
            more = f" and {len(left) - 10} more" if len(left) > 10 else ""
            noted.append(f"left out: {', '.join(left[:10])}{more}")
        predictions.append(Prediction(str(path), mean, said, len(views), error, "; ".join(noted)))
    return predictions


def _predict_files(
    model: Predictor, files: Sequence[Path]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return probabilities float64[N] (NaN for an error), and each file's error and note, or ""."""
    probability, errors, notes = np.full(len(files), np.nan), [""] * len(files), [""] * len(files)
    if not files:
        return probability, errors, notes
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
                gray, notes[row] = read_noted(file)
            except (ImageError, OSError) as error:
                errors[row] = str(error)
                continue
            images.append(fit_square(gray, model.input_shape[1]))
            rows.append(row)
        if images:
            batch = np.stack(images)[..., None]  # uint8[B, S, S, 1]
            probability[rows] = np.asarray(answers(batch))[:, 0]
    return probability, errors, notes
