"""Augmentation of radiographs on the device, in front of the network, in training only."""

import itertools
import math
from typing import Any

import keras
from keras import ops


class RadiographAugmentation(keras.layers.Layer):
    """Flip, rotate, shift, zoom and change the gray values of each image at random.

    All four movements are one affine map, so an image is interpolated once. The layer is composed
    in front of a network for training and is never saved with it: a random layer in a saved model
    would augment whenever the model is called bare.

    Input uint8 or float32 [B, S, S, 1] in 0-255; output float32 of the same shape, whole numbers
    in 0-255, as prediction will see them. Without ``training=True`` the input comes back.

    Args:
        flip: Whether half of the images are mirrored left to right (MURA paper, section 3.2).
        rotation: Degrees to either side, uniform (30 in the same section).
        shift: Share of the side to either side, uniform.
        zoom: Share by which the scale is changed to either side, uniform.
        contrast: Share by which contrast about the image's mean is changed, uniform.
        brightness: Share of the gray range that is added or taken away, uniform.
        gamma: Gray values, as shares of the range, are raised to exp of up to this, uniform.
        seed: Of the layer's own generator, whose state a checkpoint keeps.
        for_xla: Whether TensorFlow is to compile the layer with XLA, which cannot compile its
            kernel for affine maps (2.21): pixels are then gathered, the same but for rounding.
    """

    def __init__(
        self,
        flip: bool = True,
        rotation: float = 30.0,
        shift: float = 0.05,
        zoom: float = 0.1,
        contrast: float = 0.2,
        brightness: float = 0.0,
        gamma: float = 0.0,
        seed: int = 0,
        for_xla: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **settings})
        self.flip, self.rotation, self.shift = flip, rotation, shift
        self.zoom, self.contrast, self.for_xla = zoom, contrast, for_xla
        self.brightness, self.gamma = brightness, gamma
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Augment [B, S, S, 1] while training; otherwise only cast to float32."""
        images = ops.cast(images, "float32")
        if not training:
            return images
        count, size = ops.shape(images)[0], images.shape[1]
        if self.flip or self.rotation or self.shift or self.zoom:
            images = self._moved(images, self._movements(count, size))
        if self.contrast:
            gain = 1 + self._uniform((count, 1, 1, 1), self.contrast)
            mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
            images = mean + gain * (images - mean)
        if self.brightness:
            images = images + 255 * self._uniform((count, 1, 1, 1), self.brightness)
        if self.gamma:
            exponent = ops.exp(self._uniform((count, 1, 1, 1), self.gamma))
            # not 0: its power has no slope
            images = 255 * ops.power(ops.clip(images / 255, 1e-6, 1), exponent)
        return ops.round(ops.clip(images, 0, 255))

    def _moved(self, images: Any, movements: Any) -> Any:
        """Move float32[B, S, S, 1] as the maps say; beyond the border it is black."""
        if self.for_xla and keras.backend.backend() == "tensorflow":
            return _gathered(images, movements)
        return ops.image.affine_transform(
            images, movements, "bilinear", "constant", fill_value=0, data_format="channels_last"
        )

    def _movements(self, count: Any, size: int) -> Any:
        """Return float32[B, 8]: for each output pixel (x, y) where in the input it comes from."""
        angle = self._uniform((count,), self.rotation * math.pi / 180)
        scale = 1 / (1 + self._uniform((count,), self.zoom))
        mirror = ops.ones((count,))
        if self.flip:
            coin = keras.random.uniform((count,), seed=self.generator)
            mirror = ops.where(coin < 0.5, -1.0, 1.0)
        c, d = scale * ops.sin(angle), scale * ops.cos(angle)
        a, b = mirror * d, -mirror * c
        centre = (size - 1) / 2
        x = centre - (a + b) * centre + self._uniform((count,), self.shift * size)
        y = centre - (c + d) * centre + self._uniform((count,), self.shift * size)
        zero = ops.zeros_like(x)
        return ops.stack([a, b, x, c, d, y, zero, zero], axis=1)

    def _uniform(self, shape: tuple, limit: float) -> Any:
        return keras.random.uniform(shape, -limit, limit, seed=self.generator)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the input's shape, which stays."""
        return input_shape


def _gathered(images: Any, movements: Any) -> Any:
    """As ``ops.image.affine_transform``: weigh the four neighbours of where a pixel comes from."""
    size = images.shape[1]
    a, b, x, c, d, y = (movements[:, index, None, None] for index in range(6))
    column, row = ops.arange(size, dtype="float32"), ops.arange(size, dtype="float32")[:, None]
    across, down = a * column + b * row + x, c * column + d * row + y  # [B, S, S]
    left, top = ops.floor(across), ops.floor(down)
    pixels = ops.reshape(images, (-1, size * size))
    moved = ops.zeros_like(across)
    for near_row, near_column in itertools.product((top, top + 1), (left, left + 1)):
        rows, columns = ops.clip(near_row, 0, size - 1), ops.clip(near_column, 0, size - 1)
        inside = ops.logical_and(ops.equal(rows, near_row), ops.equal(columns, near_column))
        places = ops.reshape(ops.cast(rows * size + columns, "int32"), (-1, size * size))
        values = ops.reshape(ops.take_along_axis(pixels, places, axis=1), (-1, size, size))
        weight = (1 - ops.abs(down - near_row)) * (1 - ops.abs(across - near_column))
        moved += ops.where(inside, weight * values, 0.0)
    return moved[..., None]
