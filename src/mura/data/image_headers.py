"""Read what the headers of PNG and JPEG files say and Pillow does not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

# Where a PNG's header has its bits per channel and its colour type (PNG specification, 11.2.1),
# and those of 16-bit colour, gray with alpha and colour with alpha.
_DEPTH_AND_COLOUR = slice(24, 26)
_DEEP_CHANNELS = (b"\x10\x02", b"\x10\x04", b"\x10\x06")

# The second byte of a JPEG's markers (ISO 10918-1, table B.1; JPEG-LS: ISO 14495-1).
_JPEG_LS, _SCAN = 0xF7, 0xDA
_FRAMES = {*range(0xC0, 0xD0), _JPEG_LS} - {0xC4, 0xC8, 0xCC}  # tables and an extension
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)


def png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the chunks of a PNG up to its end: name and body.

    Raises ValueError where it is no PNG, is cut off, or a critical chunk's checksum is wrong.
    """
    if not content.startswith(PNG):
        raise ValueError("no PNG")
    view, start, name = memoryview(content), len(PNG), b""
    while name != b"IEND":
        if start + 12 > len(content):
            raise ValueError("image file is truncated: its end is missing")
        length = int.from_bytes(view[start : start + 4], "big")
        name = content[start + 4 : start + 8]
        end = start + 8 + length
        checksum = int.from_bytes(view[end : end + 4], "big")
        # an upper-case first letter marks the chunks that an image cannot do without
        if name[:1].isupper() and zlib.crc32(view[start + 4 : end]) != checksum:
            cut = end + 4 > len(content)
            raise ValueError("image file is truncated" if cut else "a checksum is wrong")
        yield name, view[start + 8 : end]
        start = end + 4


def loses_bits(content: bytes) -> bool:
    """Whether it is a PNG of several channels of 16 bits, of which Pillow keeps the upper 8."""
    return content.startswith(PNG) and content[_DEPTH_AND_COLOUR] in _DEEP_CHANNELS


def unread_jpeg(content: bytes) -> str | None:
    """Name the kind of a JPEG that may be sound and that Pillow 12 does not decode; else None.

    Ordinary in DICOM exports: 12 bits, JPEG-LS, and lossless (which it decodes up to 8 bits).
    """
    marker, bits = _jpeg_frame(content) or (None, 8)
    if marker == _JPEG_LS:
        return "a JPEG-LS file"
    if marker in _LOSSLESS:
        return f"a lossless JPEG of {bits} bits"
    return "a 12-bit JPEG" if bits == 12 else None


def _jpeg_frame(content: bytes) -> tuple[int, int] | None:
    """Return a JPEG's frame marker and its bits per sample; None where there is none."""
    start = 2  # of a marker: 0xFF, which it is, and for all that may come here a length
    while content.startswith(JPEG) and content[start : start + 1] == b"\xff":
        marker, length = content[start + 1 : start + 2], content[start + 2 : start + 4]
        bits = content[start + 4 : start + 5]
        if not bits or marker[0] == _SCAN:
            return None
        if marker[0] in _FRAMES:
            return marker[0], bits[0]
        start += 2 + int.from_bytes(length, "big")
    return None
