"""Feeding images: this project's pixel cache beside what MURA notebooks do instead.

python benchmarks/input.py             about two minutes on two cores
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measure import OURS, interleaved, report, seconds, table

SIZE, BATCH, IMAGES = 224, 32, 600
FULL_SIZE = 40_005  # images of MURA; the phantom of scale 1 has as many
GENERATOR = "ImageDataGenerator, flip and rotation"
DECODING, BUILDING = "bare decoding on all cores", "building the pixel cache"
AUGMENTED = "this project, augmented on the device"


def rate(
    batches: Callable[[], Iterable], repeat: int = 1, then: Callable[[Any], Any] = lambda x: x
) -> Callable[[], float]:
    """Return a function that measures images/s of going through batches of images."""

    def measure() -> float:
        started = time.perf_counter()
        count = sum(len(then(images)) for _ in range(repeat) for images in batches())
        return count / (time.perf_counter() - started)

    return measure


def feeding(root: Path, manifest: Any, pixels: Any) -> dict[str, Callable[[], float]]:
    """Return the ways to feed batches, by name."""
    import keras
    import numpy as np
    import pandas as pd
    import tensorflow as tf

    from mura.data import RadiographBatches
    from mura.training.augmentation import RadiographAugmentation

    files = [str(root.parent / path) for path in manifest["path"]]
    frame = pd.DataFrame({"file": files, "label": manifest["label"].astype(str)})

    def generator(**settings):  # three equal channels are its default and what notebooks use
        flow = tf.keras.preprocessing.image.ImageDataGenerator(**settings).flow_from_dataframe(
            frame, None, "file", "label", target_size=(SIZE, SIZE), class_mode="binary",
            batch_size=BATCH, validate_filenames=False,
        )  # fmt: skip
        return lambda: (flow[index][0] for index in range(len(flow)))

    def decode(path):
        image = tf.io.decode_png(tf.io.read_file(path), channels=1)
        image = tf.image.resize_with_pad(image, SIZE, SIZE, antialias=True)
        return tf.cast(image, tf.uint8)

    by_hand = tf.data.Dataset.from_tensor_slices(files).map(decode, tf.data.AUTOTUNE).cache()
    for _ in by_hand:
        continue  # the first pass fills the cache, as ours is filled before the first epoch
    directory = keras.utils.image_dataset_from_directory(
        str(root / "train"), labels=None, color_mode="grayscale", image_size=(SIZE, SIZE),
        batch_size=BATCH, pad_to_aspect_ratio=True, verbose=False,
    )  # fmt: skip
    layers = keras.Sequential(
        [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(30 / 360)]
    )
    in_keras = directory.map(lambda images: layers(images, training=True), tf.data.AUTOTUNE)
    ours = RadiographBatches(pixels, np.arange(len(pixels)), batch_size=BATCH, shuffle_seed=0)
    in_memory = np.array(pixels)[..., None]
    augment = RadiographAugmentation(seed=0)

    @tf.function(jit_compile=False, reduce_retracing=True)
    def augmented(images):
        return augment(images, training=True)

    def project():
        return (ours[index] for index in range(len(ours)))

    def memory():
        return (in_memory[i : i + BATCH].copy() for i in range(0, len(in_memory), BATCH))

    for images in project():
        augmented(images)  # tracing is the first step's time, see first_step.py
    return {
        GENERATOR: rate(generator(horizontal_flip=True, rotation_range=30)),
        "ImageDataGenerator, no augmentation": rate(generator()),
        "image_dataset_from_directory": rate(lambda: directory),
        "the same, augmented by Keras's layers": rate(lambda: in_keras),
        "tf.data, cache()": rate(lambda: by_hand.batch(BATCH).prefetch(2), repeat=3),
        AUGMENTED: rate(project, 2, augmented),
        OURS: rate(project, repeat=10),
        "copies of an array in memory": rate(memory, repeat=10),
    }


def building(root: Path, manifest: Any, folder: Path) -> dict[str, Callable[[], float]]:
    """Return bare decoding of all files, and building the cache of them, in images/s."""
    import joblib
    import numpy as np
    from PIL import Image

    from mura.data.cache import cached

    files = [root.parent / path for path in manifest["path"]]

    def decode(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            return np.asarray(image.convert("L"))

    def bare() -> float:
        with ThreadPoolExecutor(joblib.cpu_count()) as pool:
            return len(files) / seconds(lambda: sum(1 for _ in pool.map(decode, files)))

    def build() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        return len(files) / seconds(lambda: cached(manifest, root, SIZE, folder, progress=False))

    return {DECODING: bare, BUILDING: build}


def measured(images: int, repetitions: int = 3) -> list[dict[str, Any]]:
    """Return both results, measured on a phantom of about this many images."""
    from mura import data, phantom
    from mura.data.cache import cached

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=images / FULL_SIZE, progress=False)
        manifest, place = data.read(root), Path(folder) / "cache"
        built = interleaved(building(root, manifest, place), repetitions)
        pixels = cached(manifest, root, SIZE, place, progress=False)
        fed = interleaved(feeding(root, manifest, pixels), repetitions)
    return [
        table(
            f"Feeding batches of {BATCH} images of {SIZE} px",
            "images/s",
            fed,
            GENERATOR,
            f"{len(manifest)} images; of the caches, epochs after the first. ImageDataGenerator "
            "makes three equal channels, as MURA notebooks use it; in this project the models do.",
            (AUGMENTED, "at least", 10, "ratio"),
        ),
        table(
            f"Building the cache of {SIZE} px, once",
            "images/s",
            built,
            DECODING,
            "Bare decoding: Pillow, in as many threads as cores. Building checks, scales and "
            "writes the images as well, but inflates each file at once, not row by row.",
            (BUILDING, "at least", 0.9, "ratio"),
        ),
    ]


if __name__ == "__main__":
    report(*measured(IMAGES))
