"""DICOM is read in its own grays, whatever a scanner wrote, and tells nobody's name."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from layout import dicom, encoded, noise
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from mura.data import gray, image_checks, images
from mura.data.images import ImageError, read_gray
from mura.explain.examples import open_case

EIGHT = noise(5, 20, 16)
TWELVE = EIGHT.astype(np.uint16) * 16 + noise(6, 20, 16) // 16
SIGNED = TWELVE.astype(np.int16) - 1000
COLOUR = np.dstack([noise(seed, 20, 16) // 2 + 60 for seed in (1, 2, 3)])
LUMA = COLOUR @ (0.299, 0.587, 0.114)
YBR = COLOUR @ np.transpose(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
) + [0, 128, 128]
WINDOW = {"WindowCenter": 1800, "WindowWidth": 1500}
CURVE = np.rint(np.linspace(0, 1, 4096) ** 2 * 1023).astype(np.uint16)  # 10 bits
ROOTS = np.rint(np.linspace(0, 1, 256) ** 0.5 * 255).astype(np.uint8)
PALETTE = [noise(seed, 1, 256)[0] for seed in (7, 8, 9)]


def shown(values, center=1800, width=1500):
    """The window of DICOM PS3.3, C.11.2.1.2.1, by its own words."""
    below = values <= center - 0.5 - (width - 1) / 2
    above = values > center - 0.5 + (width - 1) / 2
    between = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.where(below, 0, np.where(above, 255, between))


def stretched(values):
    low, high = np.percentile(values, (0.5, 99.5), method="nearest")
    return (values.clip(low, high) - low) * (255 / (high - low))


def lut(table, first=0, bits=None, kind="OW"):
    item = Dataset()
    item.add_new(0x00283002, "US", [len(table) % 2**16, first, bits or 8 * table.itemsize])
    item.add_new(0x00283006, kind, table.tobytes() if kind == "OW" else table.tolist())
    return [item]


def palette(entries, bits=8):
    colours = dict(zip(("Red", "Green", "Blue"), entries, strict=True))
    one = "{}PaletteColorLookupTable"
    header = {one.format(name) + "Data": table.tobytes() for name, table in colours.items()}
    return header | {one.format(name) + "Descriptor": [256, 0, bits] for name in colours}


def functional_groups(**window):
    macro, group = Dataset(), Dataset()
    macro.update(window)
    group.FrameVOILUTSequence = [macro]
    return [group]


def padded(values, *fills):
    """Put a row of each value above an image."""
    return np.vstack([*(np.full_like(values[:1], fill) for fill in fills), values])


CASES = {
    "8-bit": (EIGHT, {}, EIGHT),
    "8-bit-inverted": (EIGHT, {"photometric": "MONOCHROME1"}, 255 - EIGHT),
    "8-bit-no-rescale": (EIGHT, {"RescaleSlope": 1, "RescaleIntercept": 0}, EIGHT),
    "8-bit-in-16": (EIGHT.astype(np.uint16), {"BitsStored": 8}, EIGHT),
    "8-bit-signed": ((EIGHT // 2).astype(np.int8), {}, stretched(EIGHT // 2)),
    "10-bit": (TWELVE // 4, {"BitsStored": 10}, stretched(TWELVE // 4)),
    "12-bit": (TWELVE, {"BitsStored": 12}, stretched(TWELVE)),
    "12-bit-over-rubbish": (TWELVE | 0xA000, {"BitsStored": 12} | WINDOW, shown(TWELVE)),
    "12-bit-signed": (
        SIGNED.clip(-1000, 2000) & 0xFFF,
        {"BitsStored": 12, "PixelRepresentation": 1},
        stretched(SIGNED.clip(-1000, 2000)),
    ),
    "12-bit-on-top": (TWELVE << 4, {"BitsStored": 12, "HighBit": 15} | WINDOW, shown(TWELVE)),
    "16-bit": (TWELVE * 15, {}, stretched(TWELVE * 15)),
    "16-bit-signed": (SIGNED, {"WindowCenter": 800, "WindowWidth": 1500}, shown(TWELVE)),
    "window": (TWELVE, WINDOW, shown(TWELVE)),
    "window-inverted": (TWELVE, {"photometric": "MONOCHROME1"} | WINDOW, 255 - shown(TWELVE)),
    "window-8-bit": (EIGHT, {"WindowCenter": 90, "WindowWidth": 80}, shown(EIGHT, 90, 80)),
    "windows": (TWELVE, {"WindowCenter": [1800, 9], "WindowWidth": [1500, 9]}, shown(TWELVE)),
    "window-of-1": (TWELVE, {"WindowCenter": 1800, "WindowWidth": 1}, (TWELVE >= 1800) * 255),
    "window-of-0": (TWELVE, {"WindowCenter": 1800, "WindowWidth": 0}, stretched(TWELVE)),
    "window-empty": (TWELVE, {"WindowCenter": None, "WindowWidth": None}, stretched(TWELVE)),
    "window-exact": (
        TWELVE,
        {"VOILUTFunction": "LINEAR_EXACT"} | WINDOW,
        ((TWELVE - 1800.0) / 1500 + 0.5).clip(0, 1) * 255,
    ),
    "window-sigmoid": (
        TWELVE,
        {"VOILUTFunction": "SIGMOID"} | WINDOW,
        255 / (1 + np.exp(-4 * (TWELVE - 1800.0) / 1500)),
    ),
    "window-of-a-frame": (
        TWELVE,
        {"PerFrameFunctionalGroupsSequence": functional_groups(**WINDOW)},
        shown(TWELVE),
    ),
    "rescale": (
        TWELVE,
        {"RescaleSlope": 2, "RescaleIntercept": -900} | WINDOW,
        shown(TWELVE * 2.0 - 900),
    ),
    "rescale-down": (
        TWELVE,
        {"RescaleSlope": -1, "RescaleIntercept": 4095} | WINDOW,
        shown(4095.0 - TWELVE),
    ),
    "rescale-8-bit": (EIGHT, {"RescaleSlope": 2, "RescaleIntercept": 3}, stretched(EIGHT)),
    "modality-lut": (
        TWELVE,
        {"ModalityLUTSequence": lut(CURVE, bits=10), "WindowCenter": 300, "WindowWidth": 400},
        shown(CURVE[TWELVE], 300, 400),
    ),
    "voi-lut": (TWELVE, {"VOILUTSequence": lut(CURVE, bits=10)}, CURVE[TWELVE] / 1023 * 255),
    "voi-lut-first": (
        TWELVE,
        {"VOILUTSequence": lut(CURVE, 500, 10, "US") + lut(CURVE[::-1], 0, 10)} | WINDOW,
        CURVE[(TWELVE.astype(int) - 500).clip(0)] / 1023 * 255,
    ),
    "voi-lut-8-bit": (EIGHT, {"VOILUTSequence": lut(ROOTS)}, ROOTS[EIGHT]),
    "voi-lut-negative": (
        SIGNED,
        {"VOILUTSequence": lut(CURVE, 2**16 - 1000, 10)},
        CURVE[TWELVE] / 1023 * 255,
    ),
    "padding": (
        padded(TWELVE, 60_000, 60_000),
        {"PixelPaddingValue": 60_000},
        padded(stretched(TWELVE), 0, 0),
    ),
    "padding-range": (
        padded(TWELVE, 60_000, 61_000),
        {"PixelPaddingValue": 62_000, "PixelPaddingRangeLimit": 60_000} | WINDOW,
        padded(shown(TWELVE), 0, 0),
    ),
    "padding-inverted": (
        padded(EIGHT.clip(1), 0),
        {"PixelPaddingValue": 0, "photometric": "MONOCHROME1"},
        padded(255 - EIGHT.clip(1), 0),
    ),
    "padding-signed": (
        padded(SIGNED, -2000),
        {"PixelPaddingValue": -2000, "RescaleSlope": 1, "RescaleIntercept": -24},
        padded(stretched(TWELVE), 0),
    ),
    "rgb": (COLOUR, {"photometric": "RGB"}, LUMA),
    "rgb-by-plane": (
        np.moveaxis(COLOUR, 2, 0).reshape(COLOUR.shape),
        {"photometric": "RGB", "PlanarConfiguration": 1},
        LUMA,
    ),
    "ybr": (np.rint(YBR).astype(np.uint8), {"photometric": "YBR_FULL"}, LUMA),
    "palette": (
        EIGHT,
        {"photometric": "PALETTE COLOR"} | palette(PALETTE),
        np.dot(np.array(PALETTE)[:, EIGHT].T, (0.299, 0.587, 0.114)).T,
    ),
    "palette-16-bit": (
        EIGHT,
        {"photometric": "PALETTE COLOR"} | palette([t.astype("<u2") * 257 for t in PALETTE], 16),
        np.dot(np.array(PALETTE)[:, EIGHT].T, (0.299, 0.587, 0.114)).T,
    ),
    "frames": (np.stack([TWELVE, TWELVE // 3]), {"NumberOfFrames": 2} | WINDOW, shown(TWELVE)),
    "big-endian": (TWELVE.astype(">u2"), {"syntax": uid.ExplicitVRBigEndian}, stretched(TWELVE)),
    "implicit": (TWELVE, {"syntax": uid.ImplicitVRLittleEndian} | WINDOW, shown(TWELVE)),
    "deflated": (TWELVE, {"syntax": uid.DeflatedExplicitVRLittleEndian}, stretched(TWELVE)),
}


def near(read, expected):
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.astype(float), expected, atol=1)


@pytest.fixture
def save(tmp_path):
    def write(content, name="image1.dcm"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def encapsulated(pixels, syntax, frame, **header) -> bytes:
    """Return DICOM with a compressed stream in the place of its pixels."""
    dataset, file = pydicom.dcmread(io.BytesIO(dicom(pixels, **header))), io.BytesIO()
    dataset.file_meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(file)
    return file.getvalue()


def lossless_jpeg(pixels) -> bytes:
    """Encode uint16[H, W] by the first predictor and one 5-bit Huffman code per size (T.81, H)."""
    left = np.full_like(values := pixels.astype(int), 2**15)
    left[:, 1:], left[1:, 0] = values[:, :-1], values[:-1, 0]
    bits = ""
    for step in ((values - left + 2**15) % 2**16 - 2**15).ravel().tolist():
        size = abs(step).bit_length()
        bits += f"{size:05b}" + (
            f"{step if step > 0 else step + 2**size - 1:0{size}b}" * (size > 0)
        )
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    codes = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    frame = struct.pack(">BHHB", 16, *pixels.shape, 1) + bytes([1, 0x11, 0])
    scan = bytes([1, 1, 0, 1, 0, 0])
    parts = ((0xC4, codes), (0xC3, frame), (0xDA, scan))
    heads = [bytes([255, kind]) + struct.pack(">H", 2 + len(part)) + part for kind, part in parts]
    return b"\xff\xd8" + b"".join(heads) + body + b"\xff\xd9"


@pytest.mark.parametrize("case", CASES)
def test_the_grays_are_those_of_the_standard(case, save):
    pixels, header, expected = CASES[case]
    near(read_gray(save(dicom(pixels, **header))), expected)


@pytest.mark.parametrize("pixels", [EIGHT, TWELVE, SIGNED, COLOUR], ids=["8", "16", "-16", "rgb"])
@pytest.mark.parametrize("compression", ["RLELossless", "JPEG2000Lossless"])
def test_compressed_is_read_as_unencapsulated(compression, pixels, save):
    header = {"photometric": "RGB"} if pixels.ndim == 3 else {}
    pixels = np.concatenate(
        [np.concatenate([pixels] * 4)] * 2, axis=1
    )  # JPEG 2000 has a smallest size
    plain = read_gray(save(dicom(pixels, **header)))
    small = dicom(pixels, compression=compression, **header)
    np.testing.assert_array_equal(read_gray(save(small)), plain)


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
def test_lossless_jpeg_keeps_16_bits(syntax, save):
    content = encapsulated(TWELVE, syntax, lossless_jpeg(TWELVE), **WINDOW)
    near(read_gray(save(content)), shown(TWELVE))


def test_jpeg_is_read_as_pillow_reads_it(save):
    smooth = np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8) * 2
    for quality in (60, 95):
        jpeg = encoded(smooth, "JPEG", quality=quality)
        read = read_gray(save(encapsulated(smooth, uid.JPEGBaseline8Bit, jpeg)))
        near(read, np.asarray(Image.open(io.BytesIO(jpeg))))


def shipped(name):
    return get_testdata_file(name, download=False)


def stored(name, kind):
    header = pydicom.dcmread(shipped(name))
    shape = header.Rows, header.Columns, *([3] if header.SamplesPerPixel == 3 else [])
    return np.frombuffer(header.PixelData, kind, np.prod(shape)).reshape(shape)


BARS = [  # of SC_rgb_*.dcm, from its top to its bottom
    *((255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255)),
    *((0, 0, 0), (64, 64, 64), (192, 192, 192), (255, 255, 255)),
]


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_expb", "MR_small_implicit"),
        *("MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_padded"),
    ],
)
def test_pydicoms_own_gray_is_the_same_in_every_compression(name):
    near(read_gray(shipped(f"{name}.dcm")), shown(stored("MR_small.dcm", "<i2"), 600, 1600))


@pytest.mark.parametrize("name", ["rgb_rle", "rgb_jpeg_gdcm", "rgb_gdcm_KY", "rgb_rle_2frame"])
def test_pydicoms_own_colour_bars_become_luma(name):
    luma = np.repeat(np.array(BARS) @ (0.299, 0.587, 0.114), 10)
    near(read_gray(shipped(f"SC_{name}.dcm")), np.repeat(luma[:, None], 100, axis=1))


def test_pydicoms_own_uncompressed_files_are_read_as_their_headers_say():
    near(read_gray(shipped("CT_small.dcm")), stretched(stored("CT_small.dcm", "<i2")))
    overlaid = stored("examples_overlay.dcm", "<u2")
    near(read_gray(shipped("examples_overlay.dcm")), shown(overlaid, 450, 790))
    near(read_gray(shipped("image_dfl.dcm")), stored("image_dfl.dcm", "u1"))
    near(read_gray(shipped("rtdose_expb.dcm")), stretched(stored("rtdose_1frame.dcm", "<u4")))
    colour = stored("ExplVR_BigEnd.dcm", "u1").reshape(3, 60, 80)  # by plane
    near(read_gray(shipped("ExplVR_BigEnd.dcm")), np.tensordot((0.299, 0.587, 0.114), colour, 1))
    header = pydicom.dcmread(shipped("examples_palette.dcm"))
    table = [
        np.frombuffer(header[f"{name}PaletteColorLookupTableData"].value, "<u2") >> 8
        for name in ("Red", "Green", "Blue")
    ]
    luma = np.tensordot((0.299, 0.587, 0.114), np.array(table), 1)
    near(read_gray(shipped("examples_palette.dcm")), luma[stored("examples_palette.dcm", "u1")])


@pytest.mark.parametrize("header", [{}, WINDOW, {"RescaleSlope": 3, "RescaleIntercept": 9}])
@pytest.mark.parametrize("pixels", [EIGHT, TWELVE], ids=["8", "16"])
def test_an_inverted_copy_is_the_same_picture(pixels, header, save):
    header = {} if pixels is EIGHT and header is WINDOW else header
    plain = read_gray(save(dicom(pixels, **header)))
    highest = np.iinfo(pixels.dtype).max
    if header is WINDOW:
        header = {"WindowCenter": highest + 1 - 1800, "WindowWidth": 1500}
    inverted = dicom(highest - pixels, "MONOCHROME1", **header)
    near(read_gray(save(inverted)), plain.astype(float))


@pytest.mark.parametrize("name", ["a.dcm", "A.DCM", "a.Dicom", "IM0001", "1.2.840.10008", "a.tif"])
def test_it_is_found_by_its_content_under_any_name(name, save):
    file = save(dicom(TWELVE, **WINDOW), name)
    near(read_gray(file), shown(TWELVE))
    assert images.study_images(file.parent) == [file] and images.left_out(file.parent) == []
    found = {issue.kind for issue in image_checks.check_image(file, name).issues}
    assert "wrong-format" not in found


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_by_its_name_it_needs_no_preamble(syntax, save):
    content = dicom(TWELVE, syntax=syntax, **WINDOW)
    near(read_gray(save(content[132:])), shown(TWELVE))
    behind = 144 + int.from_bytes(content[140:144], "little")
    near(read_gray(save(content[behind:])), shown(TWELVE))


def test_frames_and_colour_are_noted(save):
    frames = np.stack([EIGHT, 255 - EIGHT])
    gray, note = image_checks.read_noted(save(dicom(frames, NumberOfFrames=2)))
    assert "2 frames; the first is used" in note
    near(gray, EIGHT)
    assert "red, green and blue" in image_checks.read_noted(save(dicom(COLOUR, "RGB")))[1]


def test_a_case_is_opened_from_a_scanners_folder(save, capsys):
    files = [save(dicom(np.stack([EIGHT] * 2), NumberOfFrames=2), f"IM000{i}") for i in (1, 2)]
    save(b"", "DICOMDIR")
    assert open_case(files[0].parent, None).files == files
    note = "2 frames; the first is used"
    printed = f"IM0001: {note}\nIM0002: {note}\nleft out: DICOMDIR (not named as an image)\n"
    assert capsys.readouterr().out == printed


def test_a_png_named_as_dicom_is_a_png(save):
    file = save(encoded(EIGHT))
    np.testing.assert_array_equal(read_gray(file), EIGHT)
    [issue] = (i for i in image_checks.check_image(file, file.name).issues if "format" in i.kind)
    assert issue.kind == "wrong-format"


def report() -> bytes:
    content = pydicom.dcmread(io.BytesIO(dicom(EIGHT)))
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = uid.BasicTextSRStorage
    del content.PixelData
    content.save_as(file := io.BytesIO())
    return file.getvalue()


def bomb() -> bytes:
    small = dicom(EIGHT, syntax=uid.DeflatedExplicitVRLittleEndian)
    head = small[: 144 + int.from_bytes(small[140:144], "little")]
    deflate = zlib.compressobj(9, wbits=-15)
    return head + deflate.compress(bytes(2_000_000)) + deflate.flush()


PLAIN = dicom(TWELVE, **WINDOW)
RLE = dicom(TWELVE, compression="RLELossless")
JPEG = encapsulated(TWELVE, uid.JPEGLossless, lossless_jpeg(TWELVE))
BAD = {
    "no-pixels": (report(), "not-an-image", "no image in this file"),
    "text": (b"patient,label\nDoe^Jane,0\n", "not-an-image", "no image in this file"),
    "cut-header": (PLAIN[:300], "not-an-image", "cut off"),
    "cut": (PLAIN[:-50], "truncated-image", "cut off"),
    "cut-rle": (RLE[:-300], "truncated-image", "cut off"),
    "corrupt-rle": (RLE.replace(RLE[-300:-20], bytes(280)), "damaged-image", "damaged"),
    "corrupt-jpeg": (JPEG.replace(b"\xff\xc4", b"\xff\xc5"), "damaged-image", "damaged"),
    "no-size": (PLAIN.replace(b"\x28\0\x10\0US", b"\x28\0\x0f\0US"), "damaged-image", "damaged"),
    "name-as-window": (
        dicom(TWELVE, **WINDOW).replace(b"1800.0", b"Doe^.0"),
        "damaged-image",
        "damaged",
    ),
    "video": (encapsulated(TWELVE, uid.MPEG2MPML, b"1234"), "unusual-mode", "compression"),
    "deep-colour": (dicom(COLOUR.astype(np.uint16), "RGB"), "unusual-mode", "8 bits per channel"),
    "large": (dicom(EIGHT, Rows=8000, Columns=7000), "oversized-image", "7000 x 8000"),
    "large-stream": (
        JPEG.replace(struct.pack(">HH", *TWELVE.shape), b"\xff\0\xff\0"),
        "oversized-image",
        "65280 x 65280",
    ),
    "bomb": (bomb(), "oversized-image", "bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_one_is_refused_in_one_line_without_a_name(case, save, capfd, caplog, monkeypatch):
    content, kind, message = BAD[case]
    if case == "bomb":
        monkeypatch.setattr(gray, "MAX_BYTES", 1_000_000)
    file = save(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_gray(file)
    said = str(caught.value)
    assert caught.value.kind == kind
    assert said.startswith(f"{file}: ") and said.endswith(".") and "\n" not in said
    assert "Doe" not in said and "4711" not in said
    assert caught.value.__cause__ is None
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_nothing_is_printed_and_a_png_does_without_pydicom(tmp_path):
    """In a process of its own, because pytest sets its own filters of warnings."""
    files = {"a.png": encoded(EIGHT)}
    files |= {f"{name}.dcm": content for name, (content, *_) in BAD.items()}
    files["odd.dcm"] = dicom(TWELVE, **WINDOW).replace(b"1.2.3\0", b"1.2.x\0")
    files["more.dcm"] = dicom(np.concatenate([TWELVE, TWELVE]), **WINDOW, Rows=20)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    program = """
import sys
from mura.data.images import ImageError, read_gray
for name in sys.argv[1:]:
    try:
        read_gray(name)
    except ImageError as error:
        pass
    if name.endswith(".png"):
        assert "pydicom" not in sys.modules
"""
    paths = [str(tmp_path / name) for name in files]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
