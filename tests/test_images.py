import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from layout import encoded, noise
from PIL import Image

from mura.data import images
from mura.data.images import ImageError, fit_square, load_square, read_gray


@pytest.fixture
def save(tmp_path):
    """Write bytes, or an image in a format, and return the file."""

    def write(content, kind="PNG", name="image1.png", **settings):
        file = tmp_path / name
        file.write_bytes(
            content if isinstance(content, bytes) else encoded(content, kind, **settings)
        )
        return file

    return write


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    width: int,
    height: int,
    rows: bytes = b"",
    between: bytes = b"",
    cut: int = 1,
    compress: Callable[[bytes], bytes] = zlib.compress,
) -> bytes:
    """Return a PNG of rows as they are filtered, its data cut into so many chunks."""
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + between
    data = compress(rows)
    step = max(1, -(-len(data) // cut))
    for start in range(0, len(data), step):
        content += chunk(b"IDAT", data[start : start + step])
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def by_pillow(content: bytes) -> np.ndarray:
    return images.to_gray(images.decode_image(content, "image"), "image")


def test_gray_png_is_read_unchanged(save):
    gray = noise(0)
    read = read_gray(save(gray))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, gray)


@given(
    pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=300)),
    filters=st.binary(min_size=1, max_size=9),
    cut=st.integers(1, 5),
)
def test_a_plain_png_is_decoded_as_pillow_alone_does(pixels, filters, cut):
    height, width = pixels.shape
    rows = b"".join(
        bytes([filters[row % len(filters)] % 5]) + pixels[row].tobytes() for row in range(height)
    )
    density = chunk(b"pHYs", bytes(9))
    for content in (png(width, height, rows, between=density, cut=cut), encoded(pixels)):
        plain = images._read_plain_png(content)
        assert plain is not None
        np.testing.assert_array_equal(np.asarray(plain), by_pillow(content))


def test_a_png_of_many_rows_is_decoded_as_pillow_alone_does():
    pixels = noise(4, 700, 900) // 64  # more than one stored block
    content = encoded(pixels)
    plain = images._read_plain_png(content)
    np.testing.assert_array_equal(np.asarray(plain), by_pillow(content))
    np.testing.assert_array_equal(np.asarray(plain), pixels)


def test_all_that_is_no_plain_png_is_left_to_pillow():
    gray = noise(0)
    exif = Image.Exif()
    exif[0x0112] = 6

    def compress_with_small_window(content: bytes) -> bytes:
        compressor = zlib.compressobj(wbits=12)
        return compressor.compress(content) + compressor.flush()

    rows = b"".join(b"\0" + row.tobytes() for row in gray)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    height, width = gray.shape
    for content in (
        encoded(gray, "JPEG"),
        encoded(gray, exif=exif),
        encoded(gray, transparency=0),
        encoded(Image.fromarray(gray).convert("RGB")),
        encoded(gray.astype(np.uint16)),
        encoded(gray)[:-1],
        png(width, height, rows, between=header),
        png(width, height, rows + b"\0"),  # more than its header says
        png(1, 1, bytes(300_000_000)),  # never inflated
        png(width, height, rows[:-1]),
        png(width, height, b"\7" + rows[1:]),  # an unknown filter
        png(width, height, rows, compress=compress_with_small_window),
        png(width, height, rows, compress=lambda rows: zlib.compress(rows)[:-6]),
        png(width, height, rows, compress=lambda rows: zlib.compress(rows)[:-4] + b"nope"),
        png(width, height, rows, compress=lambda rows: b""),
        png(0, 0),
        png(8_000, 7_000),
    ):
        assert images._read_plain_png(content) is None
    assert images._read_plain_png(png(width, height, rows)) is not None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I"])
def test_every_mode_gives_the_same_gray(mode, save):
    levels = np.repeat(np.array([0, 255, 255, 0], np.uint8), 12).reshape(8, 6)
    image = Image.fromarray(levels)
    image = image.convert("LA").convert("PA") if mode == "PA" else image.convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "I": "TIFF"}.get(mode, "PNG")
    settings = {"quality": 100} if kind == "JPEG" else {}
    if mode == "PA":
        read = images.to_gray(image, "image")  # no format stores it
    else:
        read = read_gray(save(image, kind, **settings))
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.astype(int), levels, atol=2 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    "mode", ["La", "RGBa", "LAB", "HSV", "RGBX", "F", "I;16", "I;16B", "I;16L"]
)
def test_modes_that_only_memory_knows_are_gray_too(mode):
    if mode.startswith("I;16"):
        image = Image.frombytes(mode, (6, 8), bytes(96))
    else:
        image = Image.new(mode, (6, 8))
    gray = images.to_gray(image, "image")
    assert gray.shape == (8, 6)
    assert gray.dtype == np.uint8


def test_16_bit_is_stretched_from_its_own_range(save):
    deep = np.array([[1000, 1000 + 255 * 16], [1000 + 128 * 16, 1000 + 64 * 16]], np.uint16)
    for kind, name in (("PNG", "a.png"), ("TIFF", "a.tif")):
        np.testing.assert_array_equal(
            read_gray(save(Image.fromarray(deep), kind, name)), [[0, 255], [128, 64]]
        )
    constant = np.full((3, 4), 40_000, np.uint16)
    np.testing.assert_array_equal(read_gray(save(Image.fromarray(constant))), np.zeros((3, 4)))


def test_float_images_with_nan_and_infinity_are_read(save):
    values = np.array([[0.0, 1.0], [np.nan, np.inf]], np.float32)
    file = save(Image.fromarray(values), "TIFF", "image.tif")
    np.testing.assert_array_equal(read_gray(file), [[0, 255], [0, 255]])
    file = save(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF", "image.tif")
    np.testing.assert_array_equal(read_gray(file), np.zeros((2, 2)))


def test_transparency_lies_over_black(save):
    white = np.full((4, 4, 4), 255, np.uint8)
    white[:, :2, 3] = 0
    read = read_gray(save(Image.fromarray(white, "RGBA")))
    np.testing.assert_array_equal(read, np.repeat([[0, 0, 255, 255]], 4, axis=0))
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


def test_the_first_frame_of_several_is_taken(save):
    frames = [Image.fromarray(np.full((5, 6), level, np.uint8)) for level in (10, 200)]
    file = save(frames[0], "TIFF", "a.tif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_gray(file), np.full((5, 6), 10))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty-file", "0 bytes"),
        (b"\0" * 1000, "not-an-image", "not an image"),
        (b"patient,label\n1,0\n", "not-an-image", "not an image"),
        (encoded(noise(0))[:700], "truncated-image", "truncated"),
        (encoded(noise(0))[:-12], "truncated-image", "truncated"),
        (encoded(noise(0))[:-1], "truncated-image", "truncated"),
        (encoded(noise(0))[:10], "truncated-image", "cut off"),
        (encoded(noise(0), "JPEG")[:600], "truncated-image", "truncated"),
        (png(4, 4, b"\0\1"), "truncated-image", "truncated"),
        (png(50_000, 50_000), "oversized-image", "far too large"),
        (png(8_000, 7_000), "oversized-image", "8000 x 7000"),
        (png(4, 4, bytes(20)).replace(b"IDATx", b"IDATy"), "damaged-image", "checksum"),
    ],
    ids=[
        *("empty", "zeros", "text", "cut", "no-end", "no-last-byte", "cut-header", "cut-jpeg"),
        *("few-rows", "bomb", "large", "checksum"),
    ],
)
def test_a_file_that_is_no_image_is_named_with_the_reason(content, kind, message, save):
    file = save(content)
    with pytest.raises(ImageError, match=message) as caught:
        load_square(file, 8)
    assert str(caught.value).startswith(str(file))
    assert caught.value.kind == kind


def jpeg(marker: int, bits: int) -> bytes:
    """Return a real JPEG whose frame says that it is of another kind."""
    content = encoded(noise(0), "JPEG")
    frame = content.index(b"\xff\xc0\0\x0b\x08")
    header = content[frame : frame + 5]
    return content.replace(header, bytes([0xFF, marker, *header[2:4], bits]))


@pytest.mark.parametrize(
    ("marker", "bits", "named"),
    [
        (0xC0, 12, "a 12-bit JPEG"),
        (0xC1, 12, "a 12-bit JPEG"),
        (0xC2, 12, "a 12-bit JPEG"),
        (0xC3, 8, "a lossless JPEG of 8 bits"),  # found out by decoding it
        (0xC3, 16, "a lossless JPEG of 16 bits"),
        (0xF7, 8, "a JPEG-LS file"),
        (0xF7, 16, "a JPEG-LS file"),
    ],
)
def test_a_jpeg_of_another_kind_is_named_and_not_called_damaged(marker, bits, named, save):
    file = save(jpeg(marker, bits), name="image1.jpg")
    with pytest.raises(ImageError) as caught:
        read_gray(file)
    assert str(caught.value) == (
        f"{file}: {named}, which cannot be read here; save it as 8-bit or 16-bit gray PNG."
    )
    assert caught.value.kind == "not-an-image"


def test_other_damage_to_a_jpegs_frame_is_damage(save):
    with pytest.raises(ImageError, match="damaged or cut off within its header"):
        read_gray(save(jpeg(0xC0, 9)))
    with pytest.raises(ImageError, match="truncated") as caught:
        read_gray(save(jpeg(0xC0, 8)[:-100]))
    assert caught.value.kind == "truncated-image"


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
    monkeypatch.undo()

    def refuse(path, *args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.Path, "open", refuse)
    with pytest.raises(ImageError, match="Permission denied") as caught:
        read_gray(large)
    assert caught.value.kind == "unreadable-file"


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


def test_scaling_agrees_with_area_averages():
    random = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).resize((512, 512), 3)
    )
    averages = smooth.reshape(64, 8, 64, 8).mean(axis=(1, 3))
    assert np.abs(fit_square(smooth, 64).astype(float) - averages).max() < 4


def test_load_square_is_reading_and_fitting(save):
    file = save(noise(1, 300, 200))
    np.testing.assert_array_equal(load_square(file, 96), fit_square(read_gray(file), 96))
    assert load_square(save(noise(1, 1, 1)), 5).shape == (5, 5)
    assert load_square(save(noise(2, 20_000, 10)), 32).any(axis=1).all()
