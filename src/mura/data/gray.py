"""What the readers of images share: limits, errors, and deep gray that becomes 8-bit gray."""

from pathlib import Path

import numpy as np

from mura.files import InputError

# MURA's images have at most 512 x 512 pixels, a detector's full frame about 20 million. Larger
# images are refused by their header, before any memory is taken for them.
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 1024 * 1024  # of a file, so that a misplaced archive is not read into memory
SIZ = b"\xff\x4f\xff\x51"  # where a JPEG 2000 codestream starts (ISO 15444-1, A.5.1)
RESTORE = "restore it from the original archive."

# Deep gray is stretched between these, so that a bright marker does not darken the rest. nnU-Net
# clips CT to the same percentiles (Isensee et al. 2021, Nature Methods 18, online methods).
_PERCENTILES = (0.5, 99.5)


class ImageError(InputError):
    """A file cannot be read as an image; the message names it.

    ``kind`` says what is wrong: "missing-file", "unreadable-file", "empty-file", "not-an-image",
    "oversized-image", "truncated-image", "damaged-image" or "unusual-mode".
    """

    def __init__(self, message: str, kind: str = "not-an-image") -> None:
        super().__init__(message)
        self.kind = kind


def too_large(name: str | Path, size: str) -> ImageError:
    """Return the error of an image whose header says too many pixels, such as "8000 x 7000"."""
    limit = f"{size} pixels (at most {MAX_PIXELS:,} are read)"
    return ImageError(f"{name}: {limit}; too large for a radiograph.", "oversized-image")


def deep_colour(name: str | Path) -> ImageError:
    """Return the error of colour or alpha that 8 bits per channel do not hold."""
    cut = "more than 8 bits per channel, in colour or with alpha, would be cut to 8"
    return ImageError(f"{name}: {cut}; save it as 16-bit gray.", "unusual-mode")


def stretch(values: np.ndarray, inverted: bool) -> np.ndarray:
    """Stretch deep gray between ``_PERCENTILES``; 32-bit 0-255 stays, NaN and a constant: black."""
    integers = values.dtype.kind in "iu" and values.itemsize == 4
    values = 255 - values.astype(np.float64) if inverted else values.astype(np.float64)
    if integers and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8)
    finite, low, high = values[np.isfinite(values)], 0.0, 0.0
    if finite.size:
        low, high = np.percentile(finite, _PERCENTILES, method="nearest")
        if low == high:  # a few pixels on an even ground
            low, high = finite.min(), finite.max()
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high)
    return np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
