"""TensorFlow's fused kernels: what they compute is what Keras's own layers and Adam compute."""

import keras
import numpy as np
import pytest

from mura import architectures

if keras.backend.backend() != "tensorflow":
    pytest.skip("the kernels are TensorFlow's: set KERAS_BACKEND", allow_module_level=True)

import tensorflow as tf

from mura.fused import (
    DepthwiseConvolution,
    FusedAdam,
    FusedNormalization,
    PointwiseConvolution,
    TapwiseConvolution,
    WinogradConvolution,
    fused_network,
)


def normalisation(**settings):
    layer = keras.layers.BatchNormalization(dtype="float32", **settings)
    layer.build((None, 5, 7, 3))
    random = np.random.default_rng(0)
    layer.set_weights([random.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    return layer


def trained_once(call, layer, maps):
    """Return output, gradients and the layer's moving statistics of one training call."""
    random = tf.constant(np.random.default_rng(1).normal(size=maps.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        output = call(maps, training=True)
        loss = tf.reduce_sum(random * tf.cast(output, tf.float32))
    gradients = tape.gradient(loss, [maps, *(v.value for v in layer.trainable_variables)])
    return [output, *gradients, layer.moving_mean.value, layer.moving_variance.value]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_normalisation_trains_as_kerass_does(scale, center):
    settings = {"scale": scale, "center": center, "momentum": 0.7, "epsilon": 1e-2}
    plain, wrapped = normalisation(**settings), normalisation(**settings)
    maps = tf.constant(np.random.default_rng(2).normal(3, 4, (2, 5, 7, 3)), tf.float32)
    expected = trained_once(plain, plain, maps)
    found = trained_once(FusedNormalization(wrapped), wrapped, maps)
    assert len(found) == 4 + scale + center
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("training", "frozen"), [(False, False), (True, True)])
def test_normalisation_uses_and_keeps_the_moving_statistics_unless_it_learns(training, frozen):
    layer = normalisation()
    layer.trainable = not frozen
    before = [np.array(weight) for weight in layer.get_weights()]
    maps = tf.constant(np.random.default_rng(2).normal(3, 4, (2, 5, 7, 3)), tf.float32)
    found = FusedNormalization(layer)(maps, training=training)
    np.testing.assert_allclose(found, layer(maps, training=False), rtol=1e-5, atol=1e-5)
    for left, right in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


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
def test_a_convolution_by_taps_trains_as_kerass_does(padding, taps, settings):
    layer = keras.layers.Conv2D(4, taps, padding=padding, dtype="float32", **settings)
    assert_trains_alike(layer, TapwiseConvolution)


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


def test_only_many_channels_on_small_maps_are_convolved_by_taps():
    def wrapped(side, channels, **settings):
        image = keras.Input((side, side, channels))
        network = keras.Model(image, keras.layers.Conv2D(2, 3, **settings)(image))
        return isinstance(fused_network(network).layers[-1], TapwiseConvolution)

    assert wrapped(6, 512)
    assert not wrapped(6, 511)
    assert not wrapped(23, 512)
    assert not wrapped(None, 512)
    assert not wrapped(6, 512, strides=2)
    assert not wrapped(6, 512, dilation_rate=2)


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


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"use_ema": True}])
def test_adam_steps_as_kerass_does(settings):
    random = np.random.default_rng(0)
    start = [random.normal(size=(4, 3)), random.normal(size=3)]
    gradients = [
        [tf.constant(random.normal(size=x.shape), tf.float32) for x in start] for _ in range(5)
    ]
    rate = keras.optimizers.schedules.CosineDecay(0.1, 5)
    ends = []
    for kind in (keras.optimizers.Adam, FusedAdam):
        variables = [keras.Variable(value, dtype="float32") for value in start]
        optimizer = kind(rate, **settings)
        for step in gradients:
            optimizer.apply(step, variables)
        assert int(optimizer.iterations) == 5
        ends.append([v.numpy() for v in (*variables, *optimizer.variables[2:])])
    for left, right in zip(*ends, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert np.abs(ends[0][0] - start[0]).max() > 0.1


def test_a_fused_network_shares_its_variables_and_answers_the_same():
    network = architectures.build("cnn", 32)
    random = np.random.default_rng(0)
    network.set_weights([w + random.uniform(0, 0.3, w.shape) for w in network.get_weights()])
    fused = fused_network(network)
    wrapped = [layer for layer in fused.layers if isinstance(layer, FusedNormalization)]
    plain = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert [layer.layer for layer in wrapped] == plain
    assert plain
    assert [id(v) for v in fused.trainable_variables] == [
        id(v) for v in network.trainable_variables
    ]
    images = random.integers(0, 256, (2, 32, 32, 1), np.uint8)
    np.testing.assert_allclose(fused(images), network(images), rtol=1e-4, atol=1e-5)


def test_what_the_kernel_cannot_compute_stays_kerass():
    image = keras.Input((4,))
    network = keras.Model(image, keras.layers.BatchNormalization()(image))
    assert not any(isinstance(x, FusedNormalization) for x in fused_network(network).layers)
