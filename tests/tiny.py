"""The smallest training that is still a training: seconds on a laptop."""

from pathlib import Path

from mura.runs import Run
from mura.training.recipes import Recipe, recipe
from mura.training.train import train


def tiny_recipe(**changes) -> Recipe:
    settings = {"image_size": 32, "epochs": 2, "batch_size": 16, "precision": "float32"}
    return recipe("cnn", **(settings | changes))


def tiny_run(root: Path, models: Path, name: str = "tiny", **changes) -> Run:
    return train(tiny_recipe(**changes), root, name=name, models=models)
