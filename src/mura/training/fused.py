"""TensorFlow's fused kernels for batch normalisation and Adam, for training on a CPU.

Keras writes both as a dozen small operations, so that every backend can run them; TensorFlow has
one kernel for each. The mathematics is the same. What is saved is the network of Keras's own
layers, whose variables these share.
"""

from typing import Any

import keras
import tensorflow as tf

from mura.models.depthwise import DepthwiseConvolution, is_depthwise

_CHANNELS_AT_ONCE = 16  # in bfloat16 the kernel is slow for channels that are no multiple of it


def fused_network(network: keras.Model) -> keras.Model:
    """Return a network that shares every layer, and trains faster on a CPU.

    Layers that are called by keywords alone stay as they are.
    """

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if arguments and isinstance(layer, keras.layers.BatchNormalization) and _is_plain(layer):
            return FusedNormalization(layer)(arguments[0])
        if arguments and is_depthwise(layer):
            return DepthwiseConvolution(layer)(arguments[0])
        return layer(*arguments, **keywords)

    return keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)


class FusedNormalization(keras.layers.Wrapper):
    """A batch normalisation of [B, H, W, C] maps, computed by one kernel.

    Gamma, beta and the moving statistics are the wrapped layer's. As there, a batch is normalised
    by its own statistics only in training and only while the layer is not frozen.
    """

    def __init__(self, layer: keras.layers.BatchNormalization) -> None:
        super().__init__(layer, name=layer.name, dtype=layer.dtype_policy)

    def call(self, maps: Any, training: bool | None = None) -> Any:
        """Normalise [B, H, W, C]."""
        layer = self.layer
        learning = bool(training) and layer.trainable
        mean, variance = layer.moving_mean.value, layer.moving_variance.value
        # the kernel averages the variance of a sample (n - 1), Keras that of a population (n)
        correction = _bessels_correction(maps) if learning else None
        slow = self.compute_dtype == "bfloat16" and maps.shape[-1] % _CHANNELS_AT_ONCE != 0
        normalised = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(maps, "float32" if slow else self.compute_dtype),
            scale=layer.gamma.value if layer.scale else tf.ones_like(mean),
            offset=layer.beta.value if layer.center else tf.zeros_like(mean),
            mean=mean,
            variance=variance * correction if learning else variance,
            epsilon=layer.epsilon,
            exponential_avg_factor=1 - layer.momentum if learning else 1.0,
            is_training=learning,
        )
        if learning:
            layer.moving_mean.assign(normalised.batch_mean)
            layer.moving_variance.assign(normalised.batch_variance / correction)
        return tf.cast(normalised.y, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the input's shape."""
        return input_shape


class FusedAdam(keras.optimizers.Adam):
    """Adam with decoupled weight decay (``keras.optimizers.AdamW``), one kernel per variable."""

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        if self.weight_decay is None:
            return
        kept = 1 - self.weight_decay * tf.cast(self.learning_rate, tf.float32)
        for variable in variables:
            if self._use_weight_decay(variable):
                variable.assign(variable.value * kept)

    def _backend_update_step(self, grads: list, trainable_variables: list, rate: Any) -> None:
        step = tf.cast(self.iterations.value + 1, tf.float32)
        shared = {"lr": tf.cast(rate, tf.float32), "epsilon": tf.constant(self.epsilon)}
        shared |= {"beta1": tf.constant(self.beta_1), "beta2": tf.constant(self.beta_2)}
        shared["beta1_power"] = tf.pow(self.beta_1, step)
        shared["beta2_power"] = tf.pow(self.beta_2, step)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            index = self._get_variable_index(variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                grad=tf.cast(gradient, variable.dtype),
                **shared,
            )


def _bessels_correction(maps: Any) -> Any:
    """Return n / (n - 1) of [B, H, W, C] maps of n places; 1 of one place, as the kernel has it."""
    values, one_place = tf.cast(tf.size(maps), tf.float32), tf.constant(maps.shape[-1], tf.float32)
    return values / tf.maximum(values - one_place, one_place)


def _is_plain(layer: keras.layers.BatchNormalization) -> bool:
    """Whether the kernel computes what the layer does."""
    four = layer.input_spec is not None and layer.input_spec.ndim == 4
    renormalised = getattr(layer, "renorm", False)  # an option that Keras has only of late
    return four and layer.axis in (-1, 3) and not renormalised and not layer.synchronized
