"""Any image file becomes 8-bit gray in a square, or an error that names it."""

import struct
import zlib

import numpy as np
import pytest
from layout import encoded, noise
from PIL import Image

from mura.data import images
from mura.data.images import ImageError, fit_square, load_square, read_gray


@pytest.fixture
def save(tmp_path):
    """Write bytes, or an image in a format, and return the file."""

    def write(content, kind="PNG", **settings):
        file = tmp_path / "image1.png"
        content = content if isinstance(content, bytes) else encoded(content, kind, **settings)
        file.write_bytes(content)
        return file

    return write


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, rows: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG of rows as they are filtered."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I"])
def test_every_mode_gives_the_same_gray(mode, save):
    levels = np.repeat(np.array([0, 255, 255, 0], np.uint8), 12).reshape(8, 6)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "I": "TIFF"}.get(mode, "PNG")
    settings = {"quality": 100} if kind == "JPEG" else {}
    read = read_gray(save(Image.fromarray(levels).convert(mode), kind, **settings))
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.astype(int), levels, atol=2 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1000, 5080, 3048, 2024], np.uint16, [0, 255, 128, 64]),
        ([40_000] * 4, np.uint16, [0, 0, 0, 0]),
        ([0.0, 1.0, np.nan, np.inf], np.float32, [0, 255, 0, 255]),
        ([np.nan] * 4, np.float32, [0, 0, 0, 0]),
        ([-1.0, 0.0, 1.0, 3.0], np.float32, [0, 64, 128, 255]),
        ([0, 1, 254, 255], np.int32, [0, 1, 254, 255]),
        ([0, 1, 254, 256], np.int32, [0, 1, 253, 255]),
        ([-(2**31), 0, 0, 2**31 - 1], np.int32, [0, 128, 128, 255]),
    ],
)
def test_deep_gray_is_stretched_from_its_own_range(values, dtype, expected, save):
    image = Image.fromarray(np.array(values, dtype).reshape(2, 2))
    for kind in ("TIFF", "PNG") if dtype == np.uint16 else ("TIFF",):
        read = read_gray(save(image, kind))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read.ravel(), expected)


def test_transparency_lies_over_black_and_the_first_frame_is_taken(save):
    white = np.full((4, 4, 4), 255, np.uint8)
    white[:, :2, 3] = 0
    read = read_gray(save(Image.fromarray(white, "RGBA")))
    np.testing.assert_array_equal(read, np.repeat([[0, 0, 255, 255]], 4, axis=0))
    frames = [Image.fromarray(np.full((1, 2), level, np.uint8)) for level in (10, 200)]
    several = save(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_gray(several), [[10, 10]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 200, 200, 100, 100, 100])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(read_gray(save(palette, transparency=1)), [[200, 0]])


def test_exif_orientation_turns_the_image_upright(save):
    gray = np.zeros((20, 40), np.uint8)
    gray[:, :10] = 255  # the left quarter is white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees clockwise to see it upright
    for kind in ("JPEG", "PNG"):
        read = read_gray(save(gray, kind, exif=exif))
        assert read.shape == (40, 20)
        assert read[:8].min() > 240
        assert read[12:].max() < 15


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty-file", "0 bytes"),
        (b"\0" * 1000, "not-an-image", "not an image"),
        (b"patient,label\n1,0\n", "not-an-image", "not an image"),
        (encoded(noise(0))[:700], "truncated-image", "Truncated"),
        (encoded(noise(0))[:-12], "truncated-image", "truncated"),
        (encoded(noise(0))[:10], "truncated-image", "cut off"),
        (encoded(noise(0), "JPEG")[:600], "truncated-image", "truncated"),
        (png(4, 4, b"\0\1"), "truncated-image", "truncated"),
        (png(50_000, 50_000), "oversized-image", "far too many"),
        (png(8_000, 7_000), "oversized-image", "8000 x 7000"),
        (png(4, 4, bytes(20)).replace(b"IDATx", b"IDATy"), "damaged-image", "checksum"),
    ],
    ids=[
        *("empty", "zeros", "text", "cut", "no-end", "cut-header", "cut-jpeg"),
        *("few-rows", "bomb", "large", "checksum"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(content, kind, message, save):
    file = save(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_square(file, 8)
    assert str(caught.value).startswith(str(file))
    assert caught.value.kind == kind


def test_every_changed_byte_of_a_png_is_noticed_or_harmless(save):
    gray = noise(3, 12, 10)
    content = encoded(gray)
    harmless = 0
    for position in range(8, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x20
        try:
            read = read_gray(save(bytes(damaged)))
        except ImageError:
            continue
        harmless += 1
        np.testing.assert_array_equal(read, gray)
    assert harmless < len(content) / 20


def test_files_that_cannot_be_opened_say_so(tmp_path, monkeypatch):
    for path, kind in (
        (tmp_path / "nowhere.png", "missing-file"),
        (tmp_path / "nowhere" / "image.png", "missing-file"),
        (tmp_path, "unreadable-file"),
    ):
        with pytest.raises(ImageError, match=str(path)) as caught:
            read_gray(path)
        assert caught.value.kind == kind
    large = tmp_path / "large.png"
    large.write_bytes(bytes(100))
    monkeypatch.setattr(images, "MAX_BYTES", 99)
    with pytest.raises(ImageError, match="at most") as caught:
        read_gray(large)
    assert caught.value.kind == "oversized-image"


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    [
        *((512, 384, (64, 48)), (384, 512, (48, 64)), (30, 20, (64, 43)), (64, 64, (64, 64))),
        *((1, 1, (64, 64)), (20_000, 10, (64, 1)), (10, 20_000, (1, 64)), (1, 3, (21, 64))),
    ],
)
def test_the_longer_side_fills_the_square_and_the_rest_is_black(height, width, inner):
    square = fit_square(np.full((height, width), 200, np.uint8), 64)
    assert square.shape == (64, 64)
    assert square.dtype == np.uint8
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert (len(rows), len(columns)) == inner
    assert abs(rows[0] - (63 - rows[-1])) <= 1  # centred
    assert abs(columns[0] - (63 - columns[-1])) <= 1
    assert (square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 200).all()


def test_scaling_down_is_antialiased():
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: gray, not stripes
    small = fit_square(stripes, 100)
    assert small[10:90, 10:90].std() < 6
    assert small.mean() == pytest.approx(127.5, abs=3)


def test_load_square_is_reading_and_fitting(save):
    file = save(noise(1, 300, 200))
    np.testing.assert_array_equal(load_square(file, 96), fit_square(read_gray(file), 96))
