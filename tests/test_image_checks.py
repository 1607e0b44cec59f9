"""What the audit says about the gray levels of one image file."""

import numpy as np
import pytest
from layout import encoded, noise
from test_images import png

from mura.data.image_checks import NARROWEST_RANGE, check_image


@pytest.fixture
def kinds(tmp_path):
    """Write bytes, or an image as PNG, and return what is found in it."""

    def look(content):
        file = tmp_path / "image1.png"
        file.write_bytes(content if isinstance(content, bytes) else encoded(content))
        return {issue.kind: issue.detail for issue in check_image(file, file.name).issues}

    return look


def spread(levels: int) -> np.ndarray:
    """Half of the pixels at 40, half of them so many levels above."""
    gray = np.full((100, 90), 40, np.uint8)
    gray[50:] += levels
    return gray


def test_a_narrow_range_of_gray_is_found_below_its_limit(kinds):
    assert kinds(spread(NARROWEST_RANGE)) == {}
    gray = spread(NARROWEST_RANGE - 1)
    gray[:1, :40], gray[-1:, :40] = 0, 255  # 0.4 % each: too few to widen the range
    narrow = kinds(gray)
    assert list(narrow) == ["narrow-gray-range"]
    assert f"{NARROWEST_RANGE - 1} of 255 levels apart" in narrow["narrow-gray-range"]
    gray[:2], gray[-2:] = 0, 255  # 2 % each
    assert kinds(gray) == {}


def test_one_hot_pixel_of_a_12_bit_image_is_found(kinds):
    deep = noise(0, 100, 90).astype(np.uint16) * 16
    assert list(kinds(deep)) == ["unusual-mode"]
    deep[3, 4] = 65_535
    assert list(kinds(deep)) == ["unusual-mode", "narrow-gray-range"]


def deep_png(colour, depth=16):
    """100 x 90 pixels of one colour type, in 16 bits of the highest 12-bit value."""
    pixel = b"\x0f\xff" * {2: 3, 4: 2, 6: 4}[colour]
    return png(100, 90, 90 * (b"\0" + 100 * pixel[: len(pixel) * depth // 16]), depth, colour)


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_channels_of_16_bits_are_found(kinds, colour):
    assert kinds(deep_png(colour))["unusual-mode"] == (
        "16 bits per channel, of which 8 are read; save it as 16-bit gray"
    )
    eight = kinds(deep_png(colour, depth=8))
    assert "16 bits" not in eight.get("unusual-mode", "")
    assert ("unusual-mode" in eight) == (colour != 2)
