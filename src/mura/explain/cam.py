"""Where a model looks: class activation maps, drawn for the radiographs they belong to.

In all of this project's networks one linear layer reads the mean of the last feature maps, so the
log-odds of *abnormal* are themselves a mean over the image: each place's share is its feature
vector times the layer's weights (Zhou et al. 2015, arXiv 1512.04150; MURA paper, section 5). That
needs no gradient and no particular backend.

Drawn, each cell of a map lies where its receptive field is centred (``mura.receptive``): in
ResNet-50 half a cell from where it would be if the map were the image made smaller.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mura.data.images import fit_square, read_gray
from mura.data.manifest import BODY_PARTS, image_files
from mura.evaluation import read_truth
from mura.explain import receptive_field as receptive
from mura.files import InputError
from mura.runs import Run
from mura.training import device as compute

if TYPE_CHECKING:
    import keras

FEATURE_MAPS = "feature_maps"  # the layer that every network of this project has
HEADS = ("abnormal", "classes")  # the linear layer on top: one sigmoid, or a softmax of 14


# From uint8[B, S, S, 1] to signed evidence float32[B, h, w] and probabilities float32[B].
Reading = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class LocalizationError(InputError):
    """A model has no maps that could be drawn, or nothing can be pointed at."""


@dataclass(frozen=True)
class View:
    """One radiograph with where a model looked."""

    path: str
    image: np.ndarray  # uint8[H, W], as in the file
    activation: np.ndarray  # float32[h, w] in 0-1, of the whole image without padding
    probability: float  # of abnormal
    label: int | None = None  # 0 normal, 1 abnormal, None where unknown
    box: tuple[float, float, float, float] | None = None  # the finding's, in pixels of the image


def activation_map(
    model: keras.Model | Run, images: np.ndarray, batch_size: int = 32
) -> np.ndarray:
    """Return where the signs of *abnormal* are: the positive evidence, 1 at each image's maximum.

    Args:
        model: A model of this project or the run that holds it; for any other Keras model of the
            same input and output Grad-CAM is used (see ``mura.gradients``).
        images: uint8[B, S, S, 1] or [B, S, S], padded squares as the model takes them.
        batch_size: Images per step.

    Returns:
        float32[B, S, S] in 0-1; all 0 for an image without any evidence of a finding.

    Raises:
        LocalizationError: The model has no feature maps to explain it by.
    """
    model = _loaded(model)
    return _explain(_reading(model, batch_size), images, _grid(model))[0]


def evidence(model: keras.Model | Run, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Return the signed evidence that ``activation_map`` shows, at the feature maps' resolution.

    Returns:
        float32[B, h, w]. For one sigmoid its mean over the image plus the head's bias is the
        log-odds of *abnormal*; for a softmax over body part x finding it is the evidence by the
        log-odds' slope at each image.

    Raises:
        LocalizationError: The model has no feature maps to explain it by.
    """
    return _reading(_loaded(model), batch_size)(_batch(images))[0]


def look(
    model: keras.Model | Run,
    root: str | Path,
    rows: pd.DataFrame | Iterable[str],
    batch_size: int = 32,
) -> list[View]:
    """Look at images of a data folder; ``plots.view_grid`` draws what comes back.

    Args:
        model: A model of this project or the run that holds it.
        root: The data folder that the paths belong to.
        rows: A table with a column ``path`` (and ``label``, where known), such as a run's
            predictions; or paths alone. On a phantom the findings' boxes come along.
        batch_size: Images in memory at a time, beside those returned.

    Raises:
        ImageError: A file cannot be read.
        LocalizationError: The model has no feature maps to explain it by.
    """
    rows = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame({"path": list(rows)})
    truth = read_truth(root)
    boxes = {} if truth is None else _boxes(truth)
    labels = rows["label"] if "label" in rows else [None] * len(rows)
    known = [None if pd.isna(label) else int(label) for label in labels]
    views = look_at_files(model, image_files(root, rows["path"]), batch_size)
    return [
        View(path, view.image, view.activation, view.probability, label, boxes.get(path))
        for view, path, label in zip(views, rows["path"], known, strict=True)
    ]


def look_at_files(
    model: keras.Model | Run, files: Sequence[str | Path], batch_size: int = 32
) -> list[View]:
    """Look at image files anywhere, such as ``prediction.study_images(folder)``.

    Raises:
        ImageError: A file cannot be read.
        LocalizationError: The model has no feature maps to explain it by.
    """
    model = _loaded(model)
    size, reading, cells = model.input_shape[1], _reading(model, batch_size), _grid(model)
    views = []
    for start in range(0, len(files), batch_size):
        chosen = files[start : start + batch_size]
        images = [read_gray(file) for file in chosen]
        squares = np.stack([fit_square(image, size) for image in images])
        maps, probabilities = _explain(reading, squares, cells)
        views += [
            View(str(file), image, unpadded(activation, *image.shape), float(probability))
            for file, image, activation, probability in zip(
                chosen, images, maps, probabilities, strict=True
            )
        ]
    return views


def unpadded(square: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut out of a map of the padded square [S, S] what belongs to a height x width image."""
    size, longer = len(square), max(height, width)
    rows, columns = (max(1, round(side * (size / longer))) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return square[top : top + rows, left : left + columns]


def _boxes(truth: pd.DataFrame) -> dict[str, tuple[float, float, float, float]]:
    shown = truth[truth["visible"] == 1]
    corners = shown[["x0", "y0", "x1", "y1"]].astype(float).itertuples(index=False, name=None)
    return dict(zip(shown["path"], corners, strict=True))


def _loaded(model: keras.Model | Run) -> keras.Model:
    return model.load_model() if isinstance(model, Run) else model


def _batch(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    return images[..., None] if images.ndim == 3 else images


def _grid(model: keras.Model) -> tuple[float, float] | None:
    """Return where the cells look (``receptive.grid``); None where that is not known."""
    names = {layer.name for layer in model.layers}
    return receptive.grid(model, FEATURE_MAPS) if FEATURE_MAPS in names else None


def _explain(
    reading: Reading, images: np.ndarray, cells: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return maps float32[B, S, S] in 0-1 and probabilities float32[B]."""
    images = _batch(images)
    signed, probabilities = reading(images)
    positive = np.maximum(signed, 0)
    # the maximum afterwards: an image may end between two cells
    down, across = (_interpolation(images.shape[1], count, cells) for count in signed.shape[1:])
    maps = down @ positive @ across.T
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0), probabilities


def _interpolation(size: int, count: int, cells: tuple[float, float] | None) -> np.ndarray:
    """Return how much each of ``count`` cells weighs at each pixel, linearly: float32[size, count].

    Beyond the outermost centres it is the outermost cell alone.
    """
    step, start = cells or (
        size / count,
        (size / count - 1) / 2,
    )  # as if the image were made smaller
    places = np.clip((np.arange(size) - start) / step, 0, count - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count))).astype(np.float32)


def _reading(model: keras.Model, batch_size: int) -> Reading:
    """Return what reads a model's signed evidence, made once for any number of images."""
    names = {layer.name for layer in model.layers}
    head = next((name for name in HEADS if name in names), None)
    if head is None or FEATURE_MAPS not in names:
        from mura.explain.gradients import grad_cam

        return functools.partial(grad_cam, model, batch_size=batch_size)
    import keras

    layer = model.get_layer(head)
    outputs = [model.get_layer(FEATURE_MAPS).output, layer.output, model.output]
    inner = compute.for_prediction(keras.Model(model.input, outputs))
    answer = compute.answering(inner, few=True)  # many models in one notebook need no graph each
    kernel = layer.get_weights()[0]  # [C, 1] or [C, 14]

    def read(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for start in range(0, len(images), batch_size):
            outputs = answer(images[start : start + batch_size])
            features, classes, output = map(keras.ops.convert_to_numpy, outputs)
            weights = _log_odds_weights(kernel, classes)  # [B, C]
            parts.append((np.einsum("bhwc,bc->bhw", features, weights), output[:, 0]))
        signed, probabilities = zip(*parts, strict=True)
        return np.concatenate(signed).astype(np.float32), np.concatenate(probabilities)

    return read


def _log_odds_weights(kernel: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return how much each pooled feature adds to the log-odds of abnormal: float[B, C].

    For one sigmoid these are the layer's weights. For a softmax with class = label * 7 + body
    part, log(sum of abnormal / sum of normal) has this slope: the abnormal classes' weights less
    the normal ones', each averaged by the shares that the image gives the classes.
    """
    if kernel.shape[1] == 1:
        return np.broadcast_to(kernel[:, 0], (len(classes), len(kernel)))
    normal, abnormal = classes[:, : len(BODY_PARTS)], classes[:, len(BODY_PARTS) :]
    tiny = np.finfo(np.float32).tiny  # a class may have a share of exactly 0
    normal = normal / np.maximum(normal.sum(axis=1, keepdims=True), tiny)
    abnormal = abnormal / np.maximum(abnormal.sum(axis=1, keepdims=True), tiny)
    return abnormal @ kernel[:, len(BODY_PARTS) :].T - normal @ kernel[:, : len(BODY_PARTS)].T
