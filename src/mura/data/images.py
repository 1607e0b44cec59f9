"""Decode any radiograph file to 8-bit gray, and fit it into a square."""

from __future__ import annotations

import io
import logging
import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mura.data.deep_images import DEEP_MODES, to_8_bit
from mura.data.image_headers import JPEG, PNG, png_chunks, unread_jpeg
from mura.files import InputError

# MURA's images have at most 512 x 512 pixels, a detector's full frame about 20 million; what
# claims more than this is refused by its header, before any memory is taken for it.
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 1024 * 1024  # of a file, so that a mislaid archive is not read into memory

# Notes on odd but harmless metadata, and on sizes that MAX_PIXELS judges anyway. For the whole
# process, because a filter set around each image would be undone by another thread.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# What radiographs come in. Not all that Pillow knows: its EPS reader would run another program.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")

# What may follow a plain PNG's header: no palette, transparency, orientation or animation.
_PLAIN_CHUNKS = {b"IDAT", b"IEND", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"tIME"}
# Of a zlib stream with the usual window of 32 KiB, by how hard it was compressed (RFC 1950, 2.2).
_DEFLATE_HEADERS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
# What is inflated at once: a noisy 512 x 512 image, and no bomb of more than 270 MB, since deflate
# saves at most 1,032 bytes in one (zlib's technical details, "Maximum Compression Factor").
_MAX_DEFLATED = 2**18 + 2**10
_RESTORE = "restore it from the original archive."


class ImageError(InputError):
    """A file is no image that can be read; the message names it.

    ``kind`` says what is wrong: "missing-file", "unreadable-file", "empty-file", "not-an-image",
    "oversized-image", "truncated-image" or "damaged-image".
    """

    def __init__(self, message: str, kind: str = "not-an-image") -> None:
        super().__init__(message)
        self.kind = kind


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
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            what = "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file"
            raise ImageError(f"{path}: {what}, not an image; name an image.", "unreadable-file")
        if facts.st_size > MAX_BYTES:
            size = f"{facts.st_size / 1e6:,.0f} MB (at most {MAX_BYTES / 1e6:,.0f} MB are read)"
            raise ImageError(f"{path}: {size}; it is no radiograph.", "oversized-image")
        with path.open("rb", buffering=0) as file:  # one call each: threads queue at every one
            content = file.read(facts.st_size)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: no such file; check the path.", "missing-file") from None
    except OSError as error:
        reason = error.strerror or _short(error)
        raise ImageError(f"{path}: cannot be read ({reason}).", "unreadable-file") from error
    if not content:
        raise ImageError(f"{path}: empty file (0 bytes); {_RESTORE}", "empty-file")
    return content


def open_image(content: bytes, name: str | Path) -> Image.Image:
    """Open an image by its header, without decoding it; ``name`` is for the message.

    Raises:
        ImageError: It is no image, one of a kind that is not read, its header is cut off, or it
            claims more than ``MAX_PIXELS``.
    """
    limit = f"at most {MAX_PIXELS:,} pixels are read"
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:
        message = f"{name}: far too large ({limit}); it is no radiograph."
        raise ImageError(message, "oversized-image") from None
    except Exception as error:  # UnidentifiedImageError, and struct or value errors of odd headers
        _refuse_unread_jpeg(content, name)
        if content.startswith((PNG, JPEG)):
            message = f"{name}: damaged or cut off within its header; {_RESTORE}"
            raise ImageError(message, "truncated-image") from error
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
        if content.startswith(PNG):
            list(png_chunks(content))  # for its checks: Pillow reads on
        image.load()
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        kind = "truncated-image" if "truncated" in str(error).lower() else "damaged-image"
        if kind == "damaged-image":
            _refuse_unread_jpeg(content, name)
        raise ImageError(
            f"{name}: cannot be decoded ({_short(error)}); {_RESTORE}", kind
        ) from error
    return image


def to_gray(image: Image.Image, name: str | Path) -> np.ndarray:
    """Turn a decoded image upright and into gray: uint8[H, W].

    Raises:
        ImageError: Its colours or its orientation cannot be made out.
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


def _refuse_unread_jpeg(content: bytes, name: str | Path) -> None:
    if kind := unread_jpeg(content):
        raise ImageError(
            f"{name}: {kind}, which cannot be read here; save it as 8-bit or 16-bit gray PNG.",
            "not-an-image",
        )


def _read_gray(path: str | Path) -> Image.Image:
    content = read_bytes(path)
    image = _read_plain_png(content)
    return _turn_gray(decode_image(content, path), path) if image is None else image


def _read_plain_png(content: bytes) -> Image.Image | None:
    """Decode a sound 8-bit gray PNG that is nothing but pixels; None: leave it to Pillow alone.

    Pillow inflates row by row. Inflating all at once, and handing it the rows stored, is the same
    to the bit and takes less time; benchmarks/input.py times the cache that is built with it.
    """
    try:
        (first, header), *chunks = png_chunks(content)
        width, height, *kind = struct.unpack(">IIBBBBB", header)
        plain = first == b"IHDR" and _PLAIN_CHUNKS.issuperset(name for name, _ in chunks)
        if not plain or kind != [8, 0, 0, 0, 0] or not 0 < width * height <= MAX_PIXELS:
            return None
        expected = height * (1 + width)  # a row begins with the number of its filter
        compressed = b"".join(body for name, body in chunks if name == b"IDAT")
        if compressed[:2] not in _DEFLATE_HEADERS or len(compressed) > _MAX_DEFLATED:
            return None
        # raw, without the stream's checksum, which Pillow compares when it takes the rows
        rows = zlib.decompress(memoryview(compressed)[2:], -zlib.MAX_WBITS, expected)
        if len(rows) != expected:
            return None
        stored = _store(rows, checksum=compressed[-4:])
        return Image.frombytes("L", (width, height), stored, "zip", "L", False)
    except (ValueError, struct.error, zlib.error):
        return None  # no PNG, or a damaged one: the general way says which


def _store(content: bytes, checksum: bytes) -> bytes:
    """Return a zlib stream that holds content as it is (RFC 1951, 3.2.4), with its Adler-32."""
    pieces = [b"\x78\x01"]
    for start in range(0, len(content), 65_535):
        piece = memoryview(content)[start : start + 65_535]
        last = start + len(piece) == len(content)
        pieces += [struct.pack("<BHH", last, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join([*pieces, checksum])


def _turn_gray(image: Image.Image, name: str | Path) -> Image.Image:
    try:
        return _to_gray(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises many kinds for odd palettes and metadata
        raise ImageError(
            f"{name}: cannot be converted to gray ({_short(error)}); save it as 8-bit PNG.",
            "damaged-image",
        ) from error


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_MODES:
        return Image.fromarray(to_8_bit(image))
    if image.mode == "LAB":  # CIELAB: its first band is the lightness
        return image.getchannel("L")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image if image.mode == "L" else image.convert("L")


def _fit(image: Image.Image, size: int) -> np.ndarray:
    width, height = image.size
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    if image.size != inner:
        # a box filter first for large reductions: as sharp, several times as fast
        image = image.resize(inner, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = np.zeros((size, size), np.uint8)
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    square[top : top + inner[1], left : left + inner[0]] = np.asarray(image)
    return square


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
