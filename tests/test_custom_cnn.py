"""The custom CNN: its sizes in closed form, its normalisation, its regularisation."""

import numpy as np
import pytest
from networks import noise_images

from mura.models.architectures import backbone, build
from mura.models.custom_cnn import WIDTHS


@pytest.fixture(scope="module")
def model():
    return build("cnn", 48)


def test_feature_maps_are_a_sixteenth_of_the_side(model):
    assert model.get_layer("feature_maps").output.shape == (None, 3, 3, WIDTHS[-1])


def test_the_parameter_count_is_the_closed_form(model):
    def convolution(kernel, before, after):
        return kernel**2 * before * after + 4 * after  # kernel and batch normalisation, no bias

    expected = convolution(5, 1, WIDTHS[0])
    for before, width in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False):
        expected += convolution(3, before, width) + convolution(3, width, width)
        expected += convolution(1, before, width) if before != width else 0
    assert model.count_params() == expected + WIDTHS[-1] + 1


def test_exposure_does_not_matter(model):
    images = noise_images(3, 48) // 2
    features = backbone(model)
    np.testing.assert_allclose(
        np.asarray(features(images)), np.asarray(features(images * 2)), rtol=0.02, atol=0.02
    )
    assert np.asarray(features(images)).std() > 0.1


def test_a_black_image_has_an_answer(model):
    assert np.isfinite(np.asarray(model(np.zeros((1, 48, 48, 1), np.uint8)))).all()


def test_the_loss_is_the_recipes_alone(model):
    """No penalty hides in the network: weight decay is the optimizer's, as the recipe says."""
    assert model.losses == []
