"""Training on this device: the compute policy beside Keras's default, and the input's share.

python benchmarks/training.py          about three minutes on two cores
python benchmarks/training.py --xla    with XLA as well, which takes minutes to compile
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
EPOCHS = {"cnn": (96, 768), "densenet121": (64, 192)}
# Without an accelerator, Keras 3.15 leaves XLA off by itself: jit_compile="auto" is False there.
DEFAULT = "Keras's default (float32)"
XLA = "Keras with XLA (jit_compile=True)"
OURS = "this project"
IN_MEMORY = "plain fit, everything in memory"


def candidate(name: str, way: str) -> Callable[[], float]:
    """Return a function that measures images/s of one way to train an architecture.

    Augmentation is part of none. The first steps, which trace the graph, are made here and are
    not measured.
    """
    import keras
    import numpy as np

    from mura import compute, fitting, recipes

    size, batch, steps = SIZES.get(name, (96, 16, 4))
    if way == OURS:
        plan = compute.policy(name)
        compute.keep_freed_memory()
        still = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}
        chosen = recipes.recipe(name, image_size=size, weights="none", **still)
        model = fitting.compose_trainer(chosen, _built(name, size, plan.precision), plan)
        [stage] = fitting.stages(chosen, pretrained=False)
        fitting.compile_trainer(model, chosen, stage, steps, plan)
    else:
        model = _built(name, size, "float32")
        metrics = [keras.metrics.AUC()]  # as in the recipe
        optimizer = keras.optimizers.AdamW()
        jit = True if way == XLA else "auto"
        model.compile(optimizer, "binary_crossentropy", metrics=metrics, jit_compile=jit)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, size, size, 1), dtype=np.uint8)
    labels = random.integers(0, 2, (batch, 1)).astype("float32")
    for _ in range(3):
        model.train_on_batch(images, labels)

    def measure() -> float:
        taken = seconds(lambda: [model.train_on_batch(images, labels) for _ in range(steps)])
        return batch * steps / taken

    return measure


def policies(name: str, ways: tuple[str, ...]) -> dict[str, Any]:
    """Return the result for one architecture: Keras's default beside this project's policy."""
    from mura import compute

    plan = compute.policy(name)
    candidates = {way: candidate(name, way) for way in ways}
    size, batch, _ = SIZES.get(name, (96, 16, 4))
    return table(
        f"Training {name}, {size} px, batches of {batch}",
        "images/s",
        interleaved(candidates),
        DEFAULT,
        f"This project: {plan.precision}, {'XLA' if plan.jit_compile else 'no XLA'}, "
        f"{'fused kernels' if plan.fused else 'plain kernels'}.",
    )


def input_share(name: str, size: int, count: int, repetitions: int = 3) -> dict[str, Any]:
    """Return the result of the same compiled model's epochs from the cache and from memory."""
    import numpy as np

    from mura import compute, fitting
    from mura.pixels import RadiographBatches
    from mura.recipes import recipe

    plan = compute.policy(name)
    compute.keep_freed_memory()
    chosen = recipe(name, image_size=size, weights="none", shift=0.05)
    trainer = fitting.compose_trainer(chosen, _built(name, size, plan.precision), plan)
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
        fitting.compile_trainer(trainer, chosen, stage, len(batches), plan)

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
        "The same compiled model, augmentation in it, fed in two ways. Aim: at most 1.03. Arrays "
        "in memory go through tf.data with its autotuning on, whose thread may hold up the end of "
        "an epoch (`mura.pixels` says how); their fastest epochs are those without that wait.",
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
    parser.add_argument("--xla", action="store_true")
    options, _ = parser.parse_known_args()
    results = []
    for name in options.architectures:
        started = time.perf_counter()
        results.append(policies(name, (DEFAULT, XLA, OURS) if options.xla else (DEFAULT, OURS)))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    for name, (size, count) in EPOCHS.items():
        results.append(input_share(name, size, count))
    report(*results)


if __name__ == "__main__":
    main()
