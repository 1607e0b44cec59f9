"""Depthwise convolutions (ConvNeXt's) by TensorFlow's own kernel.

Keras writes them as grouped convolutions, which TensorFlow has XLA compute on a CPU.
"""

from typing import Any

import keras


def with_depthwise_kernels(network: keras.Model) -> keras.Model:
    """Return a network of the same layers whose depthwise convolutions take TensorFlow's kernel.

    A network without any, and any network on another backend, is returned as it is.
    """
    tensorflow = keras.backend.backend() == "tensorflow"
    if not tensorflow or not any(map(is_depthwise, network.layers)):
        return network

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        layer = DepthwiseConvolution(layer) if is_depthwise(layer) else layer
        return layer(*arguments, **keywords)

    copy = keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)
    copy.compile(jit_compile=False)  # predict() would else choose XLA
    return copy


def is_depthwise(layer: Any) -> bool:
    """Whether the layer convolves each channel by itself, with strides of 1."""
    if type(layer) is not keras.layers.Conv2D or layer.data_format != "channels_last":
        return False
    alone = layer.groups > 1 and tuple(layer.kernel.shape[2:]) == (1, layer.groups)
    return alone and layer.strides == layer.dilation_rate == (1, 1)


class DepthwiseConvolution(keras.layers.Wrapper):
    """A depthwise convolution of [B, H, W, C] maps with the wrapped ``Conv2D``'s variables.

    It computes in float32: TensorFlow's kernel is slower in bfloat16.
    """

    def __init__(self, layer: keras.layers.Conv2D) -> None:
        super().__init__(layer, name=layer.name, dtype=layer.dtype_policy)

    def call(self, maps: Any) -> Any:
        """Convolve [B, H, W, C]."""
        import tensorflow as tf

        height, width, _, channels = self.layer.kernel.shape  # grouped: [h, w, 1, C]
        kernel = tf.cast(self.layer.kernel.value, tf.float32)
        kernel = tf.reshape(kernel, (height, width, channels, 1))
        maps, padding = tf.cast(maps, tf.float32), self.layer.padding.upper()
        maps = tf.nn.depthwise_conv2d(maps, kernel, [1, 1, 1, 1], padding)
        if self.layer.use_bias:
            maps = tf.nn.bias_add(maps, tf.cast(self.layer.bias.value, tf.float32))
        return self.layer.activation(tf.cast(maps, self.compute_dtype))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the wrapped layer's."""
        return self.layer.compute_output_shape(input_shape)
