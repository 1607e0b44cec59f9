"""Training on this device: the compute policy beside Keras's default, and the input's share.

python benchmarks/training.py          about four minutes on two cores
python benchmarks/training.py --xla    with XLA as well, which takes minutes to compile
python benchmarks/training.py --architectures xception convnext_tiny    others, one by one
python benchmarks/training.py --architectures --epochs vgg16 xception   epochs of others
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import apart, forget_onednn, interleaved, report, seconds, table

# name: (image size, images per step, steps)
SIZES = {"cnn": (128, 32, 6), "densenet121": (96, 16, 4), "resnet50": (96, 16, 4)}
SIZES |= {"vgg16": (96, 16, 2)}
OTHER_SIZE = (96, 16, 4)
# name: (image size, images of an epoch of a few seconds)
EPOCHS = {"cnn": (96, 384), "densenet121": (64, 192), "resnet50": (64, 384), "vgg16": (64, 192)}
EPOCHS |= {"inception_v3": (96, 384), "xception": (96, 192), "efficientnet_v2_b0": (64, 768)}
EPOCHS |= {"convnext_tiny": (64, 64)}
EPOCHS_BY_DEFAULT = ("cnn", "densenet121")
# Without an accelerator, Keras 3.15 leaves XLA off by itself: jit_compile="auto" is False there.
DEFAULT = "Keras's default (float32)"
XLA = "Keras with XLA (jit_compile=True)"
OURS = "this project"
IN_MEMORY = "plain fit, everything in memory"
LIMIT = "tf.data from memory, its autotuning off"
FROM_CACHE = "this project: pixel cache, in batches"


def candidate(name: str, way: str, size: int, batch: int, steps: int) -> Callable[[], float]:
    """Return a function that measures images/s of one way to train an architecture.

    Nothing is augmented. The first steps, which trace the graph, are made here and are
    not measured.
    """
    if way != OURS:
        forget_onednn()
    import keras
    import numpy as np

    from mura import compute, recipes, trainers

    if way == OURS:
        plan = compute.policy(name)
        compute.keep_freed_memory()
        still = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}
        chosen = recipes.recipe(name, image_size=size, weights="none", **still)
        model = trainers.compose_trainer(chosen, _built(name, size, plan.precision), plan)
        [stage] = trainers.stages(chosen, pretrained=False)
        trainers.compile_trainer(model, chosen, stage, steps, plan)
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
    size, batch, steps = SIZES.get(name, OTHER_SIZE)
    # apart, because what `compute.keep_freed_memory` changes would speed up the others, too
    with apart({way: (candidate, name, way, size, batch, steps) for way in ways}) as candidates:
        figures = interleaved(candidates)
    result = table(
        f"Training {name}, {size} px, batches of {batch}",
        "images/s",
        figures,
        DEFAULT,
        f"This project: {plan.precision}, {'XLA' if plan.jit_compile else 'no XLA'}, "
        f"{'fused kernels' if plan.fused else 'plain kernels'}"
        f"{', oneDNN chosen' if plan.onednn else ''}.",
        *([] if name == "cnn" else [(OURS, "at least", 1.8)]),
    )
    if plan.device != "cpu":  # the page lists gains by processor
        return result
    gain = next(row["ratio"] for row in result["rows"] if row["name"] == OURS)
    return result | {"gain": {"network": name, "precision": plan.precision, "gain": gain}}


def input_share(name: str, size: int, count: int, repetitions: int = 4) -> dict[str, Any]:
    """Return the result of the same compiled model's epochs from the cache and from memory."""
    import numpy as np
    import tensorflow as tf

    from mura import compute, trainers
    from mura.feeding import feed
    from mura.pixels import RadiographBatches
    from mura.recipes import recipe

    plan = compute.policy(name)
    compute.keep_freed_memory()
    chosen = recipe(name, image_size=size, weights="none", shift=0.05)
    trainer = trainers.compose_trainer(chosen, _built(name, size, plan.precision), plan)
    [stage] = trainers.stages(chosen, pretrained=False)
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
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = tf.data.Dataset.from_tensor_slices((memory, labels, weights)).shuffle(count)
        dataset = dataset.batch(chosen.batch_size).prefetch(2).with_options(options)
        trainers.compile_trainer(trainer, chosen, stage, len(batches), plan)

        def epoch(*data: Any, **settings: Any) -> Callable[[], float]:
            return lambda: seconds(lambda: trainer.fit(*data, verbose=0, **settings))

        candidates = {
            IN_MEMORY: epoch(memory, labels, chosen.batch_size, sample_weight=weights),
            LIMIT: epoch(dataset, shuffle=False),
            FROM_CACHE: epoch(feed(batches), shuffle=False),
        }
        for trace in candidates.values():
            trace()
        figures = interleaved(candidates, repetitions)
    return table(
        f"An epoch of {count} images, {name}, {size} px",
        "seconds",
        figures,
        LIMIT,
        "The same compiled model, augmentation in it, fed in three ways. Arrays go through tf.data "
        "with its autotuning on, whose thread may hold up the end of an epoch (`mura.pixels` says "
        "how); the limit is without that wait. The cache was read before, as after an epoch.",
        (FROM_CACHE, "at most", 1.03),
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
    parser.add_argument("--architectures", nargs="*", default=list(SIZES))
    parser.add_argument("--epochs", nargs="*", default=EPOCHS_BY_DEFAULT, choices=EPOCHS)
    parser.add_argument("--xla", action="store_true")
    options, _ = parser.parse_known_args()
    results = []
    for name in options.architectures:
        started = time.perf_counter()
        results.append(policies(name, (DEFAULT, XLA, OURS) if options.xla else (DEFAULT, OURS)))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    for name in options.epochs:
        results.append(input_share(name, *EPOCHS[name]))
    report(*results)


if __name__ == "__main__":
    main()
