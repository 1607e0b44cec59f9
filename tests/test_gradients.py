"""Grad-CAM against closed forms: a linear head on pooled maps, and a linear head on all of them."""

import keras
import numpy as np
import pytest

from mura.explain.cam import LocalizationError, activation_map, evidence
from mura.explain.gradients import grad_cam
from mura.models import architectures

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Grad-CAM takes gradients with TensorFlow"
)


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


@pytest.mark.parametrize("head", ["binary", "joint"])
def test_on_a_pooled_linear_head_it_is_the_class_activation_map(head):
    """Selvaraju et al. 2016, section 3.1."""
    model = architectures.abnormal_model(architectures.build("cnn", 32, head=head, seed=2))
    batch = images(3, 32)
    by_gradient, probabilities = grad_cam(model, batch, batch_size=2)
    np.testing.assert_allclose(by_gradient, evidence(model, batch), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(probabilities, model.predict_on_batch(batch)[:, 0], rtol=1e-4)


def test_on_a_linear_head_without_pooling_the_weights_are_summed_over_the_image():
    image = keras.Input((12, 12, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(3, 3, strides=3, name="maps")(x)  # [B, 4, 4, 3]
    x = keras.layers.Dense(1, "sigmoid", name="head")(keras.layers.Flatten()(x))
    model = keras.Model(image, x)
    batch = images(2, 12)
    maps = keras.Model(image, model.get_layer("maps").output).predict_on_batch(batch)
    kernel = np.asarray(model.get_layer("head").kernel).reshape(4, 4, 3)
    expected = maps @ kernel.sum(axis=(0, 1))
    signed, _ = grad_cam(model, batch)
    np.testing.assert_allclose(signed, expected, rtol=1e-3, atol=1e-5)
    # the same model through the door that everybody uses
    positive = np.maximum(expected, 0).max(axis=(1, 2)) > 0
    np.testing.assert_array_equal(activation_map(model, batch).max(axis=(1, 2)), positive)


def test_an_answer_that_bypasses_the_maps_is_refused():
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    mean = keras.layers.GlobalAveragePooling2D()(x)
    maps = keras.layers.Conv2D(2, 3)(x)
    both = keras.layers.Concatenate()([mean, keras.layers.GlobalAveragePooling2D()(maps)])
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid")(both), name="forked")
    with pytest.raises(LocalizationError, match="forked: its answer does not depend"):
        grad_cam(model, images(1, 8))


def test_another_backend_is_told_what_is_needed(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(LocalizationError, match="KERAS_BACKEND is jax"):
        grad_cam(architectures.build("cnn", 32), images(1, 32))
