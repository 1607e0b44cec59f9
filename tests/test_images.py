"""Any image file becomes 8-bit gray in a square, or an error that names it."""

import struct
import zlib

import numpy as np
import pytest
from layout import dicom, encoded, noise
from PIL import Image

from mura.data import gray
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


def tiff(values, photometric=1, order="<", compressed=False, bits=None) -> bytes:
    """Return a TIFF of an array; ``bits`` below 8 are packed, no photometric writes no tag."""
    height, width = values.shape[:2]
    kind, bits = values.dtype.kind, bits or 8 * values.itemsize
    if bits < 8:
        split = np.unpackbits(values[..., None], axis=-1)[..., -bits:]
        values = np.packbits(split.reshape(height, -1), axis=-1)
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    content = zlib.compress(content) if compressed else content
    samples = values.shape[2] if values.ndim == 3 else 1
    tags = {256: width, 257: height, 258: bits, 259: 8 if compressed else 1, 262: photometric}
    tags |= {273: 0, 277: samples, 278: height, 279: len(content), 339: "uif".index(kind) + 1}
    tags = {tag: value for tag, value in tags.items() if value is not None}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    count = struct.pack(f"{order}H", len(tags))
    return header + count + b"".join(entries) + bytes(4) + content


LEVELS = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (24, 1))  # 16 of them


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("depth", ["1", "2", "4", "u1", "u2", "i2", "u4", "i4", "f4"])
def test_a_tiff_may_say_at_every_depth_that_white_is_zero(depth, order, compressed, save):
    if depth.isdigit():
        bits, dtype = int(depth), np.dtype(np.uint8)
        values = LEVELS >> (8 - bits)
        expected = (values * (255 // (2**bits - 1))).astype(np.uint8)
        highest = 2**bits - 1
    else:
        bits, dtype, expected = None, np.dtype(depth), LEVELS
        highest = {"u1": 255, "i2": 25_500, "u2": 51_000, "f4": 0.1}.get(depth, 255 * 2**22)
        highest = 255 * 2**24 if depth == "u4" else highest  # beyond what 31 bits hold
        values = (LEVELS * (highest / 255)).astype(dtype)
    for photometric, stored in ((1, values), (0, (highest - values).astype(dtype))):
        content = tiff(stored, photometric, order, compressed, bits)
        np.testing.assert_array_equal(read_gray(save(content)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_that_says_nothing_of_white_is_read_as_it_is(dtype, save):
    content = tiff(LEVELS.astype(dtype), None)
    np.testing.assert_array_equal(read_gray(save(content)), LEVELS)


def test_not_a_number_and_negative_infinity_are_black_where_white_is_zero(save):
    values = LEVELS.astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    read = read_gray(save(tiff(values, photometric=0)))
    np.testing.assert_array_equal(read[0, :3], [0, 0, 255])
    np.testing.assert_array_equal(read[1:], 255 - LEVELS[1:])


@pytest.mark.parametrize("marker", ["bright", "dark"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_marker_does_not_narrow_the_range_of_the_rest(dtype, marker, save):
    picture = noise(0, 200, 160).astype(dtype) * 16 + 8000
    clean = read_gray(save(tiff(picture))).astype(int)
    picture[5:15, 5:20] = 60_000 if marker == "bright" else 0  # 0.47 % of the pixels
    marked = read_gray(save(tiff(picture))).astype(int)
    assert set(marked[5:15, 5:20].ravel()) == {255 if marker == "bright" else 0}
    assert np.abs(marked - clean)[20:].max() <= 2


def test_a_few_pixels_on_an_even_ground_stay_visible(save):
    values = np.full((40, 40), 300, np.uint16)
    values[7, 7] = 400
    read = read_gray(save(values))
    assert read[7, 7] == 255 and read.sum() == 255


def deep_jpeg2000() -> bytes:
    """The header of colour of 16 bits before the content of 8 bits."""
    content = bytearray(encoded(np.dstack([noise(0)] * 3), "JPEG2000", no_jp2=True))
    content[42:51:3] = b"\x0f" * 3
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        *(png(4, 4, bytes(4 * (1 + 8 * n)), 16, kind) for kind, n in ((2, 3), (4, 2), (6, 4))),
        *(tiff(np.zeros((4, 4, n), np.uint16), photo) for photo, n in ((2, 3), (5, 4))),
        tiff(np.zeros((4, 4, 3), np.uint16), 2, ">", compressed=True),
        b"P6 4 4 4095\n" + bytes(96),
        b"P3 1 1 65535\n1 2 3\n",
        deep_jpeg2000(),
    ],
    ids=["png", "png-la", "png-rgba", "tiff", "tiff-cmyk", "tiff-be", "ppm", "plain-ppm", "jp2"],
)
def test_deep_colour_is_refused_and_not_cut_to_8_bits(content, save):
    with pytest.raises(ImageError, match=r"8 bits per channel.*save it as 16-bit gray") as caught:
        read_gray(save(content))
    assert caught.value.kind == "unusual-mode"


def test_unknown_content_is_told_the_formats_that_are_taken(save):
    with pytest.raises(ImageError, match="expected ") as caught:
        read_gray(save(b"a text"))
    *names, last = str(caught.value).rstrip(".").partition("expected ")[2].split(", ")
    assert last == "DICOM"
    np.testing.assert_array_equal(read_gray(save(dicom(LEVELS))), LEVELS)
    for name in names:
        np.testing.assert_array_equal(read_gray(save(np.zeros((9, 9), np.uint8), name)), 0)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_a_tiff_of_an_unknown_kind_is_not_told_that_tiff_is_taken(dtype, save):
    with pytest.raises(ImageError, match="of a kind that is not read") as caught:
        read_gray(save(tiff(LEVELS.astype(dtype))))
    assert "expected" not in str(caught.value) and caught.value.kind == "not-an-image"


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
def test_deep_gray_is_stretched_to_8_bits(values, dtype, expected, save):
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
    monkeypatch.setattr(gray, "MAX_BYTES", 99)
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
