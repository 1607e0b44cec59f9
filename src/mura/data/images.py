"""Decode any radiograph file to 8-bit gray, and fit it into a square."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mura.files import InputError

# MURA's images have at most 512 x 512 pixels, a detector's full frame about 20 million. Larger
# images are refused by their header, before any memory is taken for them.
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 1024 * 1024  # of a file, so that a misplaced archive is not read into memory

# Pillow warns of odd but harmless metadata, and of sizes that MAX_PIXELS checks anyway. For the
# whole process, because another thread would undo a filter set around each image.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# The formats of radiographs. Not all that Pillow knows: its EPS reader would run another program.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_RESTORE = "restore it from the original archive."

# What files of these formats are called.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm"),
)


class ImageError(InputError):
    """A file cannot be read as an image; the message names it.

    ``kind`` says what is wrong: "missing-file", "unreadable-file", "empty-file", "not-an-image",
    "oversized-image", "truncated-image" or "damaged-image".
    """

    def __init__(self, message: str, kind: str = "not-an-image") -> None:
        super().__init__(message)
        self.kind = kind


def study_images(folder: str | Path) -> list[Path]:
    """Return a study folder's images by name, without macOS's ``._*``; ImageError if none."""
    images = [path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    images = sorted(path for path in images if not path.name.startswith("."))
    if not images:
        raise ImageError(f"{folder}: no images here; name an image or a study's folder.")
    return images


def read_gray(path: str | Path) -> np.ndarray:
    """Decode a radiograph into uint8[H, W] in 0-255.

    Every Pillow mode is accepted: colour (as luma), palette, CMYK, transparency (over black),
    1-bit, and 16- or 32-bit gray, which is stretched from its own minimum and maximum to 0-255
    (a constant one is black). EXIF orientation is applied; of several frames the first is taken.

    Raises:
        ImageError: The file is missing, empty, truncated, damaged, no image, or larger than
            ``MAX_PIXELS`` or ``MAX_BYTES``.
    """
    return to_gray(decode_image(read_bytes(path), path), path)


def load_square(path: str | Path, size: int) -> np.ndarray:
    """Decode a radiograph file into uint8[size, size]: ``read_gray``, then ``fit_square``."""
    return fit_square(read_gray(path), size)


def read_bytes(path: str | Path) -> bytes:
    """Read an image file; raise ImageError if it is missing, unreadable, empty or too large."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            limit = f"{size / 1e6:,.0f} MB (at most {MAX_BYTES / 1e6:,.0f} MB are read)"
            raise ImageError(f"{path}: {limit}; too large for a radiograph.", "oversized-image")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: no such file; check the path.", "missing-file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({_short(error)}).", "unreadable-file") from error
    if not content:
        raise ImageError(f"{path}: empty file (0 bytes); {_RESTORE}", "empty-file")
    return content


def decode_image(content: bytes, name: str | Path) -> Image.Image:
    """Decode an image's bytes: its first frame, in its own mode and not yet turned.

    Raises:
        ImageError: It is not an image of a known format, truncated, damaged, or its header says
            that it has more than ``MAX_PIXELS``; ``name`` is for the message.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        size = " x ".join(map(str, image.size))
    except Image.DecompressionBombError:
        image, size = None, "far too many"
    except Exception as error:  # UnidentifiedImageError, and struct or value errors of odd headers
        if content.startswith((_PNG, _JPEG)):
            raise ImageError(
                f"{name}: cut off or damaged within its header, or a JPEG of an unsupported kind "
                "(12-bit, lossless); restore it, or save it as 8-bit PNG.",
                "truncated-image",
            ) from error
        known = ", ".join(_FORMATS)
        raise ImageError(f"{name}: not an image of a known format; expected {known}.") from error
    if image is None or image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {size} pixels (at most {MAX_PIXELS:,} are read); too large for a radiograph.",
            "oversized-image",
        )
    try:
        # a PNG's checksums and its end; an image cannot be loaded after verify()
        Image.open(io.BytesIO(content), formats=_FORMATS).verify()
        image.load()
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        kind = "truncated-image" if "truncated" in str(error).lower() else "damaged-image"
        message = f"{name}: cannot be decoded ({_short(error)}); {_RESTORE}"
        raise ImageError(message, kind) from error
    return image


def to_gray(image: Image.Image, name: str | Path) -> np.ndarray:
    """Return a decoded image upright and gray, uint8[H, W]; raise ImageError if that fails."""
    try:
        return _gray(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises many kinds for odd palettes and metadata
        raise ImageError(
            f"{name}: cannot be converted to gray ({_short(error)}); save it as 8-bit PNG.",
            "damaged-image",
        ) from error


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scale uint8[H, W] so that its longer side is ``size``, and pad it with black.

    Returns:
        uint8[size, size]; the aspect is kept, the image is centred, a side is never below 1.
    """
    scale = size / max(image.shape)
    height, width = (max(1, round(side * scale)) for side in image.shape)
    if image.shape != (height, width):
        # reducing_gap: a box filter first for large reductions, as sharp and much faster
        bilinear, picture = Image.Resampling.BILINEAR, Image.fromarray(image)
        image = np.asarray(picture.resize((width, height), bilinear, reducing_gap=2.0))
    square = np.zeros((size, size), np.uint8)
    left, top = (size - width) // 2, (size - height) // 2
    square[top : top + height, left : left + width] = image
    return square


def _gray(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        return _stretch(np.asarray(image))
    if image.mode == "LAB":  # CIELAB: its first band is the lightness
        image = image.getchannel("L")
    elif image.mode.endswith(("A", "a")) or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def _stretch(values: np.ndarray) -> np.ndarray:
    """Stretch 16- or 32-bit gray from its own minimum and maximum to uint8 in 0-255.

    A constant image and not-a-number become black, infinity the maximum. 32-bit integers that lie
    within 0-255 stay.
    """
    if values.dtype == np.int32 and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8)
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
