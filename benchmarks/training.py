"""Training steps on this device: this project beside Keras's default.

python benchmarks/training.py          about three minutes on two cores
python benchmarks/training.py --architectures convnext_tiny    others, such as those with
                                       depthwise convolutions, for which there is a kernel
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from measure import OURS, apart, interleaved, plain_model, project_model, report, seconds, table

# name: (image size, images per step, steps)
SIZES = {"cnn": (128, 32, 6), "densenet121": (96, 16, 4), "resnet50": (96, 16, 4)}
SIZES |= {"vgg16": (96, 16, 2)}
OTHER_SIZE = (96, 16, 4)
DEFAULT = "Keras's default (float32)"
AIM = 1.6
STILL = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}


def candidate(name: str, way: str, size: int, batch: int, steps: int) -> Callable[[], float]:
    """Return a function that measures images/s of one way to train an architecture.

    Nothing is augmented. The first steps, which trace the graph, are made here and not measured.
    """
    model = project_model(name, size, **STILL) if way == OURS else plain_model(name, size)
    import numpy as np

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, size, size, 1), dtype=np.uint8)
    labels = random.integers(0, 2, (batch, 1)).astype("float32")

    def train(steps: int) -> None:
        for _ in range(steps):
            model.train_on_batch(images, labels)

    train(3)
    return lambda: batch * steps / seconds(lambda: train(steps))


def compared(name: str) -> dict[str, Any]:
    """Return the result for one architecture: Keras's default beside this project."""
    size, batch, steps = SIZES.get(name, OTHER_SIZE)
    # apart, because the memory that this project keeps would speed up the others, too
    ways = {way: (candidate, name, way, size, batch, steps) for way in (DEFAULT, OURS)}
    with apart(ways) as candidates:
        figures = interleaved(candidates)
    from mura import training
    from mura.training import device

    plan = device.plan(training.recipe(name))
    result = table(
        f"Training {name}, {size} px, batches of {batch}",
        "images/s",
        figures,
        DEFAULT,
        f"This project: {plan.precision}, {'XLA' if plan.jit_compile else 'no XLA'}, "
        f"{'fused' if plan.fused else 'plain'} kernels.",
        *([] if name == "cnn" else [(OURS, "at least", AIM, "ratio")]),
    )
    if plan.device != "cpu":  # the page lists gains by processor
        return result
    gain = next(row["ratio"] for row in result["rows"] if row["name"] == OURS)
    return result | {"gain": {"network": name, "precision": plan.precision, "gain": gain}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architectures", nargs="*", default=list(SIZES))
    options, _ = parser.parse_known_args()
    report(*map(compared, options.architectures))


if __name__ == "__main__":
    main()
