"""Turn 16- and 32-bit gray into 8-bit gray, in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's

_AT_ONCE = 2**18  # pixels: NumPy makes 8 bytes and more of each, and a small file may hold many


def to_8_bit(image: Image.Image) -> np.ndarray:
    """Stretch an image of a deep mode from its own minimum and maximum to 0-255.

    A constant one is black, and so is what is no number; infinity is the maximum. Values of 32-bit
    integers that lie within 0-255 stay.

    Returns:
        uint8[H, W].
    """
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return _from_16_bit(values)
    low, high = _range(values)
    if image.mode == "I" and low >= 0 and high <= 255:
        return values.astype(np.uint8)  # 8-bit values in a wide mode

    def stretch(piece: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # signalling NaNs of a damaged file
            piece = piece.astype(np.float64)
        return _stretched(np.nan_to_num(piece, nan=low, posinf=high, neginf=low), low, high)

    return _by_pieces(stretch, values)


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """Look each value's gray up: one byte per pixel, where its float64 values would be many."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    grays = np.zeros(2**16, np.uint8)
    grays[low : high + 1] = _stretched(np.arange(low, high + 1, dtype=np.float64), low, high)
    return _by_pieces(grays.__getitem__, values)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest finite value; 0 and 0 where there is none."""
    finite = (piece[np.isfinite(piece)] for piece in _pieces(values))
    ends = [(float(piece.min()), float(piece.max())) for piece in finite if piece.size]
    lows, highs = zip(*ends or [(0.0, 0.0)], strict=True)
    return min(lows), max(highs)


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Stretch float64 values from low and high to uint8 in 0-255."""
    return np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def _by_pieces(gray: Callable[[np.ndarray], np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return the gray of values: uint8 of their shape."""
    found = np.empty(values.shape, np.uint8)
    for piece, target in zip(_pieces(values), _pieces(found), strict=True):
        target[:] = gray(piece)
    return found


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield views of values, row after row."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):
        yield flat[start : start + _AT_ONCE]
