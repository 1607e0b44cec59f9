"""From nothing to the first training step of DenseNet-121: where a user waits at the start.

python benchmarks/first_step.py        about a minute on two cores
"""

from __future__ import annotations

import argparse
import sys

from measure import OURS, interleaved, plain_model, process_seconds, project_model, report, table

NAME, SIZE = "densenet121", 96
IMPORTING, DEFAULT = "importing Keras and TensorFlow alone", "plain fit, Keras's default"
LIMIT = 15  # seconds


def step(name: str, size: int, way: str) -> None:
    """Build and compile a network in one of two ways, and fit it to one batch."""
    if way == "plain":
        model = plain_model(name, size)
    else:
        model = project_model(name, size, flip=True, rotation=30.0, shift=0.05)
    import numpy as np

    images, labels = np.zeros((8, size, size, 1), np.uint8), np.arange(8.0).reshape(8, 1) % 2
    model.fit(images, labels, verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=("plain", "project"), help="only make the step, here")
    options, _ = parser.parse_known_args()
    if options.way:
        step(NAME, SIZE, options.way)
        return
    this = [sys.executable, __file__, "--way"]
    candidates = {
        IMPORTING: process_seconds([sys.executable, "-c", "import keras"]),
        DEFAULT: process_seconds([*this, "plain"]),
        OURS: process_seconds([*this, "project"]),
    }
    report(
        table(
            f"A process's first training step, {NAME}, {SIZE} px",
            "seconds",
            interleaved(candidates, repetitions=2),
            DEFAULT,
            "This project's step holds augmentation as well.",
            (OURS, "at most", LIMIT, "median"),
        )
    )


if __name__ == "__main__":
    main()
