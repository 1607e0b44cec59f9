"""Augmentation: its geometry against SciPy, its bounds, its chance, its absence in inference."""

import keras
import numpy as np
import pytest
import scipy.ndimage
from networks import noise_images

from mura.training.augmentation import RadiographAugmentation

STILL = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}


def augment(images: np.ndarray, seed: int = 0, **settings) -> np.ndarray:
    layer = RadiographAugmentation(seed=seed, **settings)
    return keras.ops.convert_to_numpy(layer(images, training=True))


def maps(count: int, size: int, seed: int = 0, **settings) -> np.ndarray:
    """The affine maps of the next draws, float[count, 2, 3]: output (x, y, 1) to input (x, y)."""
    layer = RadiographAugmentation(seed=seed, **settings)
    rows = keras.ops.convert_to_numpy(layer._movements(count, size))
    return rows[:, :6].reshape(count, 2, 3)


@pytest.mark.parametrize("for_xla", [False, True])
def test_images_move_as_scipy_moves_them(for_xla):
    images = scipy.ndimage.gaussian_filter(noise_images(6, 40), (0, 1, 1, 0))
    moved = augment(images, seed=4, contrast=0.0, for_xla=for_xla)
    for image, got, (row_x, row_y) in zip(images, moved, maps(6, 40, seed=4), strict=True):
        matrix = [[row_y[1], row_y[0]], [row_x[1], row_x[0]]]  # SciPy counts (row, column)
        expected = scipy.ndimage.affine_transform(
            image[..., 0].astype(float),
            matrix,
            offset=(row_y[2], row_x[2]),
            order=1,
            mode="grid-constant",  # black beyond the border, and fading into it
        )
        difference = np.abs(got[..., 0] - np.round(expected))
        assert difference.max() <= 1  # the two may round to either side
        assert (difference > 0).mean() < 0.01
        assert np.abs(got[..., 0] - image[..., 0]).mean() > 1  # it did move


def test_movements_are_rotations_and_zooms_about_the_centre_within_their_bounds():
    size, rotation, shift, zoom = 64, 25.0, 0.06, 0.15
    draws = maps(2000, size, rotation=rotation, shift=shift, zoom=zoom)
    linear, centre = draws[:, :, :2], np.full(2, (size - 1) / 2)
    determinant = np.linalg.det(linear)
    scale = np.sqrt(np.abs(determinant))
    # a rotation and a mirror image keep angles: M M^T is a multiple of the identity
    np.testing.assert_allclose(
        linear @ linear.transpose(0, 2, 1), scale[:, None, None] ** 2 * np.eye(2), atol=1e-5
    )
    assert 1 / (1 + zoom) - 1e-6 <= scale.min() < 1 / (1 + 0.9 * zoom)
    assert 1 / (1 - 0.9 * zoom) < scale.max() <= 1 / (1 - zoom) + 1e-6

    upright = linear.copy()
    upright[determinant < 0, 0] *= -1  # undo the mirror
    angle = np.degrees(np.arctan2(upright[:, 1, 0], upright[:, 0, 0]))
    assert 0.95 * rotation < np.abs(angle).max() <= rotation + 1e-4
    assert abs(angle.mean()) < 4 * rotation / np.sqrt(3 * 2000)  # four standard errors

    moved = linear @ centre + draws[:, :, 2] - centre
    assert 0.9 * shift * size < np.abs(moved).max() <= shift * size + 1e-3
    assert abs((determinant < 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


def test_half_of_the_images_are_mirrored_and_nothing_else_happens():
    images = noise_images(400, 8)
    flipped = augment(images, **STILL | {"flip": True})
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)
    np.testing.assert_array_equal(augment(images, **STILL), images)


def test_contrast_changes_about_the_mean_within_its_bounds():
    images = noise_images(300, 64) // 3 + 80  # far from 0 and 255, so that nothing is cut off
    changed = augment(images, **STILL | {"contrast": 0.3})
    pixels = images.astype(float)
    about = pixels - pixels.mean(axis=(1, 2, 3), keepdims=True)
    gains = (about * changed).sum(axis=(1, 2, 3)) / (about**2).sum(axis=(1, 2, 3))
    assert 0.7 - 0.01 <= gains.min() < 0.75
    assert 1.25 < gains.max() <= 1.3 + 0.01
    expected = pixels + (gains - 1)[:, None, None, None] * about
    np.testing.assert_allclose(changed, expected, atol=1)  # rounded, the gain estimated


def test_values_are_gray_levels():
    changed = augment(noise_images(50, 16), contrast=0.9)
    assert changed.dtype == np.float32
    assert changed.shape == (50, 16, 16, 1)
    np.testing.assert_array_equal(changed, np.round(changed))
    assert changed.min() == 0
    assert changed.max() == 255


def test_the_seed_decides_and_the_state_continues():
    images = noise_images(4, 16)
    np.testing.assert_array_equal(augment(images, seed=1), augment(images, seed=1))
    assert not np.array_equal(augment(images, seed=1), augment(images, seed=2))

    first, second = RadiographAugmentation(seed=1), RadiographAugmentation(seed=9)
    one = keras.ops.convert_to_numpy(first(images, training=True))
    second.generator.state.assign(first.generator.state)  # as a checkpoint does
    two = keras.ops.convert_to_numpy(first(images, training=True))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(two, keras.ops.convert_to_numpy(second(images, training=True)))


def test_inference_sees_the_images_as_they_are():
    images = noise_images(4, 16)
    layer = RadiographAugmentation()
    for output in (layer(images), layer(images, training=False)):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(output), images)
    image = keras.Input((16, 16, 1), dtype="uint8")
    network = keras.Model(image, layer(image))
    np.testing.assert_array_equal(network.predict(images, verbose=0), images)
