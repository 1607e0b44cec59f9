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

from mura.data.images import ImageError, decode_image, read_bytes, to_gray, white_is_zero

# MURA's images: 8-bit, gray or gray encoded as RGB, the longer side at most 512 pixels; the
# smallest side seen is 89.
USUAL_MODES = ("L", "RGB")
LONGEST_SIDE = 512
SHORTEST_SIDE = 32
# Levels of gray between an image's 1st and 99th percentile. 150 public radiographs had 109 and
# more, 11,204 images of two phantoms 106.
NARROWEST_RANGE = 32
# Shares of an image at 255 and at 0. 300 public radiographs had at most 0.03 and 0.69, 300 images
# of the phantom 0.25 and 0.65.
MOST_WHITE, MOST_BLACK = 0.5, 0.9
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_EXIF_ORIENTATION = 0x0112
# What the audit finds in an image and a reader of its answer should know, too.
NOTED = ("coloured-image", "several-frames", "narrow-gray-range", "clipped-image")


class Issue(NamedTuple):
    """One thing that is wrong; ``kind`` is a key of ``audit.KINDS``."""

    kind: str
    path: str
    detail: str


@dataclass
class ImageFacts:
    """What reading one file showed; empty digests where it could not be decoded."""

    path: str
    mode: str = ""
    longer_side: int = 0
    bytes_digest: bytes = b""
    pixels_digest: bytes = b""
    issues: list[Issue] = field(default_factory=list)


def look_at(file: Path, path: str) -> tuple[bytes, Image.Image, np.ndarray, list[Issue]]:
    """Read and decode a file once, and say what is unusual; ``path`` names it in the issues.

    Returns:
        The file's content, its image as ``decode_image`` returns it, its gray uint8[H, W] as
        ``read_gray`` returns it, and the issues.

    Raises:
        ImageError: The file cannot be read as an image, or its metadata cannot.
    """
    content = read_bytes(file)
    image = decode_image(content, path)
    gray = to_gray(image, path)
    try:
        issues = [Issue(kind, path, detail) for kind, detail in _issues(image, gray, path)]
    except Exception as error:  # Pillow raises many kinds for odd metadata and later frames
        message = f"{path}: its metadata cannot be read; save it as 8-bit gray PNG."
        raise ImageError(message, "damaged-image") from error
    return content, image, gray, issues


def read_noted(file: str | Path) -> tuple[np.ndarray, str]:
    """Return a radiograph's gray uint8[H, W], and what an answer about it should mention.

    Raises:
        ImageError: It cannot be read, or it is blank, about which there is no answer.
    """
    _, _, gray, issues = look_at(Path(file), str(file))
    found = {issue.kind: issue.detail for issue in issues}
    if "blank-image" in found:
        raise ImageError(f"{file}: blank ({found['blank-image']}): no answer.", "blank-image")
    return gray, "; ".join(found[kind] for kind in NOTED if kind in found)


def check_image(file: Path, path: str) -> ImageFacts:
    """Return what ``look_at`` sees in a file; an unreadable one is an issue, too."""
    try:
        content, image, gray, issues = look_at(file, path)
    except ImageError as error:
        detail = str(error).removeprefix(f"{file}: ").removeprefix(f"{path}: ")
        return ImageFacts(path, issues=[Issue(error.kind, path, detail)])
    digests = digest(content), digest(gray, gray.shape)
    return ImageFacts(path, image.mode, max(image.size), *digests, issues)


def find_copies(files: list[ImageFacts], images: pd.DataFrame) -> Iterator[Issue]:
    """Yield groups of images with the same bytes, and with the same pixels in other bytes."""
    decoded = [(one.path, one.bytes_digest, one.pixels_digest) for one in files if one.mode]
    table = pd.DataFrame(decoded, columns=["path", "byte", "pixel"], dtype=object)
    table = table.astype({"path": "str"}).merge(images[["path", "split", "label"]], on="path")
    for kind in ("byte", "pixel"):
        copies = table[table.duplicated(kind, keep=False)]
        for _, group in copies.groupby(kind, sort=False):
            if kind == "pixel" and group["byte"].nunique() == 1:
                continue
            first, *others = group["path"]
            detail = f"the same as {', '.join(others[:3])}"
            detail += f" and {len(others) - 3} more" if len(others) > 3 else ""
            ends = ["-across-splits"] if group["split"].nunique() > 1 else []
            ends += ["-with-different-labels"] if group["label"].nunique() > 1 else []
            for end in ends or [""]:
                yield Issue(f"{kind}-identical{end}", first, detail)


def _issues(image: Image.Image, gray: np.ndarray, path: str) -> Iterator[tuple[str, str]]:
    # DICOM is named in any way: IM0001, 1.2.840.10008
    if image.format != _FORMATS.get(Path(path).suffix.lower(), "DICOM"):
        yield "wrong-format", f"{image.format} content under the name {Path(path).name}"
    if image.mode not in USUAL_MODES:
        yield "unusual-mode", f"mode {image.mode}; expected 8-bit gray or RGB"
    if white_is_zero(image):
        yield "white-is-zero", "a TIFF that says WhiteIsZero; read inverted, so that bone is white"
    if image.mode in ("RGB", "RGBA", "P"):
        channels = np.asarray(image.convert("RGB"))
        if (channels != channels[..., :1]).any():
            yield "coloured-image", "its red, green and blue differ"
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or min(width, height) < SHORTEST_SIDE:
        expected = f"expected sides of {SHORTEST_SIDE} to {LONGEST_SIDE}"
        yield "unusual-size", f"{width} x {height} pixels; {expected}"
    histogram = np.array(Image.fromarray(gray).histogram())
    low, high = np.searchsorted(histogram.cumsum(), [0.01 * gray.size, 0.99 * gray.size])
    black, white = histogram[[0, 255]] / gray.size
    if gray.min() == gray.max():
        yield "blank-image", f"every pixel is {gray[0, 0]}"
    elif high - low < NARROWEST_RANGE:
        nearly = "black" if high < 64 else "white" if low > 191 else "one gray"
        apart = f"its 1st and 99th percentile are {high - low} of 255 levels apart"
        todo = f"{NARROWEST_RANGE} and more are usual; save it so that its tissue fills the range"
        yield "narrow-gray-range", f"nearly {nearly}: {apart}, where {todo}"
    elif white >= MOST_WHITE or black >= MOST_BLACK:
        share, level = max((white, "white"), (black, "black"))
        yield "clipped-image", f"{share:.0%} of its pixels are plain {level}"
    if (orientation := image.getexif().get(_EXIF_ORIENTATION, 1)) != 1:
        yield "turned-by-metadata", f"EXIF orientation {orientation}"
    if (frames := getattr(image, "n_frames", 1)) > 1:
        yield "several-frames", f"{frames} frames; the first is used"


def digest(content: bytes | np.ndarray, shape: tuple[int, ...] = ()) -> bytes:
    """Return 16 bytes that tell one content, or the pixels of one shape, from another."""
    return hashlib.blake2b(content, digest_size=16, key=repr(shape).encode()).digest()
