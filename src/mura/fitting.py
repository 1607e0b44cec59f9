"""Fit a network in stages, so that a killed training continues bit for bit.

On a GPU, whose sums vary in the last bits, up to rounding: the order of images and all seeds are
the same.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura import architectures, checkpoints, trainers
from mura.checkpoints import Progress
from mura.compute import ComputePolicy
from mura.feeding import feed
from mura.pixels import RadiographBatches
from mura.recipes import Recipe
from mura.trainers import Stage, compile_trainer, compose_trainer, forget_in_time, stages
from mura.training_data import TrainingData, TrainingError, batches


@dataclass(frozen=True)
class Task:
    """What is fitted to what, and where its state is kept."""

    recipe: Recipe
    data: TrainingData
    network: keras.Model
    pretrained: bool  # whether the network's backbone is worth freezing at first
    plan: ComputePolicy
    checkpoint: Path  # written after every epoch


class Bookkeeper(keras.callbacks.Callback):
    """Keep the best weights, cut the rate, stop early, and save all of it after every epoch.

    One callback instead of Keras's four, because their counters would not survive a restart.
    Where a stage averages weights, the tune part is evaluated with the averages, and they are
    what is kept.
    """

    def __init__(
        self, task: Task, stage: Stage, progress: Progress, best: list[np.ndarray] | None
    ) -> None:
        super().__init__()
        self.task, self.stage, self.progress, self.best = task, stage, progress, best
        self.images = len(task.data.rows("fit"))
        # not the stage before's: a frozen backbone may answer better than a moving one at first
        losses = [row["tune_loss"] for row in progress.history if row["stage"] == stage.name]
        self.stage_best = min((loss for loss in losses if not math.isnan(loss)), default=math.inf)
        averaging = trainers.averages(task.recipe, stage)
        self.average = keras.callbacks.SwapEMAWeights() if averaging else None

    def set_model(self, model: keras.Model) -> None:
        """Take the model that is trained."""
        super().set_model(model)
        if self.average is not None:
            self.average.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Stop the clock: the epoch's training is done, the tune part is evaluated next."""
        # JAX only queues its steps: what the last one computes is there when the device is done
        keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        self.trained = time.perf_counter() - self.started
        self._use_average(True)

    def on_test_end(self, logs: dict | None = None) -> None:
        """Go back to the weights that are trained."""
        self._use_average(False)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Take stock of an epoch and save it."""
        progress, logs = self.progress, dict(logs or {})
        progress.epoch = epoch + 1
        progress.seconds += self.trained
        progress.images_per_second.append(self.images / self.trained)
        row = {"stage": self.stage.name, "epoch": len(progress.history) + 1}
        row |= {name.replace("val_", "tune_"): float(value) for name, value in logs.items()}
        row["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        progress.history.append(row)

        if row["tune_loss"] < progress.best_loss:
            progress.best_loss, progress.best_epoch = row["tune_loss"], row["epoch"]
            with self._averaged():
                self.best = [np.array(value) for value in self.task.network.get_weights()]
        if row["tune_loss"] < self.stage_best:
            self.stage_best = row["tune_loss"]
            progress.epochs_without_gain = progress.epochs_at_rate = 0
        else:
            progress.epochs_without_gain += 1
            progress.epochs_at_rate += 1
        if not self.stage.frozen_backbone:
            self._cut_rate()
            if 0 < self.task.recipe.early_stopping <= progress.epochs_without_gain:
                progress.stopped = self.model.stop_training = True
        checkpoints.save(self.task.checkpoint, progress, self.model, self.best)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        self._use_average(True)
        yield
        self._use_average(False)

    def _use_average(self, use: bool) -> None:
        if self.average is None:
            return
        if use:
            self.average.on_test_begin()
        else:
            self.average.on_test_end()

    def _cut_rate(self) -> None:
        recipe, progress = self.task.recipe, self.progress
        if recipe.schedule == "plateau" and progress.epochs_at_rate >= recipe.plateau_patience:
            progress.epochs_at_rate = 0
            rate = self.model.optimizer.learning_rate
            rate.assign(rate * recipe.plateau_factor)


def fit(task: Task, progress: Progress, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run the stages that are left; return the best epoch's weights.

    Args:
        task: What to fit.
        progress: Where the training stands; it is kept up to date.
        arrays: The checkpoint's, empty for a new training.

    Raises:
        TrainingError: The tune loss was never a number.
        CheckpointError: The arrays do not fit the network.
    """
    recipe, network = task.recipe, task.network
    keras.utils.set_random_seed(recipe.seed)
    trainer = compose_trainer(recipe, network, task.plan)
    best = checkpoints.best_weights(arrays)
    for index, stage in enumerate(stages(recipe, task.pretrained)):
        if progress.stage > index or progress.stopped:
            continue
        if progress.stage < index:
            progress.stage, progress.epoch = index, 0
            progress.epochs_without_gain = progress.epochs_at_rate = 0
        architectures.freeze_backbone(network, stage.frozen_backbone)
        fit_batches = batches(task.data, "fit", recipe, epoch=len(progress.history))
        if not stage.frozen_backbone:
            forget_in_time(network, stage.epochs * len(fit_batches))
        compile_trainer(trainer, recipe, stage, len(fit_batches), task.plan)
        if progress.epoch:
            checkpoints.restore(task.checkpoint, trainer, arrays)
        if progress.epoch >= stage.epochs:
            # killed between two stages: do what Keras does when the epochs of a fit are over
            trainer.optimizer.finalize_variable_values(trainer.trainable_variables)
            continue
        bookkeeper = Bookkeeper(task, stage, progress, best)
        bar = sys.stdout.isatty()

        def deal(*_: Any, dealt: RadiographBatches = fit_batches) -> None:
            # from 1, as Keras itself would have it: fit ends an epoch before its first one
            dealt.start_epoch(len(progress.history) + 1)

        trainer.fit(
            feed(fit_batches),
            # Keras would mix whole batches by Python's global random numbers; the batches are
            # shuffled by seed and epoch already
            shuffle=False,
            validation_data=feed(batches(task.data, "tune", recipe)),
            initial_epoch=progress.epoch,
            epochs=stage.epochs,
            callbacks=[
                *(bookkeeper, keras.callbacks.LambdaCallback(on_epoch_begin=deal)),
                *([] if bar else [SignOfLife()]),
            ],
            verbose=1 if bar else 2,  # 2: a line per epoch
        )
        best = bookkeeper.best
    if best is None:
        raise TrainingError(
            f"{recipe.architecture}: the tune loss was never a number, so there is no best "
            "epoch; take a smaller learning_rate (a setting of the recipe)."
        )
    return best


@contextlib.contextmanager
def told_of_memory(batch_size: int) -> Iterator[None]:
    """Turn a backend's error that the device's memory ran out into one that names the remedy.

    Raises:
        TrainingError: In its place; other errors pass.
    """
    try:
        yield
    except Exception as error:
        if not _memory_ran_out(error):
            raise
        raise TrainingError(
            f"the device's memory ran out with batches of {batch_size} images: choose a smaller "
            "--batch-size (batch_size in a recipe) or --image-size."
        ) from None


class SignOfLife(keras.callbacks.Callback):
    """Say once, a minute into the first epoch, how long an epoch takes.

    Where no bar can move, in a notebook or a batch job's log, Keras prints a line per epoch: of
    MURA on a small GPU that is a quarter of an hour of silence.
    """

    async_safe = True  # looks at the clock alone, so Keras need not wait for the device

    def __init__(self, after: float = 60.0) -> None:
        super().__init__()
        self.after = after  # seconds
        self.first: tuple[int, float] | None = None
        self.said = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count from the first step's end: what comes before it is mostly compilation."""
        now = time.perf_counter()
        if self.first is None:
            self.first = batch, now
        elif not self.said and now - self.first[1] >= self.after:
            self.said = True
            per_step = (now - self.first[1]) / (batch - self.first[0])
            steps = self.params["steps"]
            minutes = per_step * steps / 60
            said = f"step {batch + 1:,} of {steps:,}: about {minutes:.0f} minutes per epoch"
            print(said, flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """From here on Keras's own lines tell."""
        self.said = True


def _memory_ran_out(error: BaseException | None) -> bool:
    # On JAX what Keras does after a failed step may fail in turn, so earlier errors count, too.
    while error is not None:
        # TensorFlow's error has this name; JAX's, of which there were two, says so inside
        if type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
