"""Fit a network in stages, so that a killed training continues bit for bit."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura import architectures, checkpoints
from mura.augmentation import RadiographAugmentation
from mura.checkpoints import Progress
from mura.compute import ComputePolicy
from mura.recipes import Recipe
from mura.training_data import TrainingData, TrainingError, batches


@dataclass(frozen=True)
class Stage:
    """A part of the training with one set of trainable layers and one learning rate."""

    name: str
    epochs: int
    learning_rate: float
    frozen_backbone: bool


def stages(recipe: Recipe, pretrained: bool) -> list[Stage]:
    """Return the head warm-up (only where there is something worth freezing) and the rest."""
    whole = Stage("all", recipe.epochs, recipe.learning_rate, frozen_backbone=False)
    if not pretrained or recipe.head_epochs == 0:
        return [whole]
    return [Stage("head", recipe.head_epochs, recipe.head_learning_rate, True), whole]


def compile_trainer(
    trainer: keras.Model, recipe: Recipe, stage: Stage, steps: int, jit_compile: bool
) -> None:
    """Give a model the recipe's loss, optimizer and schedule for one stage."""
    rate: Any = stage.learning_rate
    if recipe.schedule == "cosine" and not stage.frozen_backbone:
        total = stage.epochs * steps
        rising = round(recipe.warmup_fraction * total)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if rising else stage.learning_rate,
            decay_steps=max(1, total - rising),
            warmup_target=stage.learning_rate if rising else None,
            warmup_steps=rising,
        )
    averaging = {"use_ema": True, "ema_momentum": recipe.average_momentum}
    settings = averaging if recipe.average_momentum else {}
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **settings)
    else:
        optimizer = keras.optimizers.Adam(rate, **settings)
    if recipe.head == "joint":
        loss: Any = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    else:
        loss = keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing)
        metrics = [keras.metrics.AUC(name="auroc")]
    trainer.compile(optimizer, loss, metrics=metrics, jit_compile=jit_compile)


class Bookkeeper(keras.callbacks.Callback):
    """Keep the best weights, cut the rate, stop early, and save all of it after every epoch.

    One callback instead of Keras's four, because their counters would not survive a restart.
    """

    def __init__(
        self,
        network: keras.Model,
        recipe: Recipe,
        stage: Stage,
        progress: Progress,
        best: list[np.ndarray] | None,
        path: Path,
        images: int,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.stage = network, recipe, stage
        self.progress, self.best, self.path, self.images = progress, best, path, images
        self.average = keras.callbacks.SwapEMAWeights() if recipe.average_momentum else None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if self.average is not None:
            self.average.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.started, self.trained = time.perf_counter(), None

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.trained = time.perf_counter() - self.started
        if self.average is not None:
            self.average.on_test_begin()

    def on_test_end(self, logs: dict | None = None) -> None:
        if self.average is not None:
            self.average.on_test_end()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
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
            progress.epochs_without_gain = progress.epochs_at_rate = 0
            self.best = self._weights()
        else:
            progress.epochs_without_gain += 1
            progress.epochs_at_rate += 1
        if not self.stage.frozen_backbone:
            self._cut_rate()
            if 0 < self.recipe.early_stopping <= progress.epochs_without_gain:
                progress.stopped = self.model.stop_training = True
        checkpoints.save(self.path, progress, self.model, self.best)

    def _weights(self) -> list[np.ndarray]:
        if self.average is not None:
            self.average.on_test_begin()
        weights = [np.array(value) for value in self.network.get_weights()]
        if self.average is not None:
            self.average.on_test_end()
        return weights

    def _cut_rate(self) -> None:
        if self.recipe.schedule != "plateau":
            return
        if self.progress.epochs_at_rate >= self.recipe.plateau_patience:
            self.progress.epochs_at_rate = 0
            rate = self.model.optimizer.learning_rate
            rate.assign(rate * self.recipe.plateau_factor)


def fit(
    recipe: Recipe,
    data: TrainingData,
    network: keras.Model,
    weights: str,
    plan: ComputePolicy,
    progress: Progress,
    arrays: dict[str, np.ndarray],
    path: Path,
) -> list[np.ndarray]:
    """Run the stages that are left; return the best epoch's weights."""
    keras.utils.set_random_seed(recipe.seed)
    augmentation = RadiographAugmentation(
        flip=recipe.flip,
        rotation=recipe.rotation,
        shift=recipe.shift,
        zoom=recipe.zoom,
        contrast=recipe.contrast,
        seed=recipe.seed,
        dtype="float32",
    )
    image = keras.Input((recipe.image_size, recipe.image_size, 1), dtype="uint8", name="image")
    trainer = keras.Model(image, network(augmentation(image)))
    best = checkpoints.best_weights(arrays)
    for index, stage in enumerate(stages(recipe, pretrained=weights != "random")):
        if progress.stage > index or progress.stopped:
            continue
        if progress.stage < index:
            progress.stage, progress.epoch = index, 0
            progress.epochs_without_gain = progress.epochs_at_rate = 0
        architectures.freeze_backbone(network, stage.frozen_backbone)
        fit_batches = batches(data, "fit", recipe, epoch=len(progress.history))
        compile_trainer(trainer, recipe, stage, len(fit_batches), plan.jit_compile)
        if arrays and progress.stage == index and progress.epoch:
            checkpoints.restore(trainer, arrays)
        if progress.epoch >= stage.epochs:
            continue
        bookkeeper = Bookkeeper(
            network, recipe, stage, progress, best, path, images=len(data.rows("fit"))
        )
        trainer.fit(
            fit_batches,
            # Keras would mix whole batches by Python's global random numbers; the batches are
            # shuffled by seed and epoch already
            shuffle=False,
            validation_data=batches(data, "tune", recipe),
            initial_epoch=progress.epoch,
            epochs=stage.epochs,
            callbacks=[bookkeeper],
            verbose=1 if sys.stdout.isatty() else 2,
        )
        best = bookkeeper.best
    if best is None:
        raise TrainingError(
            f"{recipe.architecture}: the tune loss was never a number, so there is no best "
            "epoch; lower the learning rate."
        )
    return best
