"""Convolutions computed in less time than TensorFlow's own take on a CPU: the same sums.

A 1 x 1 convolution is a product of matrices here, by kernels that take less time where maps are
small or channels many, as late in ResNet-50 and throughout EfficientNetV2-B0. So are the larger
kernels on the last maps of ResNet-50 and VGG, or at least their gradient. In float32 the large
convolutions of VGG are computed by Winograd's algorithm (``mura.winograd``). Convolutions of each
channel by itself (ConvNeXt) have a kernel of their own in TensorFlow; Keras writes them as grouped
ones, which XLA computes on a CPU, a training step of ConvNeXt-Tiny in five times the time.

Each is a wrapper that computes with the variables of one of Keras's layers.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from mura import winograd

_MANY_CHANNELS = 512  # as late in VGG and ResNet; ``_gains_by_taps`` says what was measured
_FEW_PLACES = 25  # of maps; ``_gains_unfolded`` says what was measured
# Of a convolution worth Winograd's transforms: channels on either side, products for an image, and
# results computed for each that is kept. ``_gains_by_winograd`` says what was measured.
_ENOUGH_CHANNELS, _MUCH_WORK, _MUCH_PADDING = 128, 8_000_000, 2


def quicker(layer: Any, maps: Any) -> type[_Convolution] | None:
    """Return how a layer of a network is computed in less time in training, if there is a way.

    Args:
        layer: Any layer.
        maps: What it is called with in the network.
    """
    if is_depthwise(layer):
        return DepthwiseConvolution
    if not _is_convolution(layer):
        return None
    if layer.kernel_size == (1, 1):
        return PointwiseConvolution
    if _gains_by_winograd(layer, maps):
        return WinogradConvolution
    if _gains_by_taps(maps):
        return UnfoldedConvolution if _gains_unfolded(layer, maps) else TapwiseConvolution
    return None


def is_depthwise(layer: Any) -> bool:
    """Whether the layer computes each channel by itself, around every place in turn."""
    if not _visits_every_place(layer) or layer.groups == 1:
        return False
    return tuple(layer.kernel.shape[2:]) == (1, layer.groups)


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


class _ConvolutionByTaps(_Convolution):
    """A convolution of [B, H, W, C] maps of a set size, with strides of 1."""

    def _around(self) -> list[tuple[int, int]]:
        """Return the zeros above and below, left and right of the maps."""
        if self.layer.padding == "valid":
            return [(0, 0), (0, 0)]
        return [((size - 1) // 2, size // 2) for size in self.layer.kernel_size]

    def _corners(self) -> list[tuple[int, int]]:
        """Return where each tap lies: rows and columns from the kernel's corner."""
        rows, columns = self.layer.kernel_size
        return [(top, left) for top in range(rows) for left in range(columns)]

    def _seen(self, maps: Any) -> list[Any]:
        """Return what each tap sees, [B, h, w, C] at the places of the results."""
        maps = tf.pad(maps, [(0, 0), *self._around(), (0, 0)])
        rows, columns = self.layer.kernel_size
        height, width = maps.shape[1] - rows + 1, maps.shape[2] - columns + 1
        return [maps[:, top : top + height, left : left + width] for top, left in self._corners()]


class UnfoldedConvolution(_ConvolutionByTaps):
    """A convolution as one product of matrices: what each place's taps see, times the kernel.

    So are both gradients.
    """

    def _convolve(self, maps: Any, kernel: Any) -> Any:
        @tf.custom_gradient
        def convolve(maps: Any, kernel: Any) -> Any:
            seen = tf.concat(self._seen(maps), axis=-1)
            (height, width, across), (channels, filters) = seen.shape[1:], kernel.shape[2:]
            rows, flat = tf.reshape(seen, (-1, across)), tf.reshape(kernel, (across, filters))

            def gradients(upstream: Any) -> tuple[Any, Any]:
                upstream = tf.reshape(upstream, (-1, filters))
                of_rows = tf.matmul(upstream, flat, transpose_b=True)
                of_kernel = tf.matmul(rows, upstream, transpose_a=True)
                of_seen = tf.reshape(of_rows, (-1, height, width, len(self._corners()), channels))
                return self._laid_back(of_seen), tf.reshape(of_kernel, kernel.shape)

            return tf.reshape(tf.matmul(rows, flat), (-1, height, width, filters)), gradients

        return self._add_bias(convolve(maps, kernel))

    def _laid_back(self, seen: Any) -> Any:
        """Sum [B, h, w, taps, C] at the places of the maps, [B, H, W, C], that were seen."""
        rows, columns = self.layer.kernel_size
        (above, below), (before, after) = self._around()
        summed = tf.add_n(
            [
                tf.pad(
                    seen[:, :, :, tap],
                    [(0, 0), (top, rows - 1 - top), (left, columns - 1 - left), (0, 0)],
                )
                for tap, (top, left) in enumerate(self._corners())
            ]
        )
        _, height, width, _ = summed.shape
        return summed[:, above : height - below, before : width - after]


class TapwiseConvolution(_ConvolutionByTaps):
    """A convolution whose kernel's gradient is a product of matrices for each tap.

    Of what the tap saw, and the gradient of what came of it.
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
                channels, filters = kernel.shape[2:]
                upstream = tf.reshape(upstream, (-1, filters))
                products = [
                    tf.matmul(tf.reshape(each, (-1, channels)), upstream, transpose_a=True)
                    for each in self._seen(maps)
                ]
                return of_maps, tf.reshape(tf.stack(products), kernel.shape)

            return tf.nn.conv2d(maps, kernel, **settings), gradients

        return self._add_bias(convolve(maps, kernel))


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


def _is_convolution(layer: Any) -> bool:
    """Whether the layer mixes all channels around every place in turn."""
    return _visits_every_place(layer) and layer.groups == 1


def _visits_every_place(layer: Any) -> bool:
    if type(layer) is not keras.layers.Conv2D or layer.data_format != "channels_last":
        return False
    return layer.strides == layer.dilation_rate == (1, 1)


def _gains_by_winograd(layer: Any, maps: Any) -> bool:
    """Whether a 3 x 3 convolution is so large that fewer products are worth the transforms.

    VGG-16 trained 1.3 to 1.46 times as fast at 96 px (batches of 16) and 1.3 to 1.5 times at 224
    px, ResNet-50 at 224 px 1.06 times in batches of 16 and 1.00 in batches of 8, on two cores of an
    Intel Xeon; medians of interleaved repetitions. Less work (all of ResNet-50 at 96 px, the custom
    CNN) lost up to 0.07. Memory is the price: VGG-16 at 224 px took 5.3 instead of 3.3 GB with
    batches of 32.
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


def _gains_unfolded(layer: Any, maps: Any) -> bool:
    """Whether the places are so few, in float32, that one product for all taps is faster still.

    ResNet-50 trained 1.1 times as fast at 64 px and 1.03 to 1.06 times at 96 px (medians of 6
    interleaved repetitions, batches of 16, an Intel Xeon). With 6 x 6 places and 512 channels the
    product took longer than TensorFlow's kernels.
    """
    return layer.compute_dtype == "float32" and maps.shape[1] * maps.shape[2] <= _FEW_PLACES
