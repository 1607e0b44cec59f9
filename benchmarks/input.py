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

from measure import interleaved, report, seconds, table

SIZE, BATCH, IMAGES = 224, 32, 600
QUICK_SIZE = 96  # of the quick recipes
FULL_SIZE = 40_005  # images of MURA; the phantom of scale 1 has as many
GENERATOR = "ImageDataGenerator, flip and rotation"
GRAY = f"{GENERATOR}, gray"
DECODING = "bare decoding on all cores"
BUILDING = "building the pixel cache"
AUGMENTED = "this project, augmented on the device"


def rate(
    batches: Callable[[], Iterable], repeat: int = 1, then: Callable[[Any], Any] | None = None
) -> Callable[[], float]:
    """Return a function that measures images/s of going through (images, labels)."""

    def measure() -> float:
        count, started = 0, time.perf_counter()
        for _ in range(repeat):
            for images, _ in batches():
                count += len(images if then is None else then(images))
        return count / (time.perf_counter() - started)

    return measure


def feeding(root: Path, manifest: Any, pixels: Any) -> dict[str, Callable[[], float]]:
    """Return the ways to feed batches, by name."""
    import keras
    import numpy as np
    import pandas as pd
    import tensorflow as tf

    from mura.data.batches import RadiographBatches
    from mura.training.augmentation import RadiographAugmentation

    files = [str(root.parent / path) for path in manifest["path"]]
    frame = pd.DataFrame({"file": files, "label": manifest["label"].astype(str)})
    labels = manifest["label"].to_numpy("float32")[:, None]

    def generator(color_mode="rgb", **settings):  # RGB is its default and what notebooks use
        flow = tf.keras.preprocessing.image.ImageDataGenerator(**settings).flow_from_dataframe(
            frame, None, "file", "label", target_size=(SIZE, SIZE), class_mode="binary",
            color_mode=color_mode, batch_size=BATCH, validate_filenames=False,
        )  # fmt: skip
        return lambda: (flow[index] for index in range(len(flow)))

    def decode(path, label):
        image = tf.io.decode_png(tf.io.read_file(path), channels=1)
        image = tf.image.resize_with_pad(image, SIZE, SIZE, antialias=True)
        return tf.cast(image, tf.uint8), label

    by_hand = tf.data.Dataset.from_tensor_slices((files, labels)).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE
    )
    in_tf_cache = by_hand.cache()
    for _ in in_tf_cache:
        continue  # the first pass fills the cache, as ours is filled before the first epoch
    directory = keras.utils.image_dataset_from_directory(
        str(root / "train"), labels=None, color_mode="grayscale", image_size=(SIZE, SIZE),
        batch_size=BATCH, pad_to_aspect_ratio=True, verbose=False,
    )  # fmt: skip
    layers = keras.Sequential(
        [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(30 / 360)]
    )
    in_keras = directory.map(
        lambda images: layers(images, training=True), num_parallel_calls=tf.data.AUTOTUNE
    )
    rows = np.arange(len(manifest))
    ours = RadiographBatches(pixels, rows, labels, batch_size=BATCH, shuffle_seed=0)
    in_memory = np.array(pixels)[..., None]
    augment = RadiographAugmentation(seed=0)

    @tf.function(jit_compile=False, reduce_retracing=True)
    def augmented(images):
        return augment(images, training=True)

    def project():
        return (ours[index] for index in range(len(ours)))

    def memory():
        starts = range(0, len(rows), BATCH)
        return ((in_memory[start : start + BATCH].copy(), None) for start in starts)

    for images, _ in project():
        augmented(images)  # tracing is the first step's time, see first_step.py
    return {
        GENERATOR: rate(generator(horizontal_flip=True, rotation_range=30)),
        GRAY: rate(generator("grayscale", horizontal_flip=True, rotation_range=30)),
        "ImageDataGenerator, no augmentation": rate(generator()),
        "image_dataset_from_directory": rate(lambda: ((images, None) for images in directory)),
        "the same, augmented by Keras's layers": rate(
            lambda: ((images, None) for images in in_keras)
        ),
        "tf.data, decoding every epoch": rate(lambda: by_hand.batch(BATCH).prefetch(2)),
        "tf.data, cache()": rate(lambda: in_tf_cache.batch(BATCH).prefetch(2), repeat=3),
        AUGMENTED: rate(project, repeat=2, then=augmented),
        "this project": rate(project, repeat=10),
        "copies of an array in memory": rate(memory, repeat=10),
    }


def building(root: Path, manifest: Any, folder: Path, size: int) -> dict[str, Callable[[], float]]:
    """Return bare decoding of all files, and building the cache of them, in images/s."""
    import joblib
    import numpy as np
    from PIL import Image

    from mura.data.cache import cached
    from mura.data.images import fit_square

    files = [root.parent / path for path in manifest["path"]]

    def decode(file: Path) -> np.ndarray:
        with Image.open(file) as image:
            return np.asarray(image.convert("L"))

    def on_all_cores(work: Callable[[Path], Any]) -> Callable[[], float]:
        def measure() -> float:
            with ThreadPoolExecutor(joblib.cpu_count()) as pool:
                return len(files) / seconds(lambda: sum(1 for _ in pool.map(work, files)))

        return measure

    def build() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        return len(files) / seconds(
            lambda: cached(manifest, root, size, folder=folder, progress=False)
        )

    return {
        DECODING: on_all_cores(decode),
        "the same, and scaling to the square": on_all_cores(
            lambda file: fit_square(decode(file), size)
        ),
        BUILDING: build,
    }


def main() -> None:
    from mura import phantom
    from mura.data import read as read_manifest
    from mura.data.cache import cached

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=IMAGES / FULL_SIZE, progress=False)
        manifest = read_manifest(root)
        place = Path(folder) / "cache"
        built = {
            size: interleaved(building(root, manifest, place, size), repetitions=4)
            for size in (QUICK_SIZE, SIZE)
        }
        pixels = cached(manifest, root, SIZE, folder=place, progress=False)
        fed = interleaved(feeding(root, manifest, pixels))
    report(
        table(
            f"Feeding batches of {BATCH} images of {SIZE} px",
            "images/s",
            fed,
            GENERATOR,
            f"{len(manifest)} images; of the caches, epochs after the first. ImageDataGenerator "
            "makes three equal channels by default, as MURA notebooks use it. All else is gray: "
            "this project's models make the channels themselves. Where nothing is said of it, "
            "nothing is augmented.",
            (AUGMENTED, "at least", 10),
        ),
        *(
            table(
                f"Building the cache of {size} px, once",
                "images/s",
                figures,
                DECODING,
                "Bare decoding: each file opened with Pillow and converted to gray, in as many "
                "threads as cores; nothing is checked, kept or written. Building checks, scales, "
                "writes and reads back as well, but inflates each file at once, where Pillow goes "
                "row by row.",
                (BUILDING, "at least", 0.9),
            )
            for size, figures in built.items()
        ),
    )


if __name__ == "__main__":
    main()
