"""Depthwise convolutions: TensorFlow's kernel computes what Keras's own layers compute."""

import keras
import numpy as np
import pytest

from mura import models

if keras.backend.backend() != "tensorflow":
    pytest.skip("the kernels are TensorFlow's: set KERAS_BACKEND", allow_module_level=True)

import tensorflow as tf

from mura.models.depthwise import DepthwiseConvolution, with_depthwise_kernels
from mura.training.fused import fused_network


def assert_trains_alike(layer, wrapper):
    random = np.random.default_rng(0)
    layer.build((None, 5, 7, 3))
    layer.set_weights([random.normal(size=weight.shape) for weight in layer.get_weights()])
    maps = tf.constant(random.normal(size=(2, 5, 7, 3)), tf.float32)
    weighting = tf.constant(random.normal(size=layer.compute_output_shape(maps.shape)), tf.float32)
    ways = []
    for call in (layer, wrapper(layer)):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            output = call(maps)
            loss = tf.reduce_sum(weighting * output)
        values = [variable.value for variable in layer.trainable_variables]
        ways.append([output, *tape.gradient(loss, [maps, *values])])
    assert len(ways[0]) == 3 + layer.use_bias
    for left, right in zip(*ways, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("settings", [{}, {"use_bias": False, "activation": "relu"}])
def test_a_depthwise_convolution_trains_as_kerass_does(padding, settings):
    settings = {**settings, "padding": padding, "groups": 3, "dtype": "float32"}
    assert_trains_alike(keras.layers.Conv2D(3, (3, 2), **settings), DepthwiseConvolution)


def test_only_a_group_per_channel_is_depthwise():
    def wrapped(channels, filters, **settings):
        image = keras.Input((8, 8, channels))
        network = keras.Model(image, keras.layers.Conv2D(filters, 3, **settings)(image))
        return isinstance(fused_network(network).layers[-1], DepthwiseConvolution)

    assert wrapped(4, 4, groups=4)
    assert not wrapped(1, 1)
    assert not wrapped(4, 8, groups=4)
    assert not wrapped(8, 4, groups=4)
    assert not wrapped(4, 4, groups=2)
    assert not wrapped(4, 4, groups=4, strides=2)


def test_prediction_takes_the_kernel_where_there_are_depthwise_convolutions():
    network = models.build("cnn", 32)
    assert with_depthwise_kernels(network) is network
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    convnext = models.build("convnext_tiny", 32)
    fused = fused_network(convnext)
    assert sum(isinstance(layer, DepthwiseConvolution) for layer in fused.layers) == 18
    quicker = with_depthwise_kernels(convnext)
    assert not any(getattr(layer, "groups", 1) > 1 for layer in quicker.layers)
    expected = convnext(images, training=False)
    np.testing.assert_allclose(quicker.predict(images, verbose=0), expected, atol=1e-5)
