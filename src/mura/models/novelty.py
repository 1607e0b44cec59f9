"""How far an image is from those that a network was fitted on.

The distance to the nearest of some fit images, chosen to cover all: Roth et al. 2021 (PatchCore,
arXiv 2106.08265, section 3.2), here of whole images. As there, the features are of the network's
early and middle maps. The last ones forget what no class needs: their mean tells a third of
photographs from the phantom, these nearly all (benchmarks/novelty.py).
"""

from typing import Any

import keras
import numpy as np

from mura.models.saved import answering

# The maps are the last of more than S / share pixels a side (S the image's): those of S / 2, what
# stands at each of 3 x 3 places, and of S / 8, what there is; the former count twice.
BLOCKS = ({"share": 3, "places": 3, "weight": 2.0}, {"share": 12, "places": 1, "weight": 1.0})
FLOOR = 0.01  # added before the logarithm: what a channel that is silent has
FIT_IMAGES = 4000  # the references are chosen among so many, evenly spaced
REFERENCES = 400  # kept of them: as good as all, and 0.25 MB for the custom CNN
FLAGGED = 0.01  # share of the tune images beyond the threshold
BATCH = 64


def fit(
    model: keras.Model, pixels: np.ndarray, fit_rows: np.ndarray, tune_rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what ``novelty.npz`` holds.

    Args:
        model: uint8[B, S, S, 1] to anything.
        pixels: uint8[N, S, S].
        fit_rows, tune_rows: int[...], the rows of ``pixels`` of the two parts.

    Returns:
        ``centre`` and ``scale`` float32[D] of the features, ``references`` float16[R, D] (scaled),
        ``threshold`` float32: 1 % of the tune images are farther from the references.
    """
    blocks = _features(model)
    extractor = keras.Model(model.input, keras.ops.concatenate(blocks, axis=1))
    extractor.compile(jit_compile=keras.backend.backend() == "jax")  # as in ``load``
    answer = answering(extractor, few=False)

    def read(rows: np.ndarray) -> np.ndarray:
        starts = range(0, len(rows), BATCH)
        batches = (np.asarray(pixels[rows[start : start + BATCH]])[..., None] for start in starts)
        return np.concatenate([answer(batch) for batch in batches])

    chosen = np.linspace(0, len(fit_rows) - 1, min(len(fit_rows), FIT_IMAGES)).astype(int)
    features = read(np.asarray(fit_rows)[chosen])
    sizes = [block.shape[1] for block in blocks]  # each block counts by its weight alone
    balance = [size**0.5 / block["weight"] for size, block in zip(sizes, BLOCKS, strict=True)]
    scale = (features.std(axis=0) + 1e-3) * np.repeat(balance, sizes)
    found = {"centre": features.mean(axis=0), "scale": scale.astype(np.float32)}
    scaled = (features - found["centre"]) / found["scale"]
    found["references"] = _spread(scaled, REFERENCES).astype(np.float16)
    tune = keras.ops.convert_to_numpy(_distance(read(np.asarray(tune_rows)), found))
    threshold = np.quantile(tune, 1 - FLAGGED, method="higher")
    return found | {"threshold": np.float32(threshold)}


def distance(model: keras.Model, novelty: dict[str, np.ndarray]) -> Any:
    """Return the tensor float32[B, 1] of a model's distances from what ``fit`` returned."""
    return _distance(keras.ops.concatenate(_features(model), axis=1), novelty)


def _features(model: keras.Model) -> list[Any]:
    """Return the tensors float32[B, D] of ``BLOCKS``: logs of the mean activity at each place."""
    outputs = [layer.output for layer in model.layers if len(layer.output.shape) == 4]
    features = []
    for block in BLOCKS:
        large = [each for each in outputs if block["share"] * each.shape[1] > model.input_shape[1]]
        activity = keras.ops.abs(keras.ops.cast(large[-1], "float32"))
        side = max(1, large[-1].shape[1] // block["places"])
        activity = keras.ops.average_pool(activity, side, strides=side)  # JAX needs both
        flat = keras.ops.reshape(activity, (-1, int(np.prod(activity.shape[1:]))))
        features.append(keras.ops.log(flat + FLOOR))
    return features


def _distance(features: Any, novelty: dict[str, np.ndarray]) -> Any:
    scaled = (features - novelty["centre"]) / novelty["scale"]
    references = novelty["references"].astype(np.float32)
    own = keras.ops.sum(scaled**2, axis=1, keepdims=True)
    squares = own + (references**2).sum(axis=1) - 2 * keras.ops.matmul(scaled, references.T)
    nearest = keras.ops.min(squares, axis=1, keepdims=True)
    return keras.ops.sqrt(keras.ops.maximum(nearest, 0.0))


def _spread(points: np.ndarray, count: int) -> np.ndarray:
    """Return up to ``count`` points, each the farthest from those before: [count, D] of [N, D]."""
    chosen, nearest = [0], np.full(len(points), np.inf)
    squares = (points**2).sum(axis=1)
    while len(chosen) < min(count, len(points)):
        last = chosen[-1]
        nearest = np.minimum(nearest, squares + squares[last] - 2 * points @ points[last])
        chosen.append(int(nearest.argmax()))
    return points[chosen]
