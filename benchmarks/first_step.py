"""From nothing to the first training step, per architecture: where a user waits at the start.

python benchmarks/first_step.py        about two minutes on two cores
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from measure import interleaved, report, seconds, table, without_onednn

ARCHITECTURES = {"cnn": 96, "densenet121": 96}
IMPORTING = "importing Keras and TensorFlow alone"
DEFAULT = "plain fit, Keras's default"

STEP = """
import os
import sys
from mura import backend
from mura.training import device as compute
if sys.argv[3] == "default":
    os.environ.pop(compute.ONEDNN, None)  # before TensorFlow is imported
else:
    backend.start()
import keras
import numpy as np
from mura.models import architectures
from mura.training import loop as trainers
from mura.training.recipes import recipe
name, size, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
plan, chosen = compute.policy(name), recipe(name, weights="none")
keras.config.set_dtype_policy("float32" if way == "default" else plan.precision)
model = architectures.build(name, size)
if way == "default":
    metrics = [keras.metrics.AUC()]  # as in the recipe
    model.compile(keras.optimizers.Adam(), "binary_crossentropy", metrics=metrics)
else:
    model = trainers.compose_trainer(chosen.replace(image_size=size), model, plan)
    [stage] = trainers.stages(chosen, pretrained=False)
    trainers.compile_trainer(model, chosen, stage, 1, plan)
images = np.zeros((8, size, size, 1), np.uint8)
model.fit(images, np.arange(8.0).reshape(8, 1) % 2, verbose=0)
"""


def process(*arguments: str) -> Callable[[], float]:
    """Return a function that measures the seconds of a Python process."""
    command, environment = [sys.executable, "-c", *arguments], without_onednn()
    return lambda: seconds(lambda: subprocess.run(command, check=True, env=environment))


def main() -> None:
    results = []
    importing = [process("import keras")()]
    for name, size in ARCHITECTURES.items():
        figures = {IMPORTING: importing} | interleaved(
            {
                DEFAULT: process(STEP, name, str(size), "default"),
                "this project": process(STEP, name, str(size), "policy"),
            },
            repetitions=1,  # each is a process of its own, and DenseNet-121 takes its time
        )
        title = f"A process's first training step, {name}, {size} px"
        note = (
            "This project's step holds augmentation as well. Python looks for no garbage while it "
            "imports, as it does where Keras is imported alone."
        )
        results.append(table(title, "seconds", figures, DEFAULT, note))
    report(*results)


if __name__ == "__main__":
    main()
