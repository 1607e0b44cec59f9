"""Weight files as Keras ships them, and images, for tests of networks."""

from __future__ import annotations

from pathlib import Path

import h5py
import keras
import numpy as np


def noise_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Raw gray images: uint8[count, size, size, 1]."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def randomise(network: keras.Model, seed: int = 0) -> None:
    """Change what a fresh network has at 0 or 1, so that a value that is not loaded shows."""
    random = np.random.default_rng(seed)
    for variable in network.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(random.normal(0, 0.1, variable.shape))


def write_keras_file(network: keras.Model, file: Path) -> None:
    """Write weights the way Keras's own files hold them: by layer, in the network's order."""
    with h5py.File(file, "w") as archive:
        archive.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
        archive.attrs["backend"] = b"tensorflow"
        archive.attrs["keras_version"] = b"2.0.0"
        for layer in network.layers:
            group = archive.create_group(layer.name)
            weights = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/{index}:0" for index in range(len(weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights, strict=True):
                group.create_dataset(name, data=keras.ops.convert_to_numpy(weight))


def tiny_classifier(outputs: int = 1) -> keras.Model:
    """Return two features to one sigmoid, or to a softmax."""
    activation = "sigmoid" if outputs == 1 else "softmax"
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(outputs, activation)])
