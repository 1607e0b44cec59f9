"""Deep gray becomes 8-bit gray as one formula says, without copies of the whole image."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from mura.data import deep_images
from mura.data.deep_images import to_8_bit

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=20)
AT_ONCE = st.sampled_from([1, 7, 2**18])


def by_copies(values: np.ndarray) -> np.ndarray:
    """The gray of deep values, by float64 copies of them all."""
    integers = values.dtype == np.int32
    with np.errstate(invalid="ignore"):
        values = values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if integers and low >= 0 and high <= 255:
        return values.astype(np.uint8)
    return np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)


def in_pieces(image: Image.Image, at_once: int) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep_images, "_AT_ONCE", at_once)
        found = to_8_bit(image)
    assert found.dtype == np.uint8
    return found


@given(
    values=st.sampled_from([1, 255, 256, 2**12 - 1, 2**16 - 1]).flatmap(
        lambda highest: arrays(np.uint16, SHAPES, elements=st.integers(0, highest))
    ),
    mode=st.sampled_from(["I;16", "I;16L", "I;16B"]),
    at_once=AT_ONCE,
)
def test_16_bit_is_looked_up_as_it_would_be_computed(values, mode, at_once):
    stored = values.astype(">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, values.shape[::-1], stored.tobytes())
    np.testing.assert_array_equal(in_pieces(image, at_once), by_copies(values))


@given(
    values=arrays(np.float32, SHAPES)
    | st.sampled_from([255, 256, 2**31 - 1]).flatmap(
        lambda highest: arrays(np.int32, SHAPES, elements=st.integers(0, highest))
    )
    | arrays(np.int32, SHAPES),
    at_once=AT_ONCE,
)
def test_32_bit_is_computed_in_pieces_as_it_would_be_at_once(values, at_once):
    image = Image.fromarray(values)
    assert image.mode in ("F", "I")
    np.testing.assert_array_equal(in_pieces(image, at_once), by_copies(values))


def test_signalling_nans_are_no_warning():
    values = np.array([[0x7F800001, 0x3F800000, 0]], np.uint32).view(np.float32)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(to_8_bit(Image.fromarray(values)), [[0, 255, 0]])


@pytest.mark.parametrize(
    ("dtype", "highest"), [("uint16", 2**12), ("uint16", 2**16), ("int32", 2**20), ("float32", 9)]
)
def test_large_images_are_worked_through_piece_by_piece(dtype, highest):
    values = (np.random.default_rng(0).random((701, 900)) * (highest - 7) + 7).astype(dtype)
    assert values.size > 2 * deep_images._AT_ONCE and values.size % deep_images._AT_ONCE
    np.testing.assert_array_equal(to_8_bit(Image.fromarray(values)), by_copies(values))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_it_takes_a_byte_per_pixel_beside_the_image_and_not_many(dtype, monkeypatch):
    monkeypatch.setattr(deep_images, "_AT_ONCE", 2**12)
    values = np.random.default_rng(0).integers(0, 4096, (1500, 1000)).astype(dtype)
    image = Image.fromarray(values)
    tracemalloc.start()
    try:
        to_8_bit(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Pillow hands the pixels over in parts and then as one: twice. A float64 copy has 8 bytes each.
    assert peak < 2 * values.nbytes + 4 * values.size
