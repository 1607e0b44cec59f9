"""Winograd's algorithm computes TensorFlow's own convolutions and their gradients."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the kernels are TensorFlow's: set KERAS_BACKEND", allow_module_level=True)

import tensorflow as tf

from mura import winograd


def plain(maps, kernel):
    return tf.nn.conv2d(maps, kernel, 1, "SAME")


def in_use(call, maps, kernel, weighting):
    """Return output and gradients, from a graph that does not know the batch's size."""

    @tf.function(input_signature=[tf.TensorSpec((None, *maps.shape[1:])), tf.TensorSpec(None)])
    def compute(maps, weighting):
        with tf.GradientTape() as tape:
            tape.watch([maps, kernel])
            output = call(maps, kernel)
            loss = tf.reduce_sum(weighting * output)
        return [output, *tape.gradient(loss, [maps, kernel])]

    return compute(maps, weighting)


@pytest.mark.parametrize("height", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("width", [2, 6, 8, 13])
def test_results_and_gradients_are_those_of_the_direct_sum(height, width):
    random = np.random.default_rng(0)
    maps = tf.constant(random.normal(size=(3, height, width, 5)), tf.float32)
    kernel = tf.constant(random.normal(size=(3, 3, 5, 7)), tf.float32)
    weighting = tf.constant(random.normal(size=(3, height, width, 7)), tf.float32)
    expected = in_use(plain, maps, kernel, weighting)
    found = in_use(winograd.convolve, maps, kernel, weighting)
    for left, right in zip(found, expected, strict=True):
        assert left.shape == right.shape
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_rounding_stays_small_with_many_channels():
    random = np.random.default_rng(0)
    maps = random.normal(size=(2, 8, 8, 512)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 512, 16)).astype(np.float32)
    exact = plain(tf.constant(maps, tf.float64), tf.constant(kernel, tf.float64))
    found = winograd.convolve(tf.constant(maps), tf.constant(kernel))
    error = np.abs(np.array(found) - np.array(exact))
    assert error.max() < 1e-4 * np.max(np.abs(exact))


@pytest.mark.parametrize(("side", "share"), [(4, 1), (3, 16 / 9), (6, 64 / 36), (5, 64 / 25)])
def test_tiles_reach_past_the_maps_edge(side, share):
    assert winograd.padded_share(side, side) == pytest.approx(share)
    assert winograd.padded_share(4, side) == pytest.approx(share**0.5)
