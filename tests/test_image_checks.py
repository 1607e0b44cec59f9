"""What the audit says about the gray levels of one image file."""

import numpy as np
import pytest
from layout import encoded, noise
from test_images import LEVELS, png, tiff

from mura.data.image_checks import MOST_BLACK, MOST_WHITE, NARROWEST_RANGE, check_image


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


def test_one_hot_pixel_of_a_12_bit_image_changes_nothing(kinds):
    deep = noise(0, 100, 90).astype(np.uint16) * 16
    assert list(kinds(deep)) == ["unusual-mode"]
    deep[3, 4] = 65_535
    assert list(kinds(deep)) == ["unusual-mode"]


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_channels_of_16_bits_are_found(kinds, colour):
    for depth in (16, 8):
        rows = 90 * (b"\0" + 100 * bytes({2: 3, 4: 2, 6: 4}[colour] * depth // 8))
        mode = kinds(png(100, 90, rows, depth, colour)).get("unusual-mode", "")
        assert ("save it as 16-bit gray" in mode) == (depth == 16)
        assert (mode != "") == (depth == 16 or colour != 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_files_in_which_white_is_zero_are_counted(kinds, dtype):
    for photometric in (0, 1, None):
        found = kinds(tiff(LEVELS.astype(dtype), photometric))
        assert ("white-is-zero" in found) == (photometric == 0)


def test_images_that_are_plain_white_or_black_in_most_places_are_found(kinds):
    for level, most in ((255, MOST_WHITE), (0, MOST_BLACK)):
        pixels = noise(0, 100, 100).clip(1, 254)
        pixels[: round(100 * most) - 1] = level
        assert kinds(pixels) == {}
        pixels[: round(100 * most)] = level
        assert list(kinds(pixels)) == ["clipped-image"]
