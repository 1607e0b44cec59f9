"""A training in a process of its own, as ``test_devices.py`` starts it: its settings are JSON."""

import json
import os
import signal
import sys

import keras

from mura import training
from mura.models import custom_cnn
from mura.training import loop

STILL = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}


class Kill(keras.callbacks.Callback):
    """End this process at a step, counted from 1 over all epochs, as a power cut would."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main(root, folder, name, devices=None, sgd=None, widths=(4, 8), kill=None, **settings):
    custom_cnn.WIDTHS = widths
    if sgd:
        loop._optimizer = lambda recipe, stage, rate, steps: keras.optimizers.SGD(sgd)
    settings = {"image_size": 32, "batch_size": 16, "epochs": 2, **STILL} | settings
    recipe = training.recipe("cnn", precision="float32", **settings)
    callbacks = [Kill(kill)] if kill else []
    training.train(recipe, root, name, folder, True, callbacks=callbacks, spread_over=devices)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
