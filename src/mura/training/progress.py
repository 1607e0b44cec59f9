"""Where an unfinished training stands, in one file that is replaced whole after every epoch.

The file holds every variable that the next epoch depends on (weights, moving statistics, optimizer
moments and averages, the seeds of augmentation and dropout) and the loop's own counters. The order
of the images is a function of seed and epoch. So a training that is killed at any moment and
continued ends with the weights of an uninterrupted one; on a GPU, whose sums vary in the last
bits, up to rounding.
"""

import contextlib
import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from mura.files import InputError, write_atomically
from mura.training.recipes import Recipe


class CheckpointError(InputError):
    """A checkpoint is damaged or belongs to another training."""


@dataclass
class Progress:
    """Where a training stands; counters are of finished epochs."""

    identity: str  # as ``identify`` returns it: a checkpoint continues nothing else
    data: str = ""  # what the data are called (``data_name``)
    settings: dict[str, Any] = field(default_factory=dict)  # as ``settings_of`` returns them
    origin: str = ""  # what the network's first weights were
    optimizer: str = ""  # the class of the optimizer that the stage was compiled with
    stage: int = 0
    epoch: int = 0  # within the stage
    best_loss: float = math.inf
    best_epoch: int = 0  # over all stages, counted from 1
    epochs_without_gain: int = 0  # for early stopping
    epochs_at_rate: int = 0  # for the plateau schedule
    stopped: bool = False
    diverged: int = 0  # the epoch whose loss was not a number, counted from 1; 0: none
    seconds: float = 0.0  # of training, without validation
    images_per_second: list[float] = field(default_factory=list)  # per epoch
    history: list[dict[str, Any]] = field(default_factory=list)


def settings_of(recipe: Recipe, weights: str | None) -> dict[str, Any]:
    """Return a recipe as JSON holds it, with weights as the place that they are at."""
    return json.loads(json.dumps(recipe.to_dict() | {"weights": weights}))


def identify(recipe: Recipe, manifest: pd.DataFrame, weights: str | None) -> str:
    """Return a digest of what decides a training: recipe, images' names, labels, parts, backend.

    Args:
        recipe: The recipe.
        manifest: With the column ``part``.
        weights: As ``start.weight_file`` returns it.
    """
    settings = json.dumps(settings_of(recipe, weights), sort_keys=True)
    digest = hashlib.sha256(settings.encode())
    rows = pd.util.hash_pandas_object(manifest[["path", "label", "part"]], index=False)
    digest.update(rows.to_numpy().tobytes())
    digest.update(keras.backend.backend().encode())
    return digest.hexdigest()[:16]


def save(
    path: Path, progress: Progress, trainer: keras.Model, best: list[np.ndarray] | None
) -> None:
    """Write the state of a compiled model and its training, atomically."""
    arrays = {
        **_numbered("model", trainer.variables),
        **_numbered("optimizer", trainer.optimizer.variables),
        **_numbered("best", best or []),
        "progress": np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8),
    }
    with write_atomically(path, "wb") as file:
        np.savez(file, **arrays)


def load(
    path: Path, identity: str, settings: dict[str, Any]
) -> tuple[Progress, dict[str, np.ndarray]]:
    """Read a checkpoint.

    Raises:
        CheckpointError: The file is damaged, or was made with another recipe or other data.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        progress = Progress(**json.loads(arrays.pop("progress").tobytes()))
    except Exception as error:  # zipfile and NumPy raise many kinds for a damaged file
        raise CheckpointError(
            f"{path}: damaged checkpoint ({error}); delete its folder and train again."
        ) from error
    if progress.identity != identity:
        other = differences(progress.settings, settings)
        other = f"another recipe: {other}" if other else "other data or another Keras backend"
        raise CheckpointError(
            f"{path}: this unfinished training has {other}; repeat its settings to continue it, "
            "choose another name, or delete its folder."
        )
    return progress, arrays


def restore(path: Path, trainer: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Put a checkpoint's arrays into a model whose optimizer is built.

    Raises:
        CheckpointError: The variables do not match.
    """
    kinds = {"model": trainer.variables, "optimizer": trainer.optimizer.variables}
    for name, variables in kinds.items():
        values = in_order(name, arrays)
        if [value.shape for value in values] != [tuple(v.shape) for v in variables]:
            raise CheckpointError(
                f"{path}: its {name} variables do not fit this model; was it made with another "
                "version of Keras? Delete its folder and train again."
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def in_order(name: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the arrays of one kind, "model", "optimizer" or "best", in their order."""
    return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]


def peek(path: Path) -> Progress | None:
    """Return how far an unfinished training is; None where there is none, or it is damaged."""
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as archive:
        return Progress(**json.loads(archive["progress"].tobytes()))
    return None


def differences(its: dict[str, Any], ours: dict[str, Any]) -> str:
    """Say in which settings two recipes differ: "epochs 1 instead of 3"; "" where in none."""
    names = [name for name in its | ours if its.get(name) != ours.get(name)]
    return ", ".join(f"{name} {its.get(name)!r} instead of {ours.get(name)!r}" for name in names)


def _numbered(name: str, variables: list[Any]) -> dict[str, np.ndarray]:
    return {f"{name}/{index:05d}": np.asarray(value) for index, value in enumerate(variables)}
