"""Grad-CAM, for models that class activation maps cannot explain (TensorFlow only).

Selvaraju et al. 2016, arXiv 1610.02391: the last feature maps, weighted by the mean slope of the
answer. For a linear head on pooled maps these are the class activation maps again (section 3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mura.explain.cam import LocalizationError

if TYPE_CHECKING:
    import keras


def grad_cam(
    model: keras.Model, images: np.ndarray, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed evidence for *abnormal* and the model's answers.

    Args:
        model: uint8[B, S, S, 1] to float32[B, 1], the probability of *abnormal*.
        images: uint8[B, S, S, 1].
        batch_size: Images per step.

    Returns:
        float32[B, h, w], the last feature maps weighted by the slope of the log-odds (which does
        not fade where the model is sure, as that of the probability does), scaled as class
        activation maps are: the slopes are summed over the image. And probabilities float32[B].

    Raises:
        LocalizationError: No layer puts out maps, or the backend is not TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise LocalizationError(
            f"{model.name}: without one linear layer on pooled feature maps it needs Grad-CAM, "
            f"and that TensorFlow; KERAS_BACKEND is {keras.backend.backend()}."
        )
    import tensorflow as tf

    below, above = _divided(model)
    margin = keras.config.epsilon()
    parts = []
    for start in range(0, len(images), batch_size):
        features = below(tf.convert_to_tensor(images[start : start + batch_size]), training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            probability = above(features, training=False)[:, 0]
            inside = tf.clip_by_value(probability, margin, 1 - margin)
            log_odds = tf.math.log(inside) - tf.math.log1p(-inside)
        weights = tf.reduce_sum(tape.gradient(log_odds, features), axis=(1, 2))  # [B, C]
        signed = tf.einsum("bhwc,bc->bhw", features, weights)
        parts.append((signed.numpy(), probability.numpy()))
    signed, probabilities = zip(*parts, strict=True)
    return np.concatenate(signed).astype(np.float32), np.concatenate(probabilities)


def _divided(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the model up to its last feature maps, and from there to the answer."""
    import keras

    layers = getattr(model, "layers", [])
    maps = [
        layer.output
        for layer in layers
        if len(getattr(layer.output, "shape", ())) == 4 and (layer.output.shape[1] or 0) > 1
    ]
    if not maps or maps[-1] is model.input:
        raise LocalizationError(f"{model.name}: no layer puts out feature maps [B, h, w, C].")
    try:
        return keras.Model(model.input, maps[-1]), keras.Model(maps[-1], model.output)
    except ValueError as error:
        raise LocalizationError(
            f"{model.name}: its answer does not depend on its last feature maps alone "
            f"({' '.join(str(error).split())[:120]}); Grad-CAM needs a model that is one chain."
        ) from error
