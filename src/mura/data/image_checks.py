"""Check image files one by one, and all of them for copies of each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from mura.data.images import ImageError, decode_image, read_bytes, to_gray

# MURA's images: 8-bit, gray or gray encoded as RGB, the longer side at most 512 pixels; the
# smallest side seen is 89.
USUAL_MODES = ("L", "RGB")
LONGEST_SIDE = 512
SHORTEST_SIDE = 32
# Levels of gray between an image's 1st and 99th percentile. 150 public radiographs had 109 and
# more, 11,204 images of two phantoms 106. 12-bit values that are read as 16-bit ones have 16.
NARROWEST_RANGE = 32
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_EXIF_ORIENTATION = 0x0112
# A PNG's bits per channel and colour type (PNG specification, 11.2.1) for 16-bit colour, gray with
# alpha and colour with alpha, of which Pillow keeps the upper 8 bits.
_DEEP_CHANNELS = (b"\x10\x02", b"\x10\x04", b"\x10\x06")


class Finding(NamedTuple):
    """One thing that is wrong; ``kind`` is a key of ``audit.KINDS``."""

    kind: str
    path: str
    detail: str


@dataclass
class ImageFacts:
    """What reading one file showed."""

    path: str
    mode: str = ""
    width: int = 0
    height: int = 0
    bytes_digest: bytes = b""
    pixels_digest: bytes = b""
    findings: list[Finding] = field(default_factory=list)


def check_image(file: Path, path: str) -> ImageFacts:
    """Read and decode an image file once, and say what is unusual about it.

    Args:
        file: Where it lies.
        path: Its name in the findings.
    """
    facts = ImageFacts(path)
    try:
        content = read_bytes(file)
        facts.bytes_digest = hashlib.blake2b(content, digest_size=16).digest()
        image = decode_image(content, path)
        gray = to_gray(image, path)
        deep = image.format == "PNG" and content[24:26] in _DEEP_CHANNELS
        unusual = _unusual(image, gray, path, deep)
    except ImageError as error:
        detail = str(error).removeprefix(f"{file}: ").removeprefix(f"{path}: ")
        facts.findings.append(Finding(error.kind, path, detail))
        return facts
    facts.mode, (facts.width, facts.height) = image.mode, image.size
    shape = repr(gray.shape).encode()
    facts.pixels_digest = hashlib.blake2b(
        np.ascontiguousarray(gray), digest_size=16, key=shape
    ).digest()
    facts.findings += [Finding(kind, path, detail) for kind, detail in unusual]
    return facts


def find_copies(files: list[ImageFacts], manifest: pd.DataFrame) -> Iterator[Finding]:
    """Yield groups of images with the same bytes, and with the same pixels in other bytes.

    Args:
        files: What :func:`check_image` told.
        manifest: The columns path, split and label for them.
    """
    rows = manifest.drop_duplicates("path")
    about = dict(
        zip(rows["path"], zip(rows["split"], rows["label"].fillna(-1), strict=True), strict=True)
    )
    for kind, digest in (("byte", "bytes_digest"), ("pixel", "pixels_digest")):
        groups: dict[bytes, list[ImageFacts]] = {}
        for facts in files:
            if facts.pixels_digest:  # a damaged file is reported as such
                groups.setdefault(getattr(facts, digest), []).append(facts)
        for group in groups.values():
            same_bytes = len({facts.bytes_digest for facts in group}) == 1
            if len(group) < 2 or (kind == "pixel" and same_bytes):
                continue
            paths = [facts.path for facts in group]
            splits = len({about[path][0] for path in paths})
            labels = len({about[path][1] for path in paths} - {-1})  # -1: unknown
            detail = f"the same as {', '.join(paths[1:4])}"
            if len(paths) > 4:
                detail += f" and {len(paths) - 4} more"
            if splits > 1:
                yield Finding(f"{kind}-identical-across-splits", paths[0], detail)
            if labels > 1:
                yield Finding(f"{kind}-identical-with-different-labels", paths[0], detail)
            if splits <= 1 and labels <= 1:
                yield Finding(f"{kind}-identical", paths[0], detail)


def _unusual(
    image: Image.Image, gray: np.ndarray, path: str, bits_lost: bool
) -> list[tuple[str, str]]:
    try:
        return list(_look_at(image, gray, Path(path), bits_lost))
    except Exception as error:  # Pillow raises many kinds for odd metadata and later frames
        raise ImageError(f"{path}: its metadata cannot be read.", "damaged-image") from error


def _look_at(
    image: Image.Image, gray: np.ndarray, file: Path, bits_lost: bool
) -> Iterator[tuple[str, str]]:
    expected = _FORMATS.get(file.suffix.lower())
    if image.format != expected:
        yield "wrong-format", f"{image.format} content under the name {file.name}"
    if bits_lost:
        detail = "16 bits per channel, of which 8 are read; save it as 16-bit gray"
        yield "unusual-mode", detail
    elif image.mode not in USUAL_MODES:
        yield "unusual-mode", f"mode {image.mode}; expected 8-bit gray or RGB"
    if image.mode == "RGB":
        red, green, blue = (np.asarray(band) for band in image.split())
        if not (np.array_equal(red, green) and np.array_equal(green, blue)):
            yield "coloured-image", "its red, green and blue differ"
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or min(width, height) < SHORTEST_SIDE:
        yield (
            "unusual-size",
            f"{width} x {height} pixels; expected sides of {SHORTEST_SIDE} to {LONGEST_SIDE}",
        )
    if gray.min() == gray.max():
        yield "blank-image", f"every pixel is {gray[0, 0]}"
    elif (levels := _gray_range(gray)) < NARROWEST_RANGE:
        yield (
            "narrow-gray-range",
            f"its 1st and 99th percentile are {levels} of 255 levels apart, where "
            f"{NARROWEST_RANGE} and more are usual; save it so that its tissue fills the range",
        )
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation != 1:
        yield "turned-by-metadata", f"EXIF orientation {orientation}"
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        yield "several-frames", f"{frames} frames; the first is used"


def _gray_range(gray: np.ndarray) -> int:
    """Return how many levels the 1st and the 99th percentile of a uint8[H, W] are apart."""
    darker = np.cumsum(Image.fromarray(gray).histogram())
    low, high = np.searchsorted(darker, [0.01 * gray.size, 0.99 * gray.size])
    return int(high - low)
