"""Training steps on this device: the compute policy beside Keras's default.

python benchmarks/training.py          about three minutes on two cores
python benchmarks/training.py --xla    with XLA as well, which takes minutes to compile
python benchmarks/training.py --architectures xception convnext_tiny    others, one by one
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from measure import apart, built, forget_onednn, interleaved, report, seconds, table

# name: (image size, images per step, steps)
SIZES = {"cnn": (128, 32, 6), "densenet121": (96, 16, 4), "resnet50": (96, 16, 4)}
SIZES |= {"vgg16": (96, 16, 2)}
OTHER_SIZE = (96, 16, 4)
# Without an accelerator, Keras 3.15 leaves XLA off by itself: jit_compile="auto" is False there.
DEFAULT = "Keras's default (float32)"
XLA = "Keras with XLA (jit_compile=True)"
OURS = "this project"


def candidate(name: str, way: str, size: int, batch: int, steps: int) -> Callable[[], float]:
    """Return a function that measures images/s of one way to train an architecture.

    Nothing is augmented. The first steps, which trace the graph, are made here and are
    not measured.
    """
    if way != OURS:
        forget_onednn()
    import keras
    import numpy as np

    from mura.training import device as compute
    from mura.training import loop as trainers
    from mura.training import recipes

    if way == OURS:
        plan = compute.policy(name)
        compute.keep_freed_memory()
        still = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}
        chosen = recipes.recipe(name, image_size=size, weights="none", **still)
        model = trainers.compose_trainer(chosen, built(name, size, plan.precision), plan)
        [stage] = trainers.stages(chosen, pretrained=False)
        trainers.compile_trainer(model, chosen, stage, steps, plan)
    else:
        model = built(name, size, "float32")
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
    from mura.training import device as compute

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="*", default=list(SIZES))
    parser.add_argument("--xla", action="store_true")
    options, _ = parser.parse_known_args()
    results = []
    for name in options.architectures:
        started = time.perf_counter()
        results.append(policies(name, (DEFAULT, XLA, OURS) if options.xla else (DEFAULT, OURS)))
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    report(*results)


if __name__ == "__main__":
    main()
