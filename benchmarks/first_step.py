"""From nothing to the first training step, per architecture: where a user waits at the start.

python benchmarks/first_step.py        about two minutes on two cores
"""

from __future__ import annotations

import subprocess
import sys
import time

from measure import interleaved, report, table

ARCHITECTURES = {"cnn": 112, "densenet121": 96}

STEP = """
import sys, time
import numpy as np
import keras
from mura import architectures, compute
name, size, jit = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jit = {"policy": compute.policy(name).jit_compile, "auto": "auto"}[jit]
model = architectures.build(name, size)
model.compile("adam", "binary_crossentropy", jit_compile=jit)
images = np.zeros((8, size, size, 1), np.uint8)
model.train_on_batch(images, np.zeros((8, 1), np.float32))
"""


def first_step(name: str, size: int, jit: str):
    def measure() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", STEP, name, str(size), jit], check=True)
        return time.perf_counter() - started

    return measure


def main() -> None:
    importing = {"import keras and TensorFlow alone": lambda: _import_only()}
    results = []
    for name, size in ARCHITECTURES.items():
        figures = interleaved(
            {
                **importing,
                "Keras's default (XLA)": first_step(name, size, "auto"),
                "this project": first_step(name, size, "policy"),
            },
            repetitions=3,
        )
        results.append(
            table(
                f"A process's first training step, {name}, {size} px",
                "seconds",
                figures,
                "Keras's default (XLA)",
            )
        )
    report(*results)


def _import_only() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import keras"], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
