"""The model that a training trains: augmentation, network, loss, optimizer, schedule, averages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras

from mura import architectures
from mura.augmentation import RadiographAugmentation
from mura.compute import ComputePolicy
from mura.recipes import Recipe


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


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rise from 0 to ``peak`` in a straight line, then fall to 0 along half a cosine.

    Keras's ``CosineDecay`` gives the same rates by a conditional. Weight decay asks for the rate
    once per variable, and TensorFlow then traces hundreds of conditionals: under a profiler, 6.7
    of the 18 s that tracing ResNet-50's step took. This one has no branches.

    Args:
        peak: The highest learning rate.
        total: Steps of the whole schedule.
        rising: How many of them the rate rises for.
    """

    def __init__(self, peak: float, total: int, rising: int) -> None:
        self.peak, self.total, self.rising = peak, total, rising

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step, counted from 0."""
        step = keras.ops.cast(step, "float32")
        fallen = (step - self.rising) / max(1, self.total - self.rising)
        falling = 0.5 * (1.0 + keras.ops.cos(math.pi * keras.ops.clip(fallen, 0.0, 1.0)))
        risen = step / self.rising if self.rising else 1.0
        return self.peak * keras.ops.minimum(risen, falling)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"peak": self.peak, "total": self.total, "rising": self.rising}


def compile_trainer(
    trainer: keras.Model, recipe: Recipe, stage: Stage, steps: int, plan: ComputePolicy
) -> None:
    """Give a model the recipe's loss, optimizer and schedule for one stage."""
    rate: Any = stage.learning_rate
    if recipe.schedule == "cosine" and not stage.frozen_backbone:
        total = stage.epochs * steps
        rate = WarmupCosine(stage.learning_rate, total, round(recipe.warmup_fraction * total))
    settings: dict[str, Any] = {}
    if averages(recipe, stage):
        momentum = _momentum(recipe.average_momentum, stage.epochs * steps)
        settings = {"use_ema": True, "ema_momentum": momentum}
    if recipe.optimizer == "adamw":
        settings["weight_decay"] = recipe.weight_decay
    if plan.fused:
        from mura.fused import FusedAdam as Adam
    else:  # Keras's AdamW is this class with a weight decay
        from keras.optimizers import Adam
    optimizer = Adam(rate, **settings)
    if recipe.head == "joint":
        loss: Any = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
        metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    else:
        loss = keras.losses.BinaryCrossentropy(label_smoothing=recipe.label_smoothing)
        metrics = [keras.metrics.AUC(name="auroc")]
    trainer.compile(optimizer, loss, metrics=metrics, jit_compile=plan.jit_compile)
    # Variables that the optimizer would make in the first step make TensorFlow trace it twice.
    trainer.optimizer.build(trainer.trainable_variables)


def averages(recipe: Recipe, stage: Stage) -> bool:
    """Whether a stage keeps a moving average of the weights.

    Not that of a new head, which is to arrive before the backbone moves: an average lags behind.
    """
    return recipe.average_momentum is not None and not stage.frozen_backbone


def _momentum(momentum: float, steps: int) -> float:
    """Return a moving average's momentum, or a lower one where it would outlast the training.

    After n steps an average still holds momentum^n of what it began with: of the statistics that
    normalisation starts from (mean 0, variance 1, momentum 0.99 in Keras's networks) nearly half
    after 72 steps. With 1 - 10 / n it is less than e^-10, 0.005 %.
    """
    return min(momentum, max(0.0, 1 - 10 / steps))


def forget_in_time(network: keras.Model, steps: int) -> None:
    """Lower the momentum of batch normalisation where the training has few steps."""
    for layer in architectures.every_layer(network):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = _momentum(layer.momentum, steps)


def compose_trainer(recipe: Recipe, network: keras.Model, plan: ComputePolicy) -> keras.Model:
    """Return augmentation and network in one model that shares the network's variables."""
    if plan.fused:
        from mura.fused import fused_network

        network = fused_network(network)
    augmentation = RadiographAugmentation(
        flip=recipe.flip,
        rotation=recipe.rotation,
        shift=recipe.shift,
        zoom=recipe.zoom,
        contrast=recipe.contrast,
        seed=recipe.seed,
        for_xla=plan.jit_compile,
    )
    image = keras.Input((recipe.image_size, recipe.image_size, 1), dtype="uint8", name="image")
    return keras.Model(image, network(augmentation(image)))
