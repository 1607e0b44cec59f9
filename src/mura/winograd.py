"""Convolutions of 3 x 3 with a quarter of the multiplications, for training on a CPU in float32.

Winograd's minimal filtering: tiles of the maps and the kernel are transformed, multiplied place by
place over all channels, and transformed back (Lavin and Gray 2015, arXiv 1509.09308). A tile of
6 x 6 gives 4 x 4 results with 36 products, where the sums over the taps take 144. Both gradients
are had in the same way. They differ from the direct sums by rounding: in VGG's and ResNet-50's
sizes by up to 2.5e-5 of the largest value. Not for bfloat16, whose rounding the transforms would
multiply.

All is products of matrices and copies, for which TensorFlow has fast kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_RESULTS, _TILE = 4, 6  # a side of what a tile gives, and of what it sees

# F(4 x 4, 3 x 3) of the paper, section 4.3: of maps, of kernels and of results. Each is applied
# along both sides of a tile at once, so as a Kronecker product.
_OF_MAPS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_OF_KERNELS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OF_RESULTS = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


@tf.custom_gradient
def convolve(maps: Any, kernel: Any) -> Any:
    """Convolve, with strides of 1 and as much padding as keeps the size ("same").

    Args:
        maps: float32[B, H, W, C]; H, W and C are known when the graph is made.
        kernel: float32[3, 3, C, K].

    Returns:
        float32[B, H, W, K].
    """
    _, height, width, _ = maps.shape

    def filtered(maps: Any, kernels: Any, turned: bool = False) -> Any:
        products = tf.matmul(_tiles(maps), kernels, transpose_b=turned)
        return _assembled(_along_both(_OF_RESULTS, products), height, width)

    def gradients(upstream: Any) -> tuple[Any, Any]:
        turned = _along_both(_OF_KERNELS[:, ::-1], _flat(kernel))
        of_tiles = _along_both(_OF_RESULTS.T, _blocks(upstream))
        of_kernels = tf.matmul(_tiles(maps), of_tiles, transpose_a=True)
        of_kernel = tf.reshape(_along_both(_OF_KERNELS.T, of_kernels), tf.shape(kernel))
        return filtered(upstream, turned, turned=True), of_kernel

    return filtered(maps, _along_both(_OF_KERNELS, _flat(kernel))), gradients


def padded_share(height: int, width: int) -> float:
    """Return how many results are computed for each that is kept: at least 1."""
    computed = _tiles_along(height) * _tiles_along(width) * _RESULTS**2
    return computed / (height * width)


def _tiles_along(side: int) -> int:
    return -(-side // _RESULTS)


def _flat(kernel: Any) -> Any:
    """[3, 3, C, K] as [9, C, K]."""
    return tf.reshape(kernel, (9, *kernel.shape[2:]))


def _along_both(transform: np.ndarray, values: Any) -> Any:
    """Transform [n * n, P, C] to [m * m, P, C] with an [m, n] matrix, along rows and columns."""
    both = tf.constant(np.kron(transform, transform), values.dtype)
    transformed = tf.matmul(both, tf.reshape(values, (both.shape[1], -1)))
    return tf.reshape(transformed, (both.shape[0], -1, values.shape[-1]))


def _in_blocks(maps: Any, before: int, rows: int, columns: int) -> Any:
    """[B, H, W, C], padded with zeros, as [4, 4, B, rows, columns, C]: places of blocks first."""
    _, height, width, channels = maps.shape
    around = [
        (before, count * _RESULTS - before - side)
        for count, side in ((rows, height), (columns, width))
    ]
    padded = tf.pad(maps, [(0, 0), *around, (0, 0)])
    split = tf.reshape(padded, (-1, rows, _RESULTS, columns, _RESULTS, channels))
    return tf.transpose(split, (2, 4, 0, 1, 3, 5))


def _tiles(maps: Any) -> Any:
    """Return the transformed tiles of [B, H, W, C]: [36, tiles, C]."""
    rows, columns = _tiles_along(maps.shape[1]), _tiles_along(maps.shape[2])
    blocks, over = _in_blocks(maps, 1, rows + 1, columns + 1), _TILE - _RESULTS
    # a tile is a block and the near edges of the next ones
    tall = tf.concat([blocks[:, :, :, :rows], blocks[:over, :, :, 1:]], 0)
    tiles = tf.concat([tall[:, :, :, :, :columns], tall[:, :over, :, :, 1:]], 1)
    return _along_both(_OF_MAPS, tf.reshape(tiles, (_TILE**2, -1, maps.shape[-1])))


def _blocks(results: Any) -> Any:
    """Return [B, H, W, K] as [16, tiles, K]."""
    rows, columns = _tiles_along(results.shape[1]), _tiles_along(results.shape[2])
    blocks = _in_blocks(results, 0, rows, columns)
    return tf.reshape(blocks, (_RESULTS**2, -1, results.shape[-1]))


def _assembled(blocks: Any, height: int, width: int) -> Any:
    """Return [16, tiles, K] as [B, H, W, K]: the inverse of ``_blocks``."""
    rows, columns, channels = _tiles_along(height), _tiles_along(width), blocks.shape[-1]
    split = tf.reshape(blocks, (_RESULTS, _RESULTS, -1, rows, columns, channels))
    joined = tf.transpose(split, (2, 3, 0, 4, 1, 5))
    whole = tf.reshape(joined, (-1, rows * _RESULTS, columns * _RESULTS, channels))
    return whole[:, :height, :width]
