"""Decode a DICOM file to 8 bits, in the grays that its header asks for.

``images`` imports this module where it meets a DICOM file, because pydicom takes a while.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, pixel_array

from mura.data import gray
from mura.data.gray import ImageError

# pydicom and its codecs warn of odd headers and quote them, names included. For the whole process,
# because another thread would undo a filter set around each image.
for _package in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle"):
    warnings.filterwarnings("ignore", module=rf"{_package}\b")
    logging.getLogger(_package).setLevel(logging.CRITICAL)

_PIXEL_DATA = b"\xe0\x7f\x10\0"  # the tag, in little-endian order

# Where a JPEG or JPEG-LS says its size (ISO 10918-1, B.1.1.3; ISO 14495-1, C.1.1)
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def read_dicom(content: bytes, name: str | Path) -> tuple[np.ndarray, int]:
    """Decode the first frame of a DICOM file, and count its frames.

    Gray goes through the modality LUT or rescale, then the first VOI LUT or window, whose output
    range becomes 0-255 (DICOM PS3.3, C.11.1 and C.11.2). Without one, 8-bit gray stays as it is,
    and deeper gray is stretched as in other files. MONOCHROME1 is inverted, padding is black.

    Returns:
        uint8[H, W], or uint8[H, W, 3] of red, green and blue; and the number of frames.

    Raises:
        ImageError: It has no pixels, is truncated, damaged or compressed in an unknown way, has
            colour of more than 8 bits, or more than ``MAX_PIXELS``. Its message quotes no header.
    """
    try:
        header = _read(content, name)
        _check(header, name)
        frames = int(header.get("NumberOfFrames") or 1)
        with np.errstate(all="ignore"):  # of absurd windows and slopes
            return _decode(header), frames
    except ImageError:
        raise
    except NotImplementedError:
        message = f"{name}: DICOM in a compression that is not read; export it uncompressed."
        raise ImageError(message, "unusual-mode") from None
    except Exception as error:  # pydicom and the codecs raise many kinds, and quote the header
        cut = isinstance(error, EOFError) or "less than expected" in str(error)
        kind, what = ("truncated-image", "cut off") if cut else ("damaged-image", "damaged")
        message = f"{name}: DICOM that cannot be decoded, it is {what}; {gray.RESTORE}"
        raise ImageError(message, kind) from None


def _read(content: bytes, name: str | Path) -> Dataset:
    if uid.DeflatedExplicitVRLittleEndian.encode() in content[:2048]:
        start = 144 + int.from_bytes(content[140:144], "little")  # behind the header's first group
        inflate = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        if len(inflate(content[start:], gray.MAX_BYTES)) == gray.MAX_BYTES:
            raise gray.too_large(name, f"more than {gray.MAX_BYTES:,} bytes of")
    try:
        header = pydicom.dcmread(io.BytesIO(content), force=True)
    except Exception:
        if content[128:132] == b"DICM":
            raise
        header = Dataset()
    if "PixelData" not in header:
        if _PIXEL_DATA in content:
            raise EOFError  # a compressed stream without its end, which pydicom leaves out
        what = "no image in this file: it is a report or a directory, cut off, or no DICOM"
        raise ImageError(f"{name}: {what}; leave it out.")
    header.file_meta = getattr(header, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in header.file_meta:
        implicit, little = header.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (header.get(groups) or [])[:1]:  # of the first frame
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(macro) or [])[:1]:
                    header.update(item)
    return header


def _check(header: Dataset, name: str | Path) -> None:
    """Refuse too many pixels, or deep colour, before anything is decoded."""
    sides = [(header.Rows, header.Columns)]
    if header.file_meta.TransferSyntaxUID.is_encapsulated:
        frame = get_frame(header.PixelData, 0, number_of_frames=header.get("NumberOfFrames") or 1)
        sides.append(_stream_sides(frame))
    for height, width in sides:
        if height * width > gray.MAX_PIXELS:
            raise gray.too_large(name, f"{width} x {height}")
    if header.get("SamplesPerPixel", 1) > 1 and header.BitsAllocated > 8:
        raise gray.deep_colour(name)


def _stream_sides(frame: bytes) -> tuple[int, int]:
    """Return the rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream says it has, or 0."""
    if frame.startswith(gray.SIZ):  # ISO 15444-1, A.5.1
        return int.from_bytes(frame[12:16]), int.from_bytes(frame[8:12])
    at = 2
    while frame.startswith(b"\xff\xd8") and frame[at : at + 1] == b"\xff":
        length, rows, columns = (int.from_bytes(frame[at + i : at + i + 2]) for i in (2, 5, 7))
        if frame[at + 1] in _FRAME_HEADERS:
            return rows, columns
        at += 2 + length
    return 0, 0


def _decode(header: Dataset) -> np.ndarray:
    # Before 2014 the stored bits could lie higher; pydicom takes them for the lowest.
    shift = max(0, header.get("HighBit", 0) + 1 - header.BitsStored)
    header.BitsStored += shift
    # pylibjpeg's decoder of RLE panics on a damaged stream, which is no Exception.
    plugin = "pydicom" if header.file_meta.TransferSyntaxUID == uid.RLELossless else ""
    stored = pixel_array(header, index=0, decoding_plugin=plugin) >> shift
    header.BitsStored -= shift
    if header.PhotometricInterpretation == "PALETTE COLOR":
        entries, first, _ = header.RedPaletteColorLookupTableDescriptor
        stored = stored.astype(np.int32).clip(first, first + (entries or 2**16) - 1)
        stored = apply_color_lut(stored, header)[..., :3]
        stored = (stored >> 8 if stored.max() > 255 else stored).astype(np.uint8)
    if stored.ndim == 2:
        return _gray(header, stored)
    if stored.shape[2] != 3:
        raise ValueError("neither gray nor colour")
    return stored


def _gray(header: Dataset, stored: np.ndarray) -> np.ndarray:
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    padding = np.zeros(stored.shape, bool)
    if (value := header.get("PixelPaddingValue")) is not None:
        limit = header.get("PixelPaddingRangeLimit")
        low, high = sorted((value, value if limit is None else limit))
        padding = (stored >= low) & (stored <= high)
    values, plain = stored.astype(np.float64), header.BitsStored == 8
    if modality := header.get("ModalityLUTSequence"):
        values, plain = _look_up(values, modality[0], header)[0], False
    else:
        slope = float(header.get("RescaleSlope") or 1)
        intercept = float(header.get("RescaleIntercept") or 0)
        values, plain = values * slope + intercept, plain and (slope, intercept) == (1, 0)
    center, width = (np.ravel(header.get(key))[0] for key in ("WindowCenter", "WindowWidth"))
    if voi := header.get("VOILUTSequence"):
        values, highest = _look_up(values, voi[0], header)
        shown = values / highest
    elif center is not None and width is not None and width > 0:
        function = header.get("VOILUTFunction") or "LINEAR"
        shown = _window(values, float(center), float(width), function)
    elif plain and header.PixelRepresentation == 0:
        shown = values / 255
    else:
        values[padding] = np.nan
        return gray.stretch(values, inverted)
    shown = 1 - shown if inverted else shown
    shown[padding] = 0
    return np.rint(255 * shown.clip(0, 1)).astype(np.uint8)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Map a window to 0-1 (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":  # by tanh, which does not overflow
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, max(width - 1, 0)
    if width == 0:
        return (values > center).astype(np.float64)
    return ((values - center) / width + 0.5).clip(0, 1)


def _look_up(values: np.ndarray, item: Dataset, header: Dataset) -> tuple[np.ndarray, int]:
    """Return a LUT's outputs float64[H, W] and the highest possible (DICOM PS3.3, C.11.1.1)."""
    entries, first, bits = item.LUTDescriptor
    entries = entries % 2**16 or 2**16  # also where it was read as a signed number
    if first >= 2**15 and values.min() < 0:
        first -= 2**16
    table = item.LUTData
    if isinstance(table, bytes):
        order = "<" if header.original_encoding[1] else ">"
        word = f"{order}u{1 if len(table) <= entries + 1 else 2}"
        table = np.frombuffer(table, word)
    table = np.atleast_1d(np.asarray(table, np.float64))[:entries]
    return table[(values - first).clip(0, len(table) - 1).astype(np.intp)], 2**bits - 1
