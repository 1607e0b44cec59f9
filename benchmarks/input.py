"""Feeding images: this project's pixel cache beside what MURA notebooks do instead.

python benchmarks/input.py             about two minutes on two cores
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from measure import interleaved, report, seconds, table

SIZE, BATCH, IMAGES = 224, 32, 600


def main() -> None:
    import keras
    import numpy as np
    import pandas as pd
    import tensorflow as tf

    from mura import phantom
    from mura.augmentation import RadiographAugmentation
    from mura.manifest import read_manifest
    from mura.pixels import PixelCache, RadiographBatches

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=IMAGES / 36_000)
        manifest = read_manifest(root)
        files = [str(root.parent / path) for path in manifest["path"]]
        frame = pd.DataFrame({"file": files, "label": manifest["label"].astype(str)})
        labels = manifest["label"].to_numpy("float32")[:, None]
        augment = RadiographAugmentation(seed=0)

        def rate(batches, repeat: int = 1, then=None):
            """Images/s of going through an iterable of (images, labels)."""

            def measure() -> float:
                count, started = 0, time.perf_counter()
                for _ in range(repeat):
                    for images, _ in batches():
                        if then is not None:
                            images = then(images)
                        count += len(images)
                return count / (time.perf_counter() - started)

            return measure

        def generator(**settings):
            flow = tf.keras.preprocessing.image.ImageDataGenerator(**settings).flow_from_dataframe(
                frame, None, "file", "label", target_size=(SIZE, SIZE), class_mode="binary",
                color_mode="grayscale", batch_size=BATCH, validate_filenames=False,
            )  # fmt: skip
            return lambda: (flow[index] for index in range(len(flow)))

        def decode(path, label):
            image = tf.io.decode_png(tf.io.read_file(path), channels=1)
            image = tf.image.resize_with_pad(image, SIZE, SIZE, antialias=True)
            return tf.cast(image, tf.uint8), label

        by_hand = tf.data.Dataset.from_tensor_slices((files, labels)).map(
            decode, num_parallel_calls=tf.data.AUTOTUNE
        )
        cached = by_hand.cache()
        for _ in cached:
            continue  # the first pass fills the cache, as ours is filled before the first epoch
        directory = keras.utils.image_dataset_from_directory(
            str(root / "train"), labels=None, color_mode="grayscale", image_size=(SIZE, SIZE),
            batch_size=BATCH, pad_to_aspect_ratio=True, verbose=False,
        )  # fmt: skip

        cache = None

        def build() -> None:
            nonlocal cache
            cache = PixelCache.build(manifest, root, SIZE, folder=Path(folder), progress=False)

        first = seconds(build)
        rows = np.arange(len(manifest))
        ours = RadiographBatches(cache.pixels, rows, labels, batch_size=BATCH, shuffle_seed=0)
        in_memory = np.array(cache.pixels)[..., None]

        def project():
            return (ours[index] for index in range(len(ours)))

        @tf.function(jit_compile=False)
        def augmented(images):
            return augment(images, training=True)

        figures = interleaved(
            {
                "ImageDataGenerator, flip and rotation": rate(
                    generator(horizontal_flip=True, rotation_range=30)
                ),
                "ImageDataGenerator, no augmentation": rate(generator()),
                "image_dataset_from_directory": rate(lambda: ((x, x) for x in directory)),
                "tf.data, decode every epoch": rate(lambda: by_hand.batch(BATCH).prefetch(2)),
                "tf.data, cache()": rate(lambda: cached.batch(BATCH).prefetch(2), repeat=3),
                "this project, augmented": rate(project, repeat=2, then=augmented),
                "this project": rate(project, repeat=10),
                "in memory, no input at all": rate(
                    lambda: (
                        (in_memory[start : start + BATCH], None)
                        for start in range(0, len(in_memory), BATCH)
                    ),
                    repeat=10,
                ),
            }
        )
        note = f"{len(files)} images; building the cache once took {first:.1f} s."
        report(
            table(
                f"Feeding batches of {BATCH} images of {SIZE} px",
                "images/s",
                figures,
                "ImageDataGenerator, flip and rotation",
                note,
            )
        )


if __name__ == "__main__":
    main()
