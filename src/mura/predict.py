"""Ask a model: images and studies in; normal, abnormal or not sure out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mura.data import ImageError, data_name, fit_square, study_images
from mura.data import read as read_manifest
from mura.data.cache import cached
from mura.data.image_checks import read_noted
from mura.data.images import left_out, unpadded
from mura.evaluation.decisions import SURE, TRAINED, calibrated, decide
from mura.export import ExportedModel, LoadedModel, exported_model
from mura.files import InputError
from mura.runs import Run, is_run_folder, models_folder

if TYPE_CHECKING:  # an exported model answers without Keras
    import keras
    import pandas as pd

    Predictor = keras.Model | ExportedModel | Run

BATCH = 32  # images in memory at a time
BUNDLED = Path(__file__).parent / "bundled"
UNKNOWN = "does not look like the radiographs that this model learned from"


@dataclass(frozen=True)
class View:
    """What a model says of one image file."""

    path: str
    probability: float  # of *abnormal*; NaN if there is an error
    image: np.ndarray | None = None  # uint8[H, W]; None if there is an error
    activation: np.ndarray | None = None  # float32[h, w] in 0-1, of the whole image; None: no map
    known: bool | None = None  # whether it is like the fit images; None: the model cannot tell
    error: str = ""
    notes: str = ""  # what is unusual about it


@dataclass(frozen=True)
class Prediction:
    """The answer for one image or study folder."""

    path: str
    probability: float  # of *abnormal*, the mean over the views; NaN if there is an error
    calibrated: float | None  # the share abnormal among such tune studies; None: not calibrated
    answer: str  # "normal", "abnormal", "not sure", or "" if there is an error
    at: str  # the operating point
    views: int
    known: bool | None  # whether every view is like the fit images; None: the model cannot tell
    error: str  # "" if everything could be read and no image is blank
    notes: str  # what is unusual about the images, and which files were left out; else ""


def predict_each(
    model: Predictor, paths: Iterable[str | Path], flip: bool = False, at: str | None = None
) -> list[Prediction]:
    """Predict images (any size and Pillow mode) and study folders, one prediction per path.

    A study's probability is the mean over its views (MURA paper, section 3.1). An unreadable or
    blank file does not stop the others; one such view makes its study an error. ``notes`` says what
    the audit would find (``NOTED``), which images the model does not know, and what a study's
    folder holds besides its images.

    Args:
        model: A run answers by its export where it has one.
        paths: Images and folders.
        flip: Whether an image's probability is the mean of its own and its mirror image's.
        at: An operating point (``decisions.POINTS``); None: the conformal one, which may say *not
            sure*, or 0.5 for a model without decisions.

    Raises:
        InputError: The model has no such operating point.
    """
    studies: list[tuple[Path, list[Path], list[str], str]] = []  # path, views, left out, error
    for path in map(Path, paths):
        try:
            views, left = (study_images(path), left_out(path)) if path.is_dir() else ([path], [])
            studies.append((path, views, left, ""))
        except (ImageError, OSError) as problem:
            studies.append((path, [], [], str(problem)))
    files = [file for _, views, _, _ in studies for file in views]
    if not studies:
        return []
    model = opened(model, few=len(files) <= BATCH)
    answers = look(model, files, flip)
    return [
        pooled(str(path), [next(answers) for _ in views], model.decisions, at, left, error)
        for path, views, left, error in studies
    ]


def pooled(
    path: str,
    views: Sequence[View],
    decisions: Mapping[str, Any] | None,
    at: str | None = None,
    left: Sequence[str] = (),
    error: str = "",
) -> Prediction:
    """Return the answer of one study; the arguments are as in ``predict_each`` and ``View``."""
    points = decisions["points"] if decisions else {TRAINED: (0.5, 0.5)}
    at = at or (SURE if SURE in points else TRAINED)
    if at not in points:
        found = f"this model has {', '.join(points)}"
        raise InputError(f"operating point {at!r}: {found}; choose one of these.")
    error = error or "; ".join(view.error for view in views if view.error)
    mean = float("nan") if error else float(np.mean([view.probability for view in views]))
    notes = []
    for view in views:
        said = "; ".join(filter(None, (UNKNOWN if view.known is False else "", view.notes)))
        if said:
            notes.append(said if view.path == path else f"{Path(view.path).name}: {said}")
    if left:
        more = f" and {len(left) - 10} more" if len(left) > 10 else ""
        notes.append(f"left out: {', '.join(left[:10])}{more}")
    known = {view.known for view in views}
    return Prediction(
        path=path,
        probability=mean,
        calibrated=float(calibrated(mean, decisions)) if decisions and not error else None,
        answer="" if error else str(decide(mean, points[at])),
        at=at,
        views=len(views),
        known=None if None in known or error else False not in known,
        error=error,
        notes="; ".join(notes),
    )


def opened(model: Predictor, few: bool = True, maps: bool = False) -> ExportedModel | LoadedModel:
    """Return a model that is ready to answer; a run's export where there is one.

    ``few``: whether it is for so few images that tracing a graph is not worth it; ``maps``: whether
    a Keras model gives its maps, too.
    """
    if isinstance(model, Run):
        return exported_model(model) or LoadedModel(model.load_model(), model, few, maps)
    return model if isinstance(model, ExportedModel) else LoadedModel(model, None, few, maps)


def look(
    model: ExportedModel | LoadedModel, files: Sequence[Path], flip: bool = False
) -> Iterator[View]:
    """Yield what the model says of each file, in order; an unreadable one has an ``error``."""
    for start in range(0, len(files), BATCH):
        chosen = files[start : start + BATCH]
        images: dict[int, np.ndarray] = {}
        notes, errors = [""] * len(chosen), [""] * len(chosen)
        for row, file in enumerate(chosen):
            try:
                images[row], notes[row] = read_noted(file)
            except (ImageError, OSError) as error:
                errors[row] = str(error)
        answers: dict[str, np.ndarray] = {}
        if images:
            squares = [fit_square(image, model.input_shape[1]) for image in images.values()]
            answers = _answer(model, np.stack(squares)[..., None], flip)
        place = {row: index for index, row in enumerate(images)}
        for row, file in enumerate(chosen):
            if errors[row]:
                yield View(str(file), float("nan"), error=errors[row], notes=notes[row])
                continue
            index, image, activation, known = place[row], images[row], None, None
            if "map" in answers:
                activation = unpadded(answers["map"][index], *image.shape)
            if "distance" in answers and model.threshold is not None:
                known = bool(answers["distance"][index, 0] <= model.threshold)
            probability = float(answers["probability"][index, 0])
            yield View(str(file), probability, image, activation, known, notes=notes[row])


def _answer(
    model: ExportedModel | LoadedModel, images: np.ndarray, flip: bool
) -> dict[str, np.ndarray]:
    """Return what the model says of uint8[B, S, S, 1]; with ``flip`` averaged with the mirror."""
    answers = model(images)
    if flip:
        mirrored = model(images[:, :, ::-1])["probability"]
        answers["probability"] = (answers["probability"] + mirrored) / 2
    return answers


def bundled() -> list[Path]:
    """Return the exported models that come with the package, one of radiographs first."""
    return sorted(BUNDLED.glob("*.tflite"), key=lambda path: (path.stem == "phantom", path.stem))


def open_model(name: str | Path, models: str | Path | None = None) -> Predictor:
    """Open a model file, a run by its folder or name under ``models``, or a bundled model by name.

    Raises:
        InputError: There is no such model, or it cannot be used.
    """
    file, named = Path(name).expanduser(), {path.stem: path for path in bundled()}
    if str(name) in named and not (file.exists() or is_run_folder(models_folder(models) / file)):
        return ExportedModel(named[str(name)])
    if file.suffix == ".tflite":
        return ExportedModel(file)
    if file.suffix == ".keras" and not file.is_dir():
        from mura.models import load

        return load(file)
    return Run.load(name, models)


def choose_model(
    paths: Sequence[Path], run: str | None = None, models: str | Path | None = None
) -> tuple[Predictor, Sequence[Path]]:
    """Return the model that answers, and the images.

    The model is ``run`` where it is given; else the first path where that is one for
    ``open_model``; else the first bundled one.

    Raises:
        InputError: The first path is a run's name and also a file; there is no such model; or
            there is no image.
    """
    if run:
        return open_model(run, models), paths
    first = paths[0].expanduser()
    by_name = is_run_folder(models_folder(models) / first)
    is_model = is_run_folder(first) or first.suffix in (".keras", ".tflite")
    if by_name and first.exists() and not is_model:
        found = f"{first}: the name of a run, and also of a file here"
        raise InputError(f"{found}; name the model that answers with --run.")
    # a word that is no file is a mistyped run
    if not (is_model or by_name or (not first.exists() and not first.suffix)):
        return ExportedModel(bundled()[0]), paths
    model = open_model(first, models)
    if len(paths) == 1:
        raise InputError(f"{first}: the model that answers; name an image or a study, too.")
    return model, paths[1:]


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
    model = LoadedModel(run.load_model(), few=False)
    pixels = cached(manifest, root, model.input_shape[1])
    rows = np.flatnonzero(held_out)
    chunks = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    answers = [_answer(model, np.asarray(pixels[chunk])[..., None], flip) for chunk in chunks]
    probability = np.concatenate([each["probability"] for each in answers])[:, 0]
    columns = ["path", "study", "view", "body_part", "patient", "label"]
    table = manifest.loc[held_out, columns].reset_index(drop=True)
    return table.assign(split="valid", probability=probability.astype(np.float64))
