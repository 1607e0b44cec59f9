"""Convolutions that take less time: what they compute is what Keras's own layers compute."""

import keras
import numpy as np
import pytest

from mura import architectures

if keras.backend.backend() != "tensorflow":
    pytest.skip("the kernels are TensorFlow's: set KERAS_BACKEND", allow_module_level=True)

import tensorflow as tf

from mura.convolutions import (
    DepthwiseConvolution,
    PointwiseConvolution,
    TapwiseConvolution,
    UnfoldedConvolution,
    WinogradConvolution,
)
from mura.fused import fused_network


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


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_pointwise_convolution_trains_as_kerass_does(use_bias, activation):
    layer = keras.layers.Conv2D(4, 1, use_bias=use_bias, activation=activation, dtype="float32")
    assert_trains_alike(layer, PointwiseConvolution)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("taps", [(3, 3), (1, 4), (5, 2)])
@pytest.mark.parametrize("settings", [{}, {"use_bias": False, "activation": "relu"}])
@pytest.mark.parametrize("wrapper", [UnfoldedConvolution, TapwiseConvolution])
def test_a_convolution_by_products_trains_as_kerass_does(padding, taps, settings, wrapper):
    layer = keras.layers.Conv2D(4, taps, padding=padding, dtype="float32", **settings)
    assert_trains_alike(layer, wrapper)


@pytest.mark.parametrize("settings", [{}, {"use_bias": False, "activation": "relu"}])
def test_winograds_convolution_trains_as_kerass_does(settings):
    layer = keras.layers.Conv2D(4, 3, padding="same", dtype="float32", **settings)
    assert_trains_alike(layer, WinogradConvolution)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("settings", [{}, {"use_bias": False, "activation": "relu"}])
def test_a_convolution_of_each_channel_trains_as_kerass_does(padding, settings):
    settings = {**settings, "padding": padding, "groups": 3, "dtype": "float32"}
    assert_trains_alike(keras.layers.Conv2D(3, (3, 2), **settings), DepthwiseConvolution)


def test_only_a_group_per_channel_is_computed_by_itself():
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


def test_convnext_is_trained_without_grouped_convolutions():
    fused = fused_network(architectures.build("convnext_tiny", 32))
    assert sum(isinstance(layer, DepthwiseConvolution) for layer in fused.layers) == 18
    assert all(getattr(layer, "groups", 1) == 1 for layer in fused.layers)


def test_only_what_is_pointwise_is_computed_as_a_product():
    image = keras.Input((8, 8, 4))
    layers = [
        keras.layers.Conv2D(6, 1, padding="same", activation="relu", name="point"),
        keras.layers.Conv2D(6, 3, padding="same", name="wide"),
        keras.layers.Conv2D(6, 1, groups=2, name="grouped"),
        keras.layers.SeparableConv2D(6, 1, name="separable"),
        keras.layers.Conv2D(6, 1, strides=2, name="strided"),
    ]
    maps = image
    for layer in layers:
        maps = layer(maps)
    network = keras.Model(image, maps)
    fused = fused_network(network)
    wrapped = [layer.name for layer in fused.layers if isinstance(layer, PointwiseConvolution)]
    assert wrapped == ["point"]
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    np.testing.assert_allclose(fused(images), network(images), rtol=1e-4, atol=1e-5)


def test_only_many_channels_on_small_maps_are_convolved_by_products():
    def wrapper(side, channels, precision="mixed_bfloat16", **settings):
        image = keras.Input((side, side, channels))
        layer = keras.layers.Conv2D(2, 3, dtype=precision, **settings)
        return type(fused_network(keras.Model(image, layer(image))).layers[-1])

    plain = keras.layers.Conv2D
    assert wrapper(6, 512) == wrapper(5, 512) == TapwiseConvolution
    assert wrapper(6, 512, "float32") == TapwiseConvolution
    assert wrapper(5, 512, "float32") == UnfoldedConvolution
    assert wrapper(5, 511, "float32") == wrapper(6, 511) == plain
    assert wrapper(23, 512) == wrapper(None, 512) == plain
    assert wrapper(6, 512, strides=2) == wrapper(6, 512, dilation_rate=2) == plain


def test_only_large_convolutions_are_worth_winograds_transforms():
    def wrapped(side, channels, filters, kernel=3, **settings):
        image = keras.Input((side, side, channels))
        settings = {"padding": "same", "dtype": "float32"} | settings
        network = keras.Model(image, keras.layers.Conv2D(filters, kernel, **settings)(image))
        return isinstance(fused_network(network).layers[-1], WinogradConvolution)

    assert wrapped(24, 128, 256)
    assert wrapped(6, 512, 512)
    assert not wrapped(24, 127, 256)
    assert not wrapped(24, 256, 127)
    assert not wrapped(12, 128, 128)  # little work
    assert not wrapped(5, 1024, 1024)  # 64 results for each 25 that are kept
    assert not wrapped(None, 128, 256)
    assert not wrapped(24, 128, 256, 5)
    assert not wrapped(24, 128, 256, padding="valid")
    assert not wrapped(24, 128, 256, strides=2)
    assert not wrapped(24, 128, 256, dtype="mixed_bfloat16")


def test_all_but_vggs_first_convolutions_are_winograds():
    fused = fused_network(architectures.build("vgg16", 96))
    assert sum(isinstance(layer, WinogradConvolution) for layer in fused.layers) == 10
