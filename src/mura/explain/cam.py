"""Where a model looks: class activation maps of radiographs.

In all of this project's networks one linear layer reads the mean of the last feature maps. The
log-odds of *abnormal* are therefore a mean over the image: each place adds its feature vector
times the layer's weights (Zhou et al. 2015, arXiv 1512.04150; MURA paper, section 5). No gradients
are needed. Each cell is drawn at the centre of its receptive field (``explain.receptive_field``).
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from mura import models
from mura.data import boxes, image_files
from mura.data.images import fit_square, read_gray, unpadded
from mura.explain import receptive_field
from mura.files import InputError
from mura.runs import Run

FEATURE_MAPS = "feature_maps"  # the layer that every network of this project has
HEADS = (
    "abnormal",
    "classes",
)  # the linear layer on top: a sigmoid or a softmax
BATCH = 32  # images in memory at a time, besides the views themselves


class LocalizationError(InputError):
    """A model has no maps to draw, or a data folder does not say where its findings are."""


@dataclass(frozen=True)
class View:
    """One radiograph and where a model looked in it."""

    path: str
    image: np.ndarray  # uint8[H, W], as in the file
    activation: np.ndarray | None  # float32[h, w] in 0-1, of the whole image; None: no map
    probability: float  # of abnormal
    label: int | None = None  # 0 normal, 1 abnormal, None where unknown
    boxes: Sequence[Sequence[float]] = ()  # x0, y0, x1, y1 of each finding, in pixels of the image


def look(model: keras.Model | Run, root: str | Path, rows: pd.DataFrame) -> list[View]:
    """Look at images of a data folder; ``plots.view_grid`` draws the views.

    Args:
        model: A model of this project or the run that holds it; the views of a reference run have
            no maps.
        root: The data folder that the paths belong to.
        rows: One row per image, with ``path`` and, where known, ``label``: a run's predictions,
            for example. Views have their findings' boxes, where the data say them.

    Raises:
        ImageError: A file cannot be read.
    """
    places = boxes(root)
    known_boxes: dict[str, list[tuple[float, ...]]] = {}
    if places is not None:
        for path, *box in places[["path", "x0", "y0", "x1", "y1"]].itertuples(index=False):
            known_boxes.setdefault(path, []).append(tuple(map(float, box)))
    labels = rows["label"] if "label" in rows else [None] * len(rows)
    known = [None if pd.isna(label) else int(label) for label in labels]
    files = image_files(root, rows["path"])
    try:
        without = isinstance(model, Run) and model.is_reference  # answers without a model
        views = [] if without else look_at_files(model, files)
    except models.ModelError as error:  # one damaged run stops no notebook
        warnings.warn(f"{error} The radiographs are shown without maps.", stacklevel=2)
        views = []
    if not views:
        answers = rows["probability"] if "probability" in rows else [np.nan] * len(rows)
        pairs = zip(files, answers, strict=True)
        views = [View(str(file), read_gray(file), None, answer) for file, answer in pairs]
    return [
        dataclasses.replace(view, path=path, label=label, boxes=known_boxes.get(path, ()))
        for view, path, label in zip(views, rows["path"], known, strict=True)
    ]


def look_at_files(model: keras.Model | Run, files: Sequence[str | Path]) -> list[View]:
    """Look at image files anywhere, such as ``data.study_images(folder)``.

    A model whose maps would not be of its own answer has views without maps, and a warning.

    Raises:
        ImageError: A file cannot be read.
    """
    model = model.load_model() if isinstance(model, Run) else model
    size, views = model.input_shape[1], []
    read = functools.cache(lambda: evidence_reader(model))  # made once, where it can be
    for start in range(0, len(files), BATCH):
        chosen = files[start : start + BATCH]
        images = [read_gray(file) for file in chosen]
        squares = np.stack([fit_square(image, size) for image in images])[..., None]
        try:
            evidence, answers = read()(squares)
            maps = activation_maps(evidence, size, receptive_field.grid(model, FEATURE_MAPS))
            maps = [unpadded(map_, *image.shape) for map_, image in zip(maps, images, strict=True)]
        except LocalizationError as error:
            warnings.warn(f"{error} The radiographs are shown without maps.", stacklevel=2)
            answers = np.asarray(models.answering(model, few=True)(squares))[:, 0]
            maps = [None] * len(images)
        for file, image, map_, answer in zip(chosen, images, maps, answers, strict=True):
            views.append(View(str(file), image, map_, float(answer)))
    return views


def evidence_reader(model: keras.Model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function that reads a model's evidence for *abnormal* from uint8[B, S, S, 1].

    The function returns the signed evidence float32[B, h, w] and the probabilities float32[B].
    For one sigmoid, the evidence's mean over the image plus the layer's bias is the log-odds of
    *abnormal*. For a softmax over body part x finding, it follows their slope at each image.

    Both raise LocalizationError where the answers are not those of one linear layer on the mean
    of the feature maps: the maps would be of something else.
    """
    refusal = LocalizationError(
        f"{model.name}: cannot show where this model looks, because it does not end in one linear "
        "layer on the mean of its feature maps."
    )
    names = [layer.name for layer in model.layers]
    head = next((name for name in HEADS if name in names), None)
    if head is None or FEATURE_MAPS not in names:
        raise refusal
    try:
        outputs = [model.get_layer(name).output for name in (FEATURE_MAPS, head)]
        inner = keras.Model(model.inputs[0], [*outputs, *model.outputs])
        kernel, *bias = model.get_layer(head).get_weights()  # [C, 1] or [C, 2P], and [1] or [2P]
    except (AttributeError, ValueError):  # layers of a nested network, or called several times
        raise refusal from None
    answer = models.answering(inner, few=True)  # a notebook shows many models a few images each

    def read(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, classes, output = map(keras.ops.convert_to_numpy, answer(images))
        if features.ndim != 4 or features.shape[-1] != len(kernel):
            raise refusal
        expected = _answers(features.mean(axis=(1, 2)) @ kernel + sum(bias))
        probability = expected[:, expected.shape[1] // 2 :].sum(axis=1, keepdims=True)
        probability = expected if kernel.shape[1] == 1 else probability
        for found, wanted in ((classes, expected), (output, probability)):
            if found.shape != wanted.shape or not np.allclose(found, wanted, atol=2e-3):
                raise refusal
        weights = _log_odds_weights(kernel, classes)[:, None, None]
        return (features * weights).sum(axis=-1, dtype=np.float32), output[:, 0]

    return read


def map_of(model: keras.Model) -> Any:
    """Return the tensor float32[B, S, S] of a model's activation maps, as in ``activation_maps``.

    Raises:
        LocalizationError: As ``evidence_reader``.
    """
    size = model.input_shape[1]
    evidence_reader(model)(np.zeros((1, size, size, 1), np.uint8))  # refuses other networks
    name = next(name for name in HEADS if name in [layer.name for layer in model.layers])
    features, head = model.get_layer(FEATURE_MAPS).output, model.get_layer(name)
    weights = _log_odds_weights(head.get_weights()[0], head.output, keras.ops)[:, None, None]
    features = keras.ops.cast(features, "float32")
    evidence = keras.ops.sum(features * weights, axis=-1)
    return activation_maps(evidence, size, receptive_field.grid(model, FEATURE_MAPS), keras.ops)


def _answers(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid of [B, 1], or the softmax of [B, 2P]."""
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def activation_maps(
    evidence: np.ndarray, size: int, cells: tuple[float, float] | None = None, ops: Any = np
) -> np.ndarray:
    """Enlarge the positive evidence to the image's size, with 1 at each image's maximum.

    Args:
        evidence: float32[B, h, w], as ``evidence_reader`` reads it.
        size: Pixels along a side of the square image.
        cells: Where the cells look (``receptive_field.grid``); None: spread evenly over the image.
        ops: ``numpy``, or ``keras.ops`` for tensors.

    Returns:
        float32[B, size, size] in 0-1; all 0 for an image without evidence of a finding.
    """
    down, across = (_interpolation(size, count, cells) for count in evidence.shape[1:])
    maps = ops.matmul(ops.matmul(down, ops.maximum(evidence, 0)), across.T)
    # of the pixels: a cell may lie outside them
    highest = ops.max(maps, axis=(1, 2), keepdims=True)
    return maps / ops.where(highest > 0, highest, 1)


def _interpolation(size: int, count: int, cells: tuple[float, float] | None) -> np.ndarray:
    """Return the linear weight of each of ``count`` cells at each pixel: float32[size, count]."""
    # pixels beyond the outermost centres take the outermost cell alone
    step, start = cells or (size / count, (size / count - 1) / 2)
    places = np.clip((np.arange(size) - start) / step, 0, count - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(count))).astype(np.float32)


def _log_odds_weights(kernel: np.ndarray, classes: np.ndarray, ops: Any = np) -> np.ndarray:
    """Return how much each pooled feature adds to the log-odds of abnormal: float[B or 1, C]."""
    if kernel.shape[1] == 1:
        return kernel.T
    # the slope of log(sum of abnormal / sum of normal): the abnormal classes' weights minus the
    # normal ones', each averaged by the image's probabilities
    half = kernel.shape[1] // 2
    tiny = np.finfo(np.float32).tiny  # a class may have a probability of exactly 0

    def mean(of: slice) -> np.ndarray:
        total = ops.maximum(ops.sum(classes[:, of], axis=1, keepdims=True), tiny)
        return ops.matmul(classes[:, of] / total, kernel[:, of].T)

    return mean(slice(half, None)) - mean(slice(half))
