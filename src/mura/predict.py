"""Answer normal or abnormal for images and studies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mura.data import ImageError, data_name, fit_square, study_images
from mura.data import read as read_manifest
from mura.data.cache import cached
from mura.data.image_checks import read_noted
from mura.data.images import left_out
from mura.export import ExportedModel, exported_model
from mura.files import InputError
from mura.runs import Run

if TYPE_CHECKING:  # an exported model answers without Keras
    import keras
    import pandas as pd

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


def predict_each(
    model: Predictor, paths: Iterable[str | Path], flip: bool = False
) -> list[Prediction]:
    """Predict images (any size and Pillow mode) and study folders, one prediction per path.

    A study's probability is the mean over its views (MURA paper, section 3.1). An unreadable or
    blank file does not stop the others; one such view makes its study an error. ``notes`` says what
    the audit would find (``NOTED``), and what a study's folder holds besides its images. With
    ``flip`` an image's probability is the mean of its own and its mirror image's.
    """
    studies: list[tuple[Path, list[Path], list[str], str]] = []  # path, views, left out, error
    for path in map(Path, paths):
        try:
            views, left = (study_images(path), left_out(path)) if path.is_dir() else ([path], [])
            studies.append((path, views, left, ""))
        except (ImageError, OSError) as problem:
            studies.append((path, [], [], str(problem)))
    files = [file for _, views, _, _ in studies for file in views]
    probability, errors, notes = _predict_files(model, files, flip)
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


def predict_data(run: Run, root: str | Path, flip: bool = False) -> pd.DataFrame:
    """Predict the validation images of a data set, whatever the run was trained on.

    On the data that it was trained on these are of the patients that it held out.

    Args:
        run: Whose model answers.
        root: The data folder or table.
        flip: As for ``predict_each``.

    Returns:
        As ``Run.predictions``, of the split "valid".

    Raises:
        InputError: The data cannot be read, or have no validation images.
    """
    manifest = read_manifest(root)
    held_out = manifest["split"] == "valid"
    if data_name(root) == run.environment["data"]["name"]:
        held_out = manifest["patient"].isin(run.split.loc[run.split["part"] == "valid", "patient"])
    if not held_out.any():
        raise InputError(f"{root}: no validation images; name data that have some.")
    model = run.load_model()
    pixels = cached(manifest, root, model.input_shape[1])
    answers, rows = _answers(model, few=False, flip=flip), np.flatnonzero(held_out)
    chunks = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    probability = [np.asarray(answers(np.asarray(pixels[chunk])[..., None])) for chunk in chunks]
    columns = ["path", "study", "view", "body_part", "patient", "label"]
    table = manifest.loc[held_out, columns].reset_index(drop=True)
    probability = np.concatenate(probability)[:, 0].astype(np.float64)
    return table.assign(split="valid", probability=probability)


def _answers(model: keras.Model | ExportedModel, few: bool, flip: bool) -> Callable:
    """Return the function from uint8[B, S, S, 1] to the probabilities [B, 1]."""
    answers = model
    if not isinstance(model, ExportedModel):
        from mura import models

        answers = models.answering(model, few=few)
    if not flip:
        return answers
    return lambda batch: (np.asarray(answers(batch)) + np.asarray(answers(batch[:, :, ::-1]))) / 2


def _predict_files(
    model: Predictor, files: Sequence[Path], flip: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return probabilities float64[N] (NaN for an error), and each file's error and note, or ""."""
    probability, errors, notes = np.full(len(files), np.nan), [""] * len(files), [""] * len(files)
    if not files:
        return probability, errors, notes
    if isinstance(model, Run):
        model = exported_model(model) or model.load_model()
    answers = _answers(model, len(files) <= BATCH, flip)
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
