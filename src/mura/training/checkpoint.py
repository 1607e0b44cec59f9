"""The callback that saves a training after every epoch, keeps its best one, and continues it."""

import contextlib
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura import data
from mura.data import Batches, data_name, is_synthetic
from mura.files import clear_partial
from mura.runs import RUN_FILES, models_folder, refuse_name
from mura.training import devices
from mura.training.progress import (
    CheckpointError,
    Progress,
    identify,
    in_order,
    load,
    peek,
    restore,
    save,
    settings_of,
)
from mura.training.recipes import Recipe
from mura.training.start import TrainingError, refuse_patients_seen_before, weight_file


class Checkpoint(keras.callbacks.Callback):
    """Watch one training: pass it to ``fit`` among the callbacks.

    After every epoch it keeps the weights of the lowest tune loss, or the last, cuts the rate on a
    plateau and stops early, as the recipe says, and saves all of it beside the run's future folder.
    Where the optimizer averages weights, the averages are evaluated and kept. One callback instead
    of Keras's four, because their counters would not survive a restart.

    Args:
        model: The network, which the model that is fitted shares its variables with.
        recipe: The recipe.
        batches: The data.
        name: The run's name; ``recipe.run_name`` when empty.
        models: The folder that runs stand in; the checkout's ``models/`` when empty.
        resume: Continue an unfinished training of this name and recipe.
        replace: Let a phantom's run of this name, or a phantom's unfinished training of another
            recipe, give way. What was trained on radiographs, for days maybe, never does.

    Raises:
        TrainingError: The run's name is taken, or is none of a folder.
        CheckpointError: The unfinished training of this name has another recipe or other data.
        WeightsError: The network starts from a run that was fitted on patients held out now.
    """

    def __init__(
        self,
        model: keras.Model,
        recipe: Recipe,
        batches: Batches,
        name: str | None = None,
        models: str | Path | None = None,
        resume: bool = True,
        replace: bool = True,
    ) -> None:
        super().__init__()
        recipe = recipe.replace(body_parts=recipe.body_parts or data.body_parts(batches.manifest))
        self.model_to_save, self.recipe, self.batches = model, recipe, batches
        name = name or recipe.run_name
        refuse_name(name)
        self.folder = models_folder(models or None) / name
        self.path = self.folder.parent / f".{name}.training" / "checkpoint.npz"
        weights = weight_file(recipe.weights, models or None)
        refuse_patients_seen_before(weights, batches.manifest)
        self.progress = Progress(
            identify(recipe, batches.manifest, weights),
            data_name(batches.root),
            settings_of(recipe, weights),
            model.origin.description,
        )
        self.best: list[np.ndarray] | None = None
        self.devices = devices.count()
        self.watched = False  # whether ``fit`` had this among its callbacks
        self._arrays: dict[str, np.ndarray] = {}  # of an unfinished training, until they are used
        self._average: keras.callbacks.SwapEMAWeights | None = None
        if self.folder.exists():
            _refuse_loss(self.folder, replace)
        self._open(resume, replace)

    @property
    def origin(self) -> str:
        """What the network's first weights were: "random", "imagenet", "file:...", "run:..."."""
        return self.progress.origin

    def enter(self, index: int, name: str) -> bool:
        """Begin a stage; False where it is over already."""
        progress = self.progress
        if progress.stage > index or progress.stopped:
            return False
        if progress.stage < index:
            progress.stage, progress.epoch = index, 0
            progress.epochs_without_gain = progress.epochs_at_rate = 0
        self.stage = name
        return True

    def remove(self) -> None:
        """Delete the checkpoint: the run is written."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Go on from the checkpoint, if there is one of this stage."""
        self.watched = True
        optimizer = self.model.optimizer
        optimizer.build(self.model.trainable_variables)  # else TensorFlow traces the step twice
        self._average = keras.callbacks.SwapEMAWeights() if optimizer.use_ema else None
        if self._average is not None:
            self._average.set_model(self.model)
        kind = type(optimizer).__name__
        if self.progress.epoch and self._arrays:
            if kind != self.progress.optimizer:
                raise CheckpointError(
                    f"{self.path}: this unfinished training was compiled with "
                    f"{self.progress.optimizer}, and this one is with {kind}; delete "
                    f"{self.path.parent} to start over, or give the run another name."
                )
            restore(self.path, self.model, self._arrays)
        self._arrays = {}
        self.progress.optimizer = kind
        self.model._initial_epoch = self.progress.epoch  # as Keras's BackupAndRestore does

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Deal the epoch's images, and start the clock."""
        self.batches.fit.start_epoch(len(self.progress.history) + 1)  # from 1, as Keras does
        self._started = time.perf_counter()

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Stop the clock: the epoch's training is done, the tune part is evaluated next."""
        # JAX only queues its steps: what the last one computes is there when the device is done
        keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        self._trained = time.perf_counter() - self._started
        self._use_average(True)

    def on_test_end(self, logs: dict | None = None) -> None:
        """Go back to the weights that are trained."""
        self._use_average(False)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Take stock of an epoch and save it."""
        if "val_loss" not in (logs or {}):
            raise TrainingError("fit needs validation_data=batches.tune to choose the best epoch.")
        progress, recipe = self.progress, self.recipe
        progress.epoch = epoch + 1
        progress.seconds += self._trained
        progress.images_per_second.append(len(self.batches.fit.rows) / self._trained)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        progress.history.append(history_row(self.stage, len(progress.history) + 1, logs, rate))
        row = progress.history[-1]
        better = row["tune_loss"] < progress.best_loss
        if better or (recipe.keep == "last" and math.isfinite(row["tune_loss"])):
            progress.best_loss, progress.best_epoch = row["tune_loss"], row["epoch"]
            self._use_average(True)
            self.best = [np.array(value) for value in self.model_to_save.get_weights()]
            self._use_average(False)
        if self._gained():
            progress.epochs_without_gain = progress.epochs_at_rate = 0
        else:
            progress.epochs_without_gain += 1
            progress.epochs_at_rate += 1
        if not all(map(math.isfinite, (row["loss"], row["tune_loss"]))):
            progress.diverged, progress.stopped = row["epoch"], True
            self.model.stop_training = True
            print(f"stopped: {diverged(progress.diverged)}", flush=True)
        elif self.stage == "all":
            self._cut_rate()
            if 0 < recipe.early_stopping <= progress.epochs_without_gain:
                progress.stopped = self.model.stop_training = True
        if devices.process()[0] == 0:
            save(self.path, progress, self.model, self.best)

    def _gained(self) -> bool:
        """Whether the tune loss, averaged over some epochs, has fallen below all before."""
        # not the stage before's: a frozen backbone may answer better than a moving one at first
        rows = [row for row in self.progress.history if row["stage"] == self.stage]
        losses, window = [row["tune_loss"] for row in rows], self.recipe.plateau_window
        ends = range(1, len(losses) + 1)
        *before, now = [np.mean(losses[max(0, end - window) : end]) for end in ends]
        return bool(now < (1 - self.recipe.plateau_gain) * min(before, default=math.inf))

    def _cut_rate(self) -> None:
        recipe, progress, optimizer = self.recipe, self.progress, self.model.optimizer
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if recipe.schedule != "plateau" or isinstance(optimizer._learning_rate, schedule):
            return
        if progress.epochs_at_rate >= recipe.plateau_patience:
            progress.epochs_at_rate = 0
            rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            floor = recipe.rate_from(self.origin) * recipe.plateau_floor
            optimizer.learning_rate.assign(max(rate * recipe.plateau_factor, floor))

    def _use_average(self, use: bool) -> None:
        if self._average is not None and use:
            self._average.on_test_begin()
        elif self._average is not None:
            self._average.on_test_end()

    def _open(self, resume: bool, replace: bool) -> None:
        clear_partial(self.path)
        if not self.path.exists():
            if resume and not replace:
                print("nothing to resume: starting from the beginning", flush=True)
            return
        if not resume:
            raise TrainingError(
                f"{self.path.parent}: an unfinished training of this name exists; add --resume "
                "to continue it, choose another --name, or delete that folder."
            )
        start = self.progress
        try:
            self.progress, self._arrays = load(self.path, start.identity, start.settings)
        except CheckpointError as error:
            its = peek(self.path)
            if not replace or not is_synthetic(its.data if its else "phantom"):
                raise
            print(f"an unfinished training gives way: {error}", flush=True)
            return
        self.best = in_order("best", self._arrays) or None
        print(f"continuing after epoch {len(self.progress.history)}", flush=True)


def diverged(epoch: int) -> str:
    """Say what became of a training whose loss was not a number, and what helps."""
    return (
        f"the loss of epoch {epoch} is not a number, so the best epoch before it is kept; take a "
        "smaller learning_rate or float32 (settings of the recipe)"
    )


def history_row(
    stage: str, epoch: int, logs: dict[str, Any] | None, rate: float | None = None
) -> dict[str, Any]:
    """Return an epoch's row of history.csv: Keras's ``val_`` is the tune part here."""
    row = {"stage": stage, "epoch": epoch}
    row |= {name.replace("val_", "tune_"): float(value) for name, value in (logs or {}).items()}
    return row if rate is None else row | {"learning_rate": rate}


def _refuse_loss(folder: Path, replace: bool) -> None:
    """Raise where a run stands that may not be replaced."""
    made_on = "phantom"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged: not known
        facts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        made_on = str(facts["data"]["name"])
    if not replace:
        raise TrainingError(f"{folder}: exists already; choose another --name, or delete it.")
    if not any((folder / name).is_file() for name in RUN_FILES):
        raise TrainingError(f"{folder}: is no run, so it is not replaced; choose another name.")
    if not is_synthetic(made_on):
        raise TrainingError(
            f"{folder}: this run was trained on {made_on} and is never replaced; give the new one "
            "a name of its own, or rename or delete that folder."
        )
    print(f"{folder}: an earlier run, which gives way when this one is complete", flush=True)
