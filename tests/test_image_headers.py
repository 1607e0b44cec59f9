"""What PNG and JPEG headers say, in whole files and in cut ones."""

import numpy as np
import pytest
from layout import encoded, noise
from test_images import chunk, jpeg, png

from mura.data.image_headers import loses_bits, png_chunks, unread_jpeg
from mura.data.images import decode_image


def deep_png(colour: int, depth: int = 16) -> bytes:
    """Return a PNG of a colour type: 100 x 90 pixels, in 16 bits of the highest 12-bit value."""
    pixel = b"\x0f\xff" * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    content = png(100, 90, 90 * (b"\0" + 100 * pixel[: len(pixel) * depth // 16]))
    old = content[12:29]
    new = old[:12] + bytes([depth, colour, 0, 0, 0])
    return content.replace(chunk(old[:4], old[4:]), chunk(new[:4], new[4:]))


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_of_several_channels_of_16_bits_pillow_keeps_8(colour):
    pixels = np.asarray(decode_image(deep_png(colour), "image"))
    np.testing.assert_array_equal(np.unique(pixels), [0x0F])
    assert loses_bits(deep_png(colour))
    assert not loses_bits(deep_png(colour, depth=8))


def test_gray_of_16_bits_and_other_files_lose_nothing():
    deep = np.full((4, 4), 4000, np.uint16)
    for content in (deep_png(0), encoded(deep), encoded(deep, "TIFF"), encoded(noise(0)), b""):
        assert not loses_bits(content)
    assert not loses_bits(deep_png(2)[:25])
    assert not loses_bits(b"\0" * 24 + b"\x10\x02")


def test_a_pngs_chunks_are_those_it_was_made_of():
    names = [name for name, _ in png_chunks(png(1, 1, bytes(2), between=chunk(b"tIME", bytes(7))))]
    assert names == [b"IHDR", b"tIME", b"IDAT", b"IEND"]
    with pytest.raises(ValueError, match="no PNG"):
        list(png_chunks(b"no"))


def test_a_jpegs_kind_is_read_behind_whatever_stands_before_its_frame():
    assert unread_jpeg(encoded(noise(0), "JPEG")) is None
    assert unread_jpeg(encoded(noise(0), "JPEG", progressive=True)) is None
    content = jpeg(0xC1, 12)
    comment = b"\xff\xfe\0\x08\xff\xf7\0\x0b\x10\0"  # which holds what looks like a frame
    assert unread_jpeg(content[:2] + comment + content[2:]) == "a 12-bit JPEG"


@pytest.mark.parametrize("content", [jpeg(0xC1, 12), encoded(noise(0)), b"\xff\xd8\xff", b""])
def test_cut_anywhere_no_file_is_taken_for_what_it_is_not(content):
    for end in range(len(content)):
        assert unread_jpeg(content[:end]) in (None, "a 12-bit JPEG")
