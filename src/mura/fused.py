"""TensorFlow's fused kernels for batch normalisation and Adam, for training on a CPU.

Keras writes both as a dozen small operations per variable or layer, so that every backend can run
them. TensorFlow has one kernel for each. The mathematics is the same; a step of DenseNet-121 or
ResNet-50 is traced in about a third of the time and computed in two thirds of it
(``benchmarks/training.py``, ``first_step.py``). ``mura.compute`` says which networks gain.

Convolutions of 1 x 1 are products of matrices here: the same sums by kernels that take less time
where maps are small or channels many, as late in ResNet-50 and throughout EfficientNetV2-B0. The
large convolutions of VGG are computed by Winograd's algorithm in float32 (``mura.winograd``); in
bfloat16, late in VGG, the gradient of a kernel is one product for each tap. Convolutions of each
channel by itself (ConvNeXt) have a kernel of their own in TensorFlow; Keras writes them as grouped
ones, which XLA computes on a CPU, a training step of ConvNeXt-Tiny in five times the time.

What is saved is the network itself, made of Keras's own layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from mura import winograd

_MANY_CHANNELS = 512  # as late in VGG and ResNet; ``_gains_by_taps`` says what was measured
# Of a convolution worth Winograd's transforms: channels on either side, products for an image, and
# results computed for each that is kept. ``_gains_by_winograd`` says what was measured.
_ENOUGH_CHANNELS, _MUCH_WORK, _MUCH_PADDING = 128, 8_000_000, 2


def fused_network(network: keras.Model) -> keras.Model:
    """Return a network that shares every layer, and trains faster.

    Batch normalisation and convolutions of each channel by itself are computed by their kernels; a
    1 x 1 convolution, and the kernel's gradient of a larger one with many channels on small maps,
    as products; a large 3 x 3 convolution by Winograd's algorithm.
    """

    def wrapper(layer: Any, inputs: tuple) -> type[keras.layers.Wrapper] | None:
        if isinstance(layer, keras.layers.BatchNormalization) and _is_plain(layer):
            return FusedNormalization
        if _is_convolution(layer) and layer.kernel_size == (1, 1):
            return PointwiseConvolution
        if _is_convolution(layer) and _gains_by_winograd(layer, inputs[0]):
            return WinogradConvolution
        if _is_convolution(layer) and _gains_by_taps(inputs[0]):
            return TapwiseConvolution
        return DepthwiseConvolution if _is_depthwise(layer) else None

    return _wrapped(network, wrapper)


def ungrouped_network(network: keras.Model) -> keras.Model:
    """Return a network that shares every layer and answers sooner.

    Convolutions of each channel by itself are computed by TensorFlow's kernel for them; a network
    that has none is returned as it is.
    """
    if not any(_is_depthwise(layer) for layer in network.layers):
        return network

    def wrapper(layer: Any, _: tuple) -> type[keras.layers.Wrapper] | None:
        return DepthwiseConvolution if _is_depthwise(layer) else None

    return _wrapped(network, wrapper)


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
        normalised = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(maps, self.compute_dtype),
            scale=layer.gamma.value if layer.scale else tf.ones_like(mean),
            offset=layer.beta.value if layer.center else tf.zeros_like(mean),
            mean=[] if learning else mean,
            variance=[] if learning else variance,
            epsilon=layer.epsilon,
            is_training=learning,
        )
        if learning:
            # the kernel returns the variance of a sample (n - 1), Keras keeps a population's (n)
            count = tf.cast(tf.size(maps) // maps.shape[-1], tf.float32)
            seen = normalised.batch_variance * ((count - 1) / count)
            kept, new = layer.momentum, 1 - layer.momentum
            layer.moving_mean.assign(mean * kept + normalised.batch_mean * new)
            layer.moving_variance.assign(variance * kept + seen * new)
        return normalised.y

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the input's shape, which stays."""
        return input_shape


class _Convolution(keras.layers.Wrapper):
    """A convolution with the wrapped layer's kernel, bias and activation."""

    def __init__(self, layer: keras.layers.Conv2D) -> None:
        super().__init__(layer, name=layer.name, dtype=layer.dtype_policy)

    def call(self, maps: Any) -> Any:
        """Convolve [B, H, W, C]."""
        kernel = tf.cast(self.layer.kernel.value, self.compute_dtype)
        return self.layer.activation(self._convolve(tf.cast(maps, self.compute_dtype), kernel))

    def _convolve(self, maps: Any, kernel: Any) -> Any:
        raise NotImplementedError

    def _add_bias(self, values: Any) -> Any:
        if not self.layer.use_bias:
            return values
        return tf.nn.bias_add(values, tf.cast(self.layer.bias.value, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the wrapped layer's."""
        return self.layer.compute_output_shape(input_shape)


class PointwiseConvolution(_Convolution):
    """A 1 x 1 convolution of [B, H, W, C] maps of a set size, computed as a product of matrices."""

    def _convolve(self, maps: Any, kernel: Any) -> Any:
        _, height, width, channels = maps.shape
        rows = tf.reshape(maps, (-1, channels))
        mixed = self._add_bias(tf.matmul(rows, tf.reshape(kernel, (channels, -1))))
        return tf.reshape(mixed, (-1, height, width, self.layer.filters))


class WinogradConvolution(_Convolution):
    """A 3 x 3 convolution of float32[B, H, W, C] maps of a set size that keeps their size."""

    def _convolve(self, maps: Any, kernel: Any) -> Any:
        return self._add_bias(winograd.convolve(maps, kernel))


class TapwiseConvolution(_Convolution):
    """A convolution of [B, H, W, C] maps of a set size, with strides of 1.

    The gradient of its kernel is a product of matrices for each tap: what the tap saw, times the
    gradient of what came of it.
    """

    def _convolve(self, maps: Any, kernel: Any) -> Any:
        settings = {"strides": [1, 1, 1, 1], "padding": self.layer.padding.upper()}

        @tf.custom_gradient
        def convolve(maps: Any, kernel: Any) -> Any:
            def gradients(upstream: Any) -> tuple[Any, Any]:
                sizes = tf.shape(maps)
                of_maps = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=sizes, filter=kernel, out_backprop=upstream, **settings
                )
                return of_maps, self._kernel_gradient(maps, upstream)

            return tf.nn.conv2d(maps, kernel, **settings), gradients

        return self._add_bias(convolve(maps, kernel))

    def _kernel_gradient(self, maps: Any, upstream: Any) -> Any:
        taps, channels = self.layer.kernel_size, maps.shape[-1]
        _, height, width, filters = upstream.shape
        if self.layer.padding == "same":
            around = [((size - 1) // 2, size // 2) for size in taps]
            maps = tf.pad(maps, [(0, 0), *around, (0, 0)])
        upstream = tf.reshape(upstream, (-1, filters))
        seen = [
            maps[:, top : top + height, left : left + width]
            for top in range(taps[0])
            for left in range(taps[1])
        ]
        products = [
            tf.matmul(tf.reshape(each, (-1, channels)), upstream, transpose_a=True) for each in seen
        ]
        return tf.reshape(tf.stack(products), (*taps, channels, filters))


class DepthwiseConvolution(_Convolution):
    """A convolution of each channel of [B, H, W, C] maps by itself, with strides of 1.

    In float32, in which TensorFlow's kernel takes a third of the time that it takes in bfloat16.
    """

    def _convolve(self, maps: Any, kernel: Any) -> Any:
        height, width, _, channels = kernel.shape  # grouped: [h, w, 1, C]
        kernel = tf.reshape(tf.cast(kernel, tf.float32), (height, width, channels, 1))
        maps, padding = tf.cast(maps, tf.float32), self.layer.padding.upper()
        convolved = tf.nn.depthwise_conv2d(maps, kernel, [1, 1, 1, 1], padding)
        return self._add_bias(tf.cast(convolved, self.compute_dtype))


class FusedAdam(keras.optimizers.Adam):
    """Adam with decoupled weight decay (``keras.optimizers.AdamW``), a kernel per variable."""

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        if self.weight_decay is None:
            return
        kept = 1 - self.weight_decay * tf.cast(self.learning_rate, tf.float32)
        for variable in variables:
            if self._use_weight_decay(variable):
                variable.assign(variable.value * kept)

    def _backend_update_step(self, grads: list, trainable_variables: list, rate: Any) -> None:
        # beta ** step is the same for all variables, where Keras computes it for each
        step = tf.cast(self.iterations.value + 1, tf.float32)
        powers = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
        }
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            index = self._get_variable_index(variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                lr=tf.cast(rate, tf.float32),
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=tf.cast(gradient, variable.dtype),
                **powers,
            )


def _wrapped(network: keras.Model, wrapper: Callable[[Any, tuple], type | None]) -> keras.Model:
    """Return a network of the same layers, in the wrappers that are named for them."""

    def call(operation: Any, *arguments: Any, **keywords: Any) -> Any:
        kind = wrapper(operation, arguments)
        return kind(operation)(arguments[0]) if kind else operation(*arguments, **keywords)

    return keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)


def _is_plain(layer: keras.layers.BatchNormalization) -> bool:
    """Whether the kernel computes what the layer does."""
    four = layer.input_spec is not None and layer.input_spec.ndim == 4
    return four and layer.axis in (-1, 3) and not layer.renorm and not layer.synchronized


def _is_convolution(layer: Any) -> bool:
    """Whether the layer mixes all channels around every place in turn."""
    return _visits_every_place(layer) and layer.groups == 1


def _is_depthwise(layer: Any) -> bool:
    """Whether the layer computes each channel by itself, around every place in turn."""
    if not _visits_every_place(layer) or layer.groups == 1:
        return False
    return tuple(layer.kernel.shape[2:]) == (1, layer.groups)


def _visits_every_place(layer: Any) -> bool:
    if type(layer) is not keras.layers.Conv2D or layer.data_format != "channels_last":
        return False
    return layer.strides == layer.dilation_rate == (1, 1)


def _gains_by_winograd(layer: Any, maps: Any) -> bool:
    """Whether a 3 x 3 convolution is so large that fewer products are worth the transforms.

    VGG-16 trained 1.46 times as fast at 96 px (batches of 16) and 1.37 to 1.5 times at 224 px,
    ResNet-50 1.06 times at 224 px, on two cores of an Intel Xeon; medians of interleaved
    repetitions. Fewer channels, or less work (all of ResNet-50 at 96 px, the custom CNN), lost up
    to 0.07. Memory is the price: VGG-16 at 224 px took 5.3 instead of 3.3 GB with batches of 32.
    """
    if layer.compute_dtype != "float32" or layer.kernel_size != (3, 3) or layer.padding != "same":
        return False
    _, height, width, channels = maps.shape
    if None in (height, width) or min(channels, layer.filters) < _ENOUGH_CHANNELS:
        return False
    much = height * width * channels * layer.filters >= _MUCH_WORK
    return much and winograd.padded_share(height, width) < _MUCH_PADDING


def _gains_by_taps(maps: Any) -> bool:
    """Whether maps have so many channels, on so few places, that a product for each tap is faster.

    In bfloat16, with batches of 16 of 96 px, VGG-16 trained 1.04 times as fast (medians of 16
    interleaved repetitions) and ResNet-50 as fast as before. ResNet-50 and DenseNet-121 gained
    nothing when convolutions of 128 and 256 channels were included.
    """
    _, height, width, channels = maps.shape
    return None not in (height, width) and channels >= max(_MANY_CHANNELS, height * width)
