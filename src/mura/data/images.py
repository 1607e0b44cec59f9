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
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
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
    """Return a study folder's images by name, without the ``._*`` files that macOS leaves.

    Raises:
        ImageError: There is no image.
    """
    folder = Path(folder)
    images = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not images:
        raise ImageError(f"{folder}: no images here; name an image or a study's folder.")
    return images


def read_gray(path: str | Path) -> np.ndarray:
    """Decode a radiograph.

    Every Pillow mode is accepted: colour (as luma), palette, CMYK, transparency (over black),
    1-bit, and 16- or 32-bit gray, which is stretched from its own minimum and maximum to 0-255
    (a constant one is black). EXIF orientation is applied; of several frames the first is taken.

    Returns:
        uint8[H, W] in 0-255.

    Raises:
        ImageError: The file is missing, empty, truncated, damaged, no image, or larger than
            ``MAX_PIXELS`` or ``MAX_BYTES``.
    """
    return np.asarray(_read_gray(path))


def read_bytes(path: str | Path) -> bytes:
    """Read an image file.

    Raises:
        ImageError: It is missing, no regular file, empty, larger than ``MAX_BYTES``, or the
            system does not let it be read.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{path}: not a file; name an image.", "unreadable-file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            limit = f"{size / 1e6:,.0f} MB (at most {MAX_BYTES / 1e6:,.0f} MB are read)"
            raise ImageError(f"{path}: {limit}; it is no radiograph.", "oversized-image")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: no such file; check the path.", "missing-file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({_short(error)}).", "unreadable-file") from error
    if not content:
        raise ImageError(f"{path}: empty file (0 bytes); {_RESTORE}", "empty-file")
    return content


def open_image(content: bytes, name: str | Path) -> Image.Image:
    """Open an image by its header, without decoding it; ``name`` is for the message.

    Raises:
        ImageError: It is no image or of an unsupported kind, its header is cut off, or it has
            more than ``MAX_PIXELS``.
    """
    limit = f"at most {MAX_PIXELS:,} pixels are read"
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:
        message = f"{name}: far too large ({limit}); it is no radiograph."
        raise ImageError(message, "oversized-image") from None
    except Exception as error:  # UnidentifiedImageError, and struct or value errors of odd headers
        if content.startswith((_PNG, _JPEG)):
            raise ImageError(
                f"{name}: cut off or damaged within its header, or a JPEG of an unsupported kind "
                "(12-bit, lossless); restore it, or save it as 8-bit PNG.",
                "truncated-image",
            ) from error
        raise ImageError(
            f"{name}: not an image that is read here; expected {', '.join(_FORMATS)}.",
            "not-an-image",
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        message = f"{name}: {width} x {height} pixels ({limit}); it is no radiograph."
        raise ImageError(message, "oversized-image")
    return image


def decode_image(content: bytes, name: str | Path) -> Image.Image:
    """Decode an image's bytes, first frame, in its own mode and not yet turned.

    Raises:
        ImageError: As :func:`open_image`, or it is truncated or damaged.
    """
    image = open_image(content, name)
    try:
        open_image(content, name).verify()  # a PNG's checksums and end; it cannot be loaded after
        image.load()
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        kind = "truncated-image" if "truncated" in str(error).lower() else "damaged-image"
        raise ImageError(
            f"{name}: cannot be decoded ({_short(error)}); {_RESTORE}", kind
        ) from error
    return image


def to_gray(image: Image.Image, name: str | Path) -> np.ndarray:
    """Turn a decoded image upright and into gray: uint8[H, W].

    Raises:
        ImageError: Its colours or its orientation cannot be read.
    """
    return np.asarray(_turn_gray(image, name))


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
    """Scale a radiograph so that its longer side is ``size``, and pad it with black.

    Args:
        image: uint8[H, W].
        size: Side of the square in pixels.

    Returns:
        uint8[size, size]; the aspect is kept, the image is centred, a side is never below 1.
    """
    return _fit(Image.fromarray(image), size)


def load_square(path: str | Path, size: int) -> np.ndarray:
    """Decode a radiograph file into uint8[size, size] (see the two functions above)."""
    return _fit(_read_gray(path), size)


def _read_gray(path: str | Path) -> Image.Image:
    return _turn_gray(decode_image(read_bytes(path), path), path)


def _turn_gray(image: Image.Image, name: str | Path) -> Image.Image:
    try:
        return _to_gray(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises many kinds for odd palettes and metadata
        raise ImageError(
            f"{name}: cannot be converted to gray ({_short(error)}); save it as 8-bit PNG.",
            "damaged-image",
        ) from error


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        return Image.fromarray(_stretch(np.asarray(image)))
    if image.mode == "LAB":  # CIELAB: its first band is the lightness
        return image.getchannel("L")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image if image.mode == "L" else image.convert("L")


def _stretch(values: np.ndarray) -> np.ndarray:
    """Stretch 16- or 32-bit gray from its own minimum and maximum to uint8 in 0-255.

    A constant image and not-a-number become black, infinity the maximum. 32-bit integers that lie
    within 0-255 stay.
    """
    integers = values.dtype == np.int32
    values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if integers and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def _fit(image: Image.Image, size: int) -> np.ndarray:
    width, height = image.size
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    if image.size != inner:
        # reducing_gap: a box filter first for large reductions, as sharp and much faster
        image = image.resize(inner, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), np.uint8)
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    square[top : top + inner[1], left : left + inner[0]] = np.asarray(image)
    return square


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
