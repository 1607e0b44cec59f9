"""Where cells look: by hand for single layers, by the gradient for whole networks."""

import keras
import numpy as np
import pytest
from keras import layers

from mura.explain.receptive_field import grid
from mura.models import architectures

NETWORKS = {"cnn": 128, "vgg16": 128, "resnet50": 256, "densenet121": 256, "inception_v3": 400}
NETWORKS |= {"xception": 400, "efficientnet_v2_b0": 320, "convnext_tiny": 128}


def placed(*stack, size=16):
    """Return the grid behind layers in a row, the last of which is named."""
    image = x = keras.Input((size, size, 1))
    for layer in stack:
        x = layer(x)
    return grid(keras.Model(image, layers.Identity(name="maps")(x)), "maps")


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([layers.ReLU()], (1, 0)),
        # a cell's pixels are 0-2, 2-4, ...: their middles are 1, 3, ...
        ([layers.Conv2D(1, 3, 2)], (2, 1)),
        # 16 pixels need one more than there are, and it is added behind
        ([layers.Conv2D(1, 3, 2, padding="same")], (2, 1)),
        ([layers.ZeroPadding2D(1), layers.Conv2D(1, 3, 2)], (2, 0)),
        ([layers.Conv2D(1, 1, 2)], (2, 0)),  # the first pixel of each two
        ([layers.AveragePooling2D(4)], (4, 1.5)),
        ([layers.Conv2D(1, 3, dilation_rate=2)], (1, 2)),
        ([layers.Cropping2D(3), layers.MaxPooling2D(2)], (2, 3.5)),
        ([layers.DepthwiseConv2D(3, 2), layers.Conv2D(1, 3, 2)], (4, 3)),
        ([keras.Sequential([layers.Conv2D(1, 4, 4), layers.ReLU()])], (4, 1.5)),
        ([layers.UpSampling2D(2)], None),
        ([layers.Conv2D(1, 4, 4), layers.Conv2DTranspose(1, 2, 2)], None),
        ([layers.Reshape((8, 8, 4))], None),
    ],
)
def test_cells_are_placed_in_the_middle_of_what_they_see(stack, expected):
    assert placed(*stack) == expected


def test_joined_paths_count_alike():
    image = keras.Input((16, 16, 1))
    bypass, main = layers.Conv2D(1, 1, 2)(image), layers.Conv2D(1, 2, 2)(image)
    joined = layers.Add(name="maps")([bypass, main])
    assert grid(keras.Model(image, joined), "maps") == (2, 0.25)


def test_a_layer_of_another_network_cannot_be_followed():
    shared, image = layers.Conv2D(1, 3, 2), keras.Input((16, 16, 1))
    shared(keras.Input((16, 16, 1)))
    network = keras.Model(image, layers.Identity(name="maps")(shared(image)))
    assert grid(network, "maps") is None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), NETWORKS.items())
def test_a_networks_cells_depend_on_what_lies_around_their_centres(name, size):
    """The centre of mass of the slope of one cell, far from the border."""
    tensorflow = pytest.importorskip("tensorflow", reason="needs TensorFlow's gradients")
    network = architectures.build(name, size)
    pixels = network.get_layer("rescale" if name == "cnn" else "rgb").output  # behind the cast
    maps = network.get_layer("feature_maps").output
    random = np.random.default_rng(0).uniform(0, 255, (4, *pixels.shape[1:]))
    images = tensorflow.constant(random / 255 if name == "cnn" else random, "float32")
    with tensorflow.GradientTape() as tape:
        tape.watch(images)
        middle = maps.shape[1] // 2
        cell = keras.Model(pixels, maps)(images)[:, middle, middle]
        answer = tensorflow.reduce_sum(cell**2)
    slope = (tape.gradient(answer, images).numpy() ** 2).sum(axis=(0, 3))
    step, start = grid(network, "feature_maps")
    for axis in (0, 1):
        along = slope.sum(axis=axis)
        centre = (along * np.arange(size)).sum() / along.sum()
        # as it is random, it is no more exact than this; half a cell is 8 pixels or 16
        assert abs(centre - (start + middle * step)) < 0.2 * step
