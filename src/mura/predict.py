"""An image or a study in; normal or abnormal out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mura.data.images import ImageError, load_square
from mura.runs import Run
from mura.training import device as compute

if TYPE_CHECKING:  # pandas and Keras are imported where they are needed: a cold answer waits
    import keras
    import pandas as pd

    from mura.export import ExportedModel

    Predictor = keras.Model | ExportedModel | Run

# Of files in the formats that ``mura.images`` reads.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm"),
)


def answer(probability: float, threshold: float = 0.5) -> str:
    """Return "abnormal" above the threshold (the paper's rule, section 3.1), else "normal"."""
    return "abnormal" if probability > threshold else "normal"


def predict_image(model: Predictor, path: str | Path) -> float:
    """Return the probability that the radiograph in one file shows a finding, 0-1.

    Raises:
        ImageError: The file is no image that can be read.
    """
    return float(_probabilities(model, [path])[0][0])


def predict_study(model: Predictor, folder: str | Path) -> float:
    """Return a study's probability: the mean over the views in its folder (paper, section 3.1).

    Raises:
        ImageError: The folder holds no image, or one that cannot be read.
    """
    return float(_probabilities(model, study_images(folder))[0].mean())


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


@dataclass(frozen=True)
class Prediction:
    """What is said about one image or study folder."""

    path: str
    probability: float  # of *abnormal*, the mean over the views; NaN where there is an error
    answer: str  # "normal", "abnormal", or "" where there is an error
    views: int
    error: str  # "" where everything could be read


def predict_each(model: Predictor, paths: Iterable[str | Path]) -> list[Prediction]:
    """Predict images and study folders; one that cannot be read does not stop the others.

    Returns one prediction per path, in the paths' order.
    """
    files: list[Path] = []
    found: list[tuple[Path, int, str]] = []  # path, views, error
    for path in map(Path, paths):
        views, error = [path], ""
        try:
            views = study_images(path) if path.is_dir() else views
        except (ImageError, OSError) as problem:
            views, error = [], str(problem)
        files += views
        found.append((path, len(views), error))
    probabilities, errors = _probabilities(model, files, skip_unreadable=True)
    predictions, first = [], 0
    for path, views, error in found:
        own = slice(first, first + views)
        first += views
        error = error or "; ".join(filter(None, errors[own]))
        probability = float("nan") if error else float(probabilities[own].mean())
        said = "" if error else answer(probability)
        predictions.append(Prediction(str(path), probability, said, views, error))
    return predictions


def predict_paths(model: Predictor, paths: Iterable[str | Path]) -> pd.DataFrame:
    """Return :func:`predict_each` as DataFrame[path, probability, answer, views, error]."""
    import pandas as pd

    columns = list(Prediction.__dataclass_fields__)
    return pd.DataFrame(map(asdict, predict_each(model, paths)), columns=columns)


def predict_files(
    model: Predictor,
    paths: Iterable[str | Path],
    batch_size: int = 32,
    skip_unreadable: bool = False,
) -> pd.DataFrame:
    """Predict image files, a batch in memory at a time.

    Args:
        model: A model of this project, or the run that holds it (see :func:`load_predictor`).
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
    import pandas as pd

    paths = [Path(path) for path in paths]
    probability, errors = _probabilities(model, paths, batch_size, skip_unreadable)
    return pd.DataFrame(
        {"path": [str(path) for path in paths], "probability": probability, "error": errors}
    )


def load_predictor(run: Run) -> keras.Model | ExportedModel:
    """Return a run's exported model where it is there and made from the present one, else that."""
    from mura.export import exported_model

    return exported_model(run) or compute.for_prediction(run.load_model())


def _probabilities(
    model: Predictor,
    paths: Sequence[str | Path],
    batch_size: int = 32,
    skip_unreadable: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Return float64[N] (NaN where unreadable) and an error, or "", for each file."""
    probability = np.full(len(paths), np.nan)
    errors = [""] * len(paths)
    if not len(paths):
        return probability, errors
    if isinstance(model, Run):
        model = load_predictor(model)
    model = compute.for_prediction(model)
    size = model.input_shape[1]
    predict = compute.answering(model, few=len(paths) <= batch_size)
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
            probability[rows] = np.asarray(predict(batch))[:, 0]
    return probability, errors
