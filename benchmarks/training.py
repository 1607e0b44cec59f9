"""Training on this device: the project's compute policy beside Keras's default.

python benchmarks/training.py          about three minutes on two cores
"""

from __future__ import annotations

import time

from measure import interleaved, report, table

# name: (image size, images per step, steps)
SIZES = {
    "cnn": (128, 32, 6),
    "densenet121": (96, 16, 4),
    "resnet50": (96, 16, 4),
    "vgg16": (96, 16, 4),
}


def candidate(name: str, jit_compile: bool | str, precision: str):
    """Return a function that measures images/s of one way to compile an architecture.

    The first step, which traces the graph, is made here and is not measured.
    """
    import keras
    import numpy as np

    from mura import architectures

    size, batch, steps = SIZES[name]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    model = architectures.build(name, size)
    keras.config.set_dtype_policy(before)
    model.compile("adam", "binary_crossentropy", jit_compile=jit_compile)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, size, size, 1), dtype=np.uint8)
    labels = random.integers(0, 2, (batch, 1)).astype("float32")
    model.train_on_batch(images, labels)

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(images, labels)
        return batch * steps / (time.perf_counter() - started)

    return measure


def main() -> None:
    from mura import compute

    results = []
    for name, (size, batch, _) in SIZES.items():
        plan = compute.policy(name)
        candidates = {
            "Keras's default (XLA, float32)": candidate(name, "auto", "float32"),
            "no XLA, float32": candidate(name, False, "float32"),
            "no XLA, bfloat16": candidate(name, False, "mixed_bfloat16"),
            f"this project ({plan.precision})": candidate(name, plan.jit_compile, plan.precision),
        }
        results.append(
            table(
                f"Training {name}, {size} px, batches of {batch}",
                "images/s",
                interleaved(candidates),
                "Keras's default (XLA, float32)",
            )
        )
    report(*results)


if __name__ == "__main__":
    main()
