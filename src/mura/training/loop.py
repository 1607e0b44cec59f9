"""The stages of a training, and the model that is fitted in them."""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from mura import models
from mura.training import device
from mura.training.augmentation import RadiographAugmentation
from mura.training.checkpoint import Checkpoint
from mura.training.recipes import Recipe, RecipeError
from mura.training.start import weight_file


@dataclass(frozen=True)
class Stage:
    """A part of the training: what ``compile`` and ``fit`` take.

    On several devices take ``metrics`` as ``weighted_metrics``: they leave out what has no weight.
    """

    name: str  # "head" or "all"
    epochs: int
    optimizer: keras.Optimizer
    loss: keras.losses.Loss
    metrics: list[keras.Metric]


def build(recipe: Recipe, folder: str | None = None) -> keras.Model:
    """Build a recipe's network, in the precision that suits this device.

    ``recipe.weights`` may name a run in ``folder``, or in the checkout's ``models/`` when that is
    None. Errors are those of ``models.build``.
    """
    if recipe.head == "joint" and not recipe.body_parts:
        raise RecipeError("head joint: name the body_parts, or hand the manifest to the recipe.")
    return models.build(
        recipe.architecture,
        recipe.image_size,
        weights=weight_file(recipe.weights, folder),
        strict=recipe.strict_weights,
        head=recipe.head,
        body_parts=len(recipe.body_parts),
        dropout=recipe.dropout,
        seed=recipe.seed,
        dtype=device.plan(recipe).precision,
    )


def augmentation(recipe: Recipe) -> RadiographAugmentation:
    """Return a recipe's augmentation: uint8[B, S, S, 1] to float32 of the same shape, in 0-255."""
    for_xla = device.plan(recipe).jit_compile
    layer = RadiographAugmentation(
        flip=recipe.flip,
        rotation=recipe.rotation,
        shift=recipe.shift,
        zoom=recipe.zoom,
        contrast=recipe.contrast,
        brightness=recipe.brightness,
        gamma=recipe.gamma,
        seed=recipe.seed,
        for_xla=for_xla,
    )
    layer.supports_jit = for_xla  # `compile` takes XLA if all layers say that they support it
    return layer


def compose(model: keras.Model, recipe: Recipe) -> keras.Model:
    """Return what is trained: augmentation in front of a network, whose variables it shares.

    On a CPU with TensorFlow the layers compute with its fused kernels (``training.fused``).
    """
    if device.plan(recipe).fused:
        from mura.training.fused import fused_network

        model = fused_network(model)
    image = keras.Input((recipe.image_size, recipe.image_size, 1), dtype="uint8", name="image")
    return keras.Model(image, model(augmentation(recipe)(image)))


def stages(checkpoint: Checkpoint) -> Iterator[Stage]:
    """Yield the stages that are left: the new head first, if the backbone is pretrained, then all.

    Each prepares the network for its stage, so compile and fit one before you ask for the next.
    The checkpoint says how far an unfinished training came.
    """
    recipe, model = checkpoint.recipe, checkpoint.model_to_save
    models.settle()
    device.warn_of_idle_gpu()
    if device.device_kind() == "cpu":
        device.keep_freed_memory()
    keras.utils.set_random_seed(recipe.seed)
    steps = len(checkpoint.batches.fit)
    left = [("all", recipe.epochs, recipe.rate_from(checkpoint.origin))]
    if recipe.head_epochs and checkpoint.origin != "random":
        left.insert(0, ("head", recipe.head_epochs, recipe.head_learning_rate))
    for index, (name, epochs, rate) in enumerate(left):
        if not checkpoint.enter(index, name):
            continue
        models.freeze_backbone(model, frozen=name == "head")
        if name == "all":
            cap_batchnorm_momentum(model, epochs * steps)
        optimizer = _optimizer(recipe, name, rate, epochs * steps)
        yield Stage(name, epochs, optimizer, _loss(recipe), _metrics(recipe))


class _Counted:
    """A metric that counts each image once, whatever its loss weight, and none of weight 0."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch; of ``sample_weight`` only matters what is above 0."""
        if sample_weight is not None:
            sample_weight = keras.ops.cast(keras.ops.greater(sample_weight, 0), "float32")
        return super().update_state(y_true, y_pred, sample_weight)


class _CountedAUC(_Counted, keras.metrics.AUC):
    pass


class _CountedAccuracy(_Counted, keras.metrics.CategoricalAccuracy):
    pass


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rise from 0 to ``peak`` in a straight line, then fall to 0 along half a cosine.

    Keras's ``CosineDecay`` gives the same rates by a conditional, which TensorFlow traces once
    per variable where weight decay asks for the rate. This one has no branches. Of its ``total``
    steps, the rate rises in the first ``rising``.
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


def cap_batchnorm_momentum(model: keras.Model, steps: int) -> None:
    """Lower the momentum of batch normalisation where a training has few steps.

    Its moving statistics begin at mean 0 and variance 1; with Keras's 0.99, nearly half of that
    is left after 72 steps.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = _momentum(layer.momentum, steps)


def verbose() -> int:
    """Return Keras's ``verbose``: a moving bar on a terminal and in Jupyter, else a line per epoch.

    ``MURA_PROGRESS=lines`` asks for lines.
    """
    lines = os.environ.get("MURA_PROGRESS") == "lines"
    return 1 if (sys.stdout.isatty() or "ipykernel" in sys.modules) and not lines else 2


def _momentum(momentum: float, steps: int) -> float:
    """Return a moving average's momentum, or a lower one where it would outlast the training."""
    # after n steps an average holds momentum^n of its first value: of 1 - 10 / n less than e^-10
    return min(momentum, max(0.0, 1 - 10 / steps))


def _optimizer(recipe: Recipe, stage: str, rate: Any, steps: int) -> keras.Optimizer:
    settings: dict[str, Any] = {}
    if stage == "all" and recipe.schedule == "cosine":
        rate = WarmupCosine(rate, steps, round(recipe.warmup_fraction * steps))
    # an average lags behind, and a new head should arrive before the backbone moves
    if stage == "all" and recipe.average_momentum is not None:
        settings = {"use_ema": True, "ema_momentum": _momentum(recipe.average_momentum, steps)}
    if recipe.optimizer == "adamw":
        settings["weight_decay"] = recipe.weight_decay
    if device.plan(recipe).fused:
        from mura.training.fused import FusedAdam as Adam
    else:  # Keras's AdamW is this class with a weight decay
        from keras.optimizers import Adam
    optimizer = Adam(rate, **settings)
    if recipe.optimizer == "adamw" and not recipe.decay_all:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def _loss(recipe: Recipe) -> keras.losses.Loss:
    losses = keras.losses
    kind = losses.CategoricalCrossentropy if recipe.head == "joint" else losses.BinaryCrossentropy
    return kind(label_smoothing=recipe.label_smoothing)


def _metrics(recipe: Recipe) -> list[keras.Metric]:
    if recipe.head == "joint":
        return [_CountedAccuracy(name="accuracy")]
    return [_CountedAUC(name="auroc")]
