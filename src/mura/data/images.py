"""Decode any radiograph file to 8-bit gray, and fit it into a square."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from mura.data import gray
from mura.data.gray import RESTORE, SIZ, ImageError, deep_colour, stretch, too_large

# Pillow warns of odd but harmless metadata, and of sizes that MAX_PIXELS checks anyway. For the
# whole process, because another thread would undo a filter set around each image.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# The formats of radiographs. Not all that Pillow knows: its EPS reader would run another program.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


# What files of these formats are called.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif"),
    *(".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".dcm", ".dicom"),
)
# What file managers and notebooks create again and again.
COME_BACK = {".ds_store", "thumbs.db", "desktop.ini", ".ipynb_checkpoints"}

_MARK, _DICOM_SUFFIXES = slice(128, 132), (".dcm", ".dicom")  # "DICM" lies there (PS3.10, 7.1)

# TIFF tags (TIFF 6.0, section 8; SampleFormat in section 19)
_BITS, _POLARITY, _SAMPLE_FORMAT = 258, 262, 339
# Pillow refuses most deep gray in which white is zero, and unsigned 32 bits in big-endian order.
_TIFF_KINDS = TiffImagePlugin.OPEN_INFO
_TIFF_KINDS.setdefault((b"MM", 1, (1,), 1, (32,), ()), ("I", "I;32BS"))
for (_order, _white, *_rest), _modes in list(_TIFF_KINDS.items()):
    if _white == 1 and max(_rest[2]) > 8:
        _TIFF_KINDS.setdefault((_order, 0, *_rest), _modes)
# libtiff decompresses to the machine's order, but Pillow takes these for the file's.
_NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}


def study_images(folder: str | Path) -> list[Path]:
    """Return a study folder's images by name, without macOS's ``._*``; ImageError if none.

    Images are what is named as one, and DICOM under any name.
    """
    images = [path for path in _visible(folder) if _is_named(path) or _is_dicom(path)]
    if not images:
        raise ImageError(f"{folder}: no images here; name an image or a study's folder.")
    return images


def left_out(folder: str | Path) -> list[str]:
    """Name what ``study_images`` leaves out of a study's folder, each with the reason."""
    return [
        f"{path.name} ({'a folder' if path.is_dir() else 'not named as an image'})"
        for path in _visible(folder)
        if not (_is_named(path) or _is_dicom(path))
    ]


def read_gray(path: str | Path) -> np.ndarray:
    """Decode a radiograph into uint8[H, W] in 0-255, black to white.

    8-bit gray stays as it is. Colour becomes luma, transparency lies over black. 16- and 32-bit
    gray is stretched between its 0.5th and 99.5th percentiles. A TIFF in which white is zero is
    inverted at every bit depth. EXIF orientation is applied; of several frames the first is taken.
    DICOM is shown in its own window (``dicom.read_dicom``).

    Raises:
        ImageError: The file is missing, empty, truncated, damaged, no image, has colour or alpha
            of more than 8 bits, or is larger than ``gray.MAX_PIXELS`` or
            ``gray.MAX_BYTES``.
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
        if size > gray.MAX_BYTES:
            limit = f"{size / 1e6:,.0f} MB (at most {gray.MAX_BYTES / 1e6:,.0f} MB are read)"
            raise ImageError(f"{path}: {limit}; too large for a radiograph.", "oversized-image")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path}: no such file; check the path.", "missing-file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({_short(error)}).", "unreadable-file") from error
    if not content:
        raise ImageError(f"{path}: empty file (0 bytes); {RESTORE}", "empty-file")
    return content


def decode_image(content: bytes, name: str | Path) -> Image.Image:
    """Decode an image's bytes: its first frame, in its own mode and not yet turned.

    DICOM is found by its content, or by its name, and comes as 8-bit gray or RGB.

    Raises:
        ImageError: It is not an image of a known format, truncated, damaged, or its header says
            that it has more than ``gray.MAX_PIXELS``, or colour or alpha of more than 8 bits;
            ``name`` is for the message.
    """
    if content[_MARK] == b"DICM":
        return _from_dicom(content, name)
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        size = " x ".join(map(str, image.size))
        deep = len(image.getbands()) > 1 and _bits(image, content) > 8
    except Image.DecompressionBombError:
        image, size = None, "far too many"
    except Exception as error:  # UnidentifiedImageError, and struct or value errors of odd headers
        if content.startswith((_PNG, _JPEG, *_TIFF)):
            raise ImageError(
                f"{name}: cut off or damaged within its header, or of a kind that is not read "
                "(12-bit JPEG, 64-bit TIFF, ...); restore it, or save it as 16-bit gray PNG.",
                "not-an-image" if content.startswith(_TIFF) else "truncated-image",
            ) from error
        if Path(name).suffix.lower() in _DICOM_SUFFIXES:
            return _from_dicom(content, name)
        known = ", ".join((*_FORMATS, "DICOM"))
        raise ImageError(f"{name}: not an image of a known format; expected {known}.") from error
    if image is None or image.width * image.height > gray.MAX_PIXELS:
        raise too_large(name, size)
    if deep:
        raise deep_colour(name)
    if image.format == "TIFF":
        for index, tile in enumerate(image.tile):
            if tile.codec_name == "libtiff":
                native = (_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:])
                image.tile[index] = tile._replace(args=native)
    try:
        # a PNG's checksums and its end; an image cannot be loaded after verify()
        Image.open(io.BytesIO(content), formats=_FORMATS).verify()
        image.load()
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        kind = "truncated-image" if "truncated" in str(error).lower() else "damaged-image"
        message = f"{name}: cannot be decoded ({_short(error)}); {RESTORE}"
        raise ImageError(message, kind) from error
    return image


def to_gray(image: Image.Image, name: str | Path) -> np.ndarray:
    """Return a decoded image upright and gray, uint8[H, W]; raise ImageError if that fails."""
    try:
        return _gray(image)
    except Exception as error:  # Pillow raises many kinds for odd palettes and metadata
        message = f"{name}: cannot be converted to gray ({_short(error)}); save it as 8-bit PNG."
        raise ImageError(message, "damaged-image") from error


def white_is_zero(image: Image.Image) -> bool:
    """Return whether an image's file says so: a TIFF of PhotometricInterpretation 0."""
    return image.format == "TIFF" and image.tag_v2.get(_POLARITY) == 0


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


def unpadded(square: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut a height x width image's part out of a map of its padded square [S, S]."""
    size, longer = len(square), max(height, width)
    rows, columns = (max(1, round(side * (size / longer))) for side in (height, width))
    top, left = (size - rows) // 2, (size - columns) // 2
    return square[top : top + rows, left : left + columns]


def _visible(folder: str | Path) -> list[Path]:
    paths = sorted(Path(folder).iterdir())
    return [one for one in paths if one.name[0] != "." and one.name.lower() not in COME_BACK]


def _is_named(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _is_dicom(path: Path) -> bool:
    """Return whether a file's first bytes say DICOM (PS3.10, 7.1) and it is no CD's directory."""
    if path.is_file() and path.name.upper() != "DICOMDIR":
        with contextlib.suppress(OSError), path.open("rb") as file:
            return file.read(_MARK.stop)[_MARK] == b"DICM"
    return False


def _from_dicom(content: bytes, name: str | Path) -> Image.Image:
    from mura.data.dicom import read_dicom  # here, because pydicom takes a while

    pixels, frames = read_dicom(content, name)
    image = Image.fromarray(pixels)
    image.format, image.n_frames = "DICOM", frames
    return image


def _bits(image: Image.Image, content: bytes) -> int:
    """Return the bits per channel in the file, of which Pillow keeps 8 in colour and alpha."""
    match image.format:
        case "PNG":
            return content[24]
        case "TIFF":
            return max(image.tag_v2.get(_BITS, (1,)))
        case "JPEG2000":
            return (content[content.index(SIZ) + 42] & 0x7F) + 1
        case "PPM" if isinstance(image.tile[0].args, tuple):  # else 255 is its largest value
            return image.tile[0].args[1].bit_length()
    return 8


def _gray(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(upright)
        tags = image.tag_v2 if image.format == "TIFF" and image.mode == "I" else {}
        if tags and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
            values = values.view(np.uint32)  # for which Pillow has no mode
        return stretch(values, white_is_zero(image))
    if image.mode == "LAB":  # CIELAB: its first band is the lightness
        upright = upright.getchannel("L")
    elif image.mode.endswith(("A", "a")) or "transparency" in image.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, (0, 0, 0, 255)), upright)
    gray = np.asarray(upright if upright.mode == "L" else upright.convert("L"))
    # Pillow inverts up to 8 bits itself, but also where a TIFF does not say that white is zero.
    silent = image.format == "TIFF" and _POLARITY not in image.tag_v2
    return 255 - gray if silent and image.mode in ("1", "L") else gray


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
