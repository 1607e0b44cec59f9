"""Training on this device: the compute policy beside Keras's default, and the input's share.

python benchmarks/training.py          about three minutes on two cores
python benchmarks/training.py --architectures xception convnext_tiny    others, one by one
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import interleaved, report, seconds, table

# name: (image size, images per step, steps); others are measured at 96 px
SIZES = {"cnn": (128, 32, 6), "densenet121": (96, 16, 4), "resnet50": (96, 16, 4)}
SIZES |= {"vgg16": (96, 16, 2)}
# name: (image size, images of an epoch)
EPOCHS = {"cnn": (96, 768), "densenet121": (64, 320)}
DEFAULT = "Keras's default (XLA, float32)"
IN_MEMORY = "plain fit, everything in memory"


def candidate(name: str, jit_compile: bool | str, precision: str) -> Callable[[], float]:
    """Return a function that measures images/s of one way to compile an architecture.

    The first step, which traces the graph, is made here and is not measured.
    """
    import numpy as np

    size, batch, steps = SIZES.get(name, (96, 16, 4))
    model = _built(name, size, precision)
    model.compile("adam", "binary_crossentropy", jit_compile=jit_compile)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, size, size, 1), dtype=np.uint8)
    labels = random.integers(0, 2, (batch, 1)).astype("float32")
    model.train_on_batch(images, labels)

    def measure() -> float:
        taken = seconds(lambda: [model.train_on_batch(images, labels) for _ in range(steps)])
        return batch * steps / taken

    return measure


def policies(name: str) -> dict[str, Any]:
    """Return the result for one architecture: Keras's default and the ways without XLA."""
    from mura import compute

    plan = compute.policy(name)
    ways = {
        DEFAULT: ("auto", "float32"),
        "no XLA, float32": (False, "float32"),
        "no XLA, bfloat16": (False, "mixed_bfloat16"),
    }
    candidates = {}
    for label, (jit_compile, precision) in ways.items():
        chosen = (jit_compile, precision) == (plan.jit_compile, plan.precision)
        title = f"{label} **(this project)**" if chosen else label
        candidates[title] = candidate(name, jit_compile, precision)
    size, batch, _ = SIZES.get(name, (96, 16, 4))
    title = f"Training {name}, {size} px, batches of {batch}"
    return table(title, "images/s", interleaved(candidates), DEFAULT)


def input_share(name: str, size: int, count: int, repetitions: int = 5) -> dict[str, Any]:
    """Return the result of the same compiled model's epochs from the cache and from memory."""
    import numpy as np

    from mura import compute, fitting
    from mura.pixels import RadiographBatches
    from mura.recipes import recipe

    plan = compute.policy(name)
    chosen = recipe(name, image_size=size, weights="none", shift=0.05)
    trainer = fitting.compose_trainer(chosen, _built(name, size, plan.precision))
    [stage] = fitting.stages(chosen, pretrained=False)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (count, 1)).astype("float32")
    weights = np.ones(count, np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "epoch.pixels"
        random.integers(0, 256, (count, size, size), dtype=np.uint8).tofile(file)
        pixels = np.memmap(file, np.uint8, "r", shape=(count, size, size))
        batches = RadiographBatches(
            pixels, np.arange(count), labels, weights, chosen.batch_size, shuffle_seed=0
        )
        memory = np.array(pixels)[..., None]
        fitting.compile_trainer(trainer, chosen, stage, len(batches), plan.jit_compile)

        def from_memory() -> None:
            trainer.fit(memory, labels, chosen.batch_size, sample_weight=weights, verbose=0)

        def from_cache() -> None:
            trainer.fit(batches, shuffle=False, verbose=0)

        from_memory()  # traces the graph
        from_cache()
        figures = interleaved(
            {
                IN_MEMORY: lambda: seconds(from_memory),
                "this project: pixel cache, in batches": lambda: seconds(from_cache),
            },
            repetitions,
        )
    return table(
        f"An epoch of {count} images, {name}, {size} px",
        "seconds",
        figures,
        IN_MEMORY,
        "The same compiled model, augmentation in it, fed in two ways. Aim: at most 1.03.",
    )


def _built(name: str, size: int, precision: str) -> Any:
    import keras

    from mura import architectures

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    model = architectures.build(name, size)
    keras.config.set_dtype_policy(before)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="+", default=list(SIZES))
    options, _ = parser.parse_known_args()
    results = []
    for name in options.architectures:
        started = time.perf_counter()
        results.append(policies(name))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    for name, (size, count) in EPOCHS.items():
        results.append(input_share(name, size, count))
    report(*results)


if __name__ == "__main__":
    main()
