"""Whatever bytes come in, the result is valid or one of the documented errors."""

import csv
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layout import (
    FRACATLAS_HEAD,
    STUDIES,
    dicom,
    encoded,
    fracatlas_path,
    noise,
    study_path,
    write_fracatlas,
    write_layout,
)
from PIL import Image

from mura import data as data_layer
from mura.data import BODY_PARTS, ImageError, ManifestError, fit_square, image_files, read_gray
from mura.data.audit import audit
from mura.data.image_checks import check_image
from mura.data.manifest import COLUMNS
from mura.data.sources import table as table_source
from mura.data.sources.mura import CSV_FILES
from mura.evaluation import (
    PREDICTION_COLUMNS,
    PredictionsError,
    read_predictions,
    study_predictions,
)

words = st.sampled_from(
    [
        *("MURA-v1.1", "train", "valid", "XR_HAND", "XR_WRIST", "XR_KNEE", "patient00001"),
        *("study1_positive", "study1_negative", "study1", "image1.png", "image2.png"),
        *("..", ".", "", "/", "\\", "C:", "~", ",", ",0", ",1", ",2", '"', "\0", " ", "\ufeff"),
        *("._image1.png", "image٣.png", "é", "\x85", "\u2028", "9" * 400, "patient" + "1" * 30),
    ]
)
rows = st.one_of(
    st.builds(
        "MURA-v1.1/{}/{}/patient{:05d}/study{}{}/image{}.png".format,
        st.sampled_from(["train", "valid"]),
        st.sampled_from(BODY_PARTS),
        st.integers(1, 3),
        st.integers(1, 2),
        st.sampled_from(["_positive", "_negative", ""]),
        st.integers(1, 3),
    ),
    st.lists(words, max_size=8).map("/".join),
    st.lists(words, max_size=5).map("".join),
    st.text(max_size=30),
)
labelled_rows = st.one_of(
    rows,
    st.builds(
        "MURA-v1.1/train/XR_HAND/patient{:05d}/study1_positive/,{}".format,
        st.integers(1, 4),
        st.sampled_from(["0", "1", "1.0", "", " 1 ", "2", "-1", "nan", "١"]),
    ),
)


def csv_bytes(rows):
    """Bytes of a CSV file: rows in some encoding with some line end, or anything at all."""
    return st.one_of(
        st.builds(
            lambda rows, end, encoding, start: start + end.join(rows).encode(encoding, "replace"),
            st.lists(rows, max_size=6),
            st.sampled_from(["\n", "\r\n", "\r", "\n\n", ", \n"]),
            st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-be"]),
            st.sampled_from([b"", b"", b"path\n", b"study,label\r\n", b"\xff\xfe", b"\xfe\xff"]),
        ),
        st.binary(max_size=300),
    )


@pytest.fixture(scope="module")
def root():
    with tempfile.TemporaryDirectory() as folder:
        yield write_layout(Path(folder))


@pytest.fixture(autouse=True)
def quiet():
    """AppleDouble rows are left out with a warning, which is not the matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@given(data=st.data(), number=st.integers(0, 3))
@settings(max_examples=600)
def test_any_lists_give_a_manifest_or_a_documented_error(root, data, number):
    file = root / CSV_FILES[number]
    whole = file.read_bytes()
    try:
        file.write_bytes(data.draw(csv_bytes(labelled_rows if number % 2 else rows)))
        manifest = data_layer.read(root)
    except ManifestError as error:
        assert str(error).startswith(str(file))
        return
    finally:
        file.write_bytes(whole)
    assert tuple(manifest.columns) == COLUMNS
    assert len(manifest) > 0
    assert not manifest["path"].duplicated().any()
    assert manifest.drop(columns="label").notna().all(axis=None)
    assert manifest["label"].dropna().isin([0, 1]).all()
    assert (manifest["path"].str.rpartition("/")[0] == manifest["study"]).all()
    assert all(found.is_relative_to(root) for found in image_files(root, manifest["path"]))
    assert set(data_layer.split_patients(manifest)) <= {"fit", "tune", "valid"}


cell_of_table = st.one_of(
    st.sampled_from(["0", "1", "normal", "", "train", "valid", "Test", "a", "b", "a/b", "b/a"]),
    st.integers(1, 9).map("x/{}.png".format),
    words,
    st.text(max_size=5),
)
names_of_table = st.sampled_from(["study", "patient", "body_part", "split", "age", "ap/lateral"])
odd_names = st.sampled_from(["study", "path", "view", "", "Unnamed: 0", "Label"])


@st.composite
def own_tables(draw):
    """A table of any cells, with a header or without, or of images that are mostly in order."""
    odd = draw(st.sampled_from([False, False, True]))
    head = ["path", "label", *draw(st.lists(names_of_table, unique=True))]
    head = draw(st.permutations(head + draw(st.lists(odd_names, max_size=2)) * odd))
    plain = {"path": st.integers().map("x/{}.png".format), "label": st.sampled_from(["0", "1"])}
    plain |= dict.fromkeys(["study", "patient", "body_part"], st.sampled_from(["a", "b", "a/b"]))
    plain |= {"split": st.sampled_from(["train", "valid"])} if not odd else {}
    rows = draw(st.lists(st.tuples(*(plain.get(one, cell_of_table) for one in head)), max_size=6))
    rows += draw(st.lists(st.lists(cell_of_table, max_size=6), max_size=2)) * odd
    separator = draw(st.sampled_from([",", ";", "\t"]))
    return "\n".join(separator.join(row) for row in [head, *rows]).encode()


@given(own_tables() | own_tables() | csv_bytes(labelled_rows))
@example(b"\n,,,,,x/1.png\n,,,,2\n,,,,2")
@settings(max_examples=600)
def test_any_table_gives_a_manifest_or_a_documented_error(root, content):
    file = root.parent / "own.csv"
    file.write_bytes(content)
    try:
        manifest = table_source.read(file)
    except ManifestError as error:
        assert str(error).startswith(f"{file}: ")
        return
    finally:
        assert table_source.matches(file)
    assert tuple(manifest.columns[: len(COLUMNS)]) == COLUMNS
    assert len(manifest) > 0
    assert not manifest["path"].duplicated().any()
    assert manifest.drop(columns="label").notna().all(axis=None)
    assert manifest["label"].dropna().isin([0, 1]).all()
    assert manifest["split"].isin(["train", "valid"]).all()
    assert (manifest.groupby("patient")["split"].nunique() == 1).all()
    for column in ("patient", "body_part"):
        assert (manifest.groupby("study")[column].nunique() == 1).all()
    assert not manifest.duplicated(["study", "view"]).any()
    assert len(table_source.image_files(file, manifest["path"])) == len(manifest)


@pytest.fixture(scope="module")
def fracatlas():
    with tempfile.TemporaryDirectory() as folder:
        images = [(3, "leg", 1), (4, "hand", 0), (40, "leg+hip", 1)]
        yield write_fracatlas(Path(folder) / "FracAtlas", images)


flag = st.sampled_from(["0", "1", "1.0"])
odd_cell = st.sampled_from(["", "2", "nan", "hand", "IMG0000003.jpg", "IMG5.jpg", "../IMG6.jpg"])
plain_row = st.builds(
    "IMG{:07d}.jpg,{},{},{},0,1,0,1,{},1,1,0,0".format,
    *(st.sampled_from([3, 4, 40]) | st.integers(0, 10**9), flag, flag, flag, flag),
)
odd_row = st.lists(odd_cell | words | st.text(max_size=9), max_size=14).map(",".join)
tables_of_fracatlas = st.builds(
    lambda head, rows, odd: "\n".join([head, *rows, *odd]).encode(),
    st.sampled_from([FRACATLAS_HEAD, FRACATLAS_HEAD, f"{FRACATLAS_HEAD},path,top", "hand"]),
    st.lists(plain_row, min_size=1, max_size=4, unique_by=lambda row: row[:10]),
    st.just([]) | st.lists(odd_row, max_size=2),
)


@given(st.sampled_from([tables_of_fracatlas] * 3 + [csv_bytes(plain_row)]).flatmap(lambda one: one))
@settings(max_examples=120)
def test_any_table_of_fracatlas_gives_a_manifest_or_a_documented_error(fracatlas, content):
    file = fracatlas / "dataset.csv"
    whole = file.read_bytes()
    try:
        file.write_bytes(content)
        manifest = data_layer.read(fracatlas, excluded=True)
    except ManifestError as error:
        assert str(error).startswith(f"{file}: ")
        return
    finally:
        file.write_bytes(whole)
    assert tuple(manifest.columns[: len(COLUMNS)]) == COLUMNS
    assert len(manifest) > 0
    assert not manifest["path"].duplicated().any()
    assert manifest.notna().all(axis=None)
    assert manifest["label"].isin([0, 1]).all()
    assert manifest["split"].isin(["train", "valid"]).all()
    files = image_files(fracatlas, manifest["path"])
    assert [one.is_file() for one in files] == manifest["excluded"].ne("missing").tolist()


share = st.sampled_from(["0.5", "1", "0.25", "1e-3"])
plain_box = st.tuples(st.just("0"), share, share, share, share).map(" ".join)
odd_box = st.lists(share | words | st.floats().map(str), max_size=6).map(" ".join)
files_of_boxes = st.lists(plain_box | plain_box | odd_box, max_size=3).map("\n".join)


@given(files_of_boxes.map(str.encode) | st.binary(max_size=40))
@settings(max_examples=200)
def test_any_file_of_boxes_is_read_or_refused_by_name(fracatlas, content):
    file = fracatlas / "Annotations" / "YOLO" / "IMG0000003.txt"
    file.write_bytes(content)
    try:
        boxes = data_layer.boxes(fracatlas)
    except ManifestError as error:
        assert str(error).startswith(f"{file}: ")
        assert "\n" not in str(error)
        return
    assert set(boxes["path"]) <= {fracatlas_path(3, 1), fracatlas_path(40, 1)}
    assert (boxes[["x0", "y0"]].to_numpy() >= 0).all()
    assert (boxes["x0"] < boxes["x1"]).all() and (boxes["x1"] <= 80).all()
    assert (boxes["y0"] < boxes["y1"]).all() and (boxes["y1"] <= 96).all()


predicted_rows = st.builds(
    "{}{}".format,
    rows,
    st.sampled_from(
        [",0.5", ",1", ",-1", ",nan", ",", "", ",1e400", ",high", ", 0.25 ", ",0.5,1", ",0.5,x,3"]
    ),
)
heads = st.sampled_from(
    [b"", b"path,probability\n", b"study,probability,label\r\n", b"path,score\n", b"\xef\xbb\xbf"]
)


@given(heads, csv_bytes(predicted_rows))
@settings(max_examples=300)
def test_any_list_of_probabilities_is_evaluated_or_refused(root, head, content):
    file = root.parent / "probabilities.csv"
    file.write_bytes(head + content)
    try:
        predictions = read_predictions(file)
    except PredictionsError as error:
        assert str(error).startswith(f"{file}: ")
        return
    assert tuple(predictions.columns) == PREDICTION_COLUMNS
    assert predictions["probability"].between(0, 1).all()
    assert predictions["label"].isin([0, 1]).all()
    studies = study_predictions(predictions)
    assert len(studies) == predictions["study"].nunique()


images = st.builds(
    "MURA-v1.1/{}/{}/patient{:05d}/study{}_{}/image{}.png".format,
    *(st.sampled_from(["train", "valid"]), st.sampled_from(BODY_PARTS), st.integers(1, 3)),
    *(st.integers(1, 2), st.sampled_from(["positive", "negative"]), st.integers(1, 3)),
)
cells = st.one_of(images, st.floats().map(str), st.integers(-1, 9).map(str), words, st.text())
names = st.sampled_from(
    ["path", "Study", " label", "PROBABILITY", "probability", "split", "", "Unnamed: 0", "0", "x"]
)


@st.composite
def spreadsheets(draw):
    """A table of any cells, or of studies with numbers, as some program or other writes it."""
    width = draw(st.integers(1, 5))
    column = st.one_of(st.just(images), st.just(cells), st.just(st.floats(0, 1).map(str)))
    columns = [draw(column) for _ in range(width)]
    content = draw(st.lists(st.tuples(*columns), max_size=6))
    table = pd.DataFrame(content, columns=draw(st.lists(names, min_size=width, max_size=width)))
    decimal = draw(st.sampled_from([".", ","]))
    table = table.map(lambda cell: cell if "/" in cell else cell.replace(".", decimal))
    text = table.to_csv(
        sep=draw(st.sampled_from([",", ";", "\t"])),
        header=draw(st.booleans()),
        index=draw(st.booleans()),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
    )
    start = draw(st.sampled_from(["", "", "sep=;\n", "\n", ";;\n"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]))
    return (start + text).encode(encoding, "replace")


@given(spreadsheets(), st.sampled_from(CSV_FILES))
@settings(max_examples=150)
def test_any_spreadsheet_is_read_or_refused_by_name(root, content, name):
    manifest = data_layer.read(root)
    file, listed = root.parent / "spreadsheet.csv", root / name
    file.write_bytes(content)
    for known in (None, manifest):
        try:
            predictions = read_predictions(file, known)
        except PredictionsError as error:
            assert str(error).startswith(f"{file}: ")
            continue
        assert predictions["probability"].between(0, 1).all()
        if known is not None:
            labels = predictions["study"].map(manifest.groupby("study")["label"].first())
            assert (predictions["label"] == labels).all()
    whole = listed.read_bytes()
    try:
        listed.write_bytes(content)
        assert data_layer.read(root)["label"].dropna().isin([0, 1]).all()
    except ManifestError as error:
        assert str(error).startswith(str(listed))
        assert "rename" not in str(error)
    finally:
        listed.write_bytes(whole)


@st.composite
def predicted_studies(draw):
    """Predictions of the folder's studies, and the bytes of a table that holds them."""
    studies = draw(st.permutations([study_path(*study[:5]) for study in STUDIES]))
    studies = studies[: draw(st.integers(2, len(studies)))]
    share = st.floats(0, 1, allow_subnormal=False).map(lambda x: round(x, 6))
    table = pd.DataFrame({"study": studies, "probability": [draw(share) for _ in studies]})
    table["label"] = [int(study.endswith("positive")) for study in studies]
    expected = table.copy()
    written = st.sampled_from([(0, 1), (0.0, 1.0), (False, True), ("normal", "Abnormal")])
    table["label"] = table["label"].map(dict(enumerate(draw(written))))
    header = draw(st.booleans())
    shown = ["study", "probability", *(["label"] if draw(st.booleans()) else [])]
    text = table[draw(st.permutations(shown)) if header else shown].to_csv(
        sep=(separator := draw(st.sampled_from([",", ";", "\t"]))),
        decimal="." if separator == "," else draw(st.sampled_from([".", ","])),
        header=header,
        index=draw(st.booleans()),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
    )
    return expected, text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))


@given(predicted_studies())
@settings(max_examples=100)
def test_predictions_are_the_same_in_every_spreadsheet(root, both):
    expected, content = both
    file = root.parent / "predicted.csv"
    file.write_bytes(content)
    for known in (None, data_layer.read(root)):
        found = read_predictions(file, known)[["study", "probability", "label"]]
        pd.testing.assert_frame_equal(found, expected.astype(found.dtypes.to_dict()))


@given(csv_bytes(rows), csv_bytes(labelled_rows))
@settings(max_examples=150)
def test_any_lists_are_audited(content, labels):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "MURA-v1.1"
        root.mkdir()
        for name in CSV_FILES:
            (root / name).write_bytes(labels if "label" in name else content)
        try:
            report = audit(root, progress=False)
        except ManifestError as error:
            assert "rename the folder" in str(error)
            return
        assert report.findings["kind"].ne("").all()
        assert str(report)
        assert report.to_json()["ok"] == report.ok


GRAY = noise(0, 20, 16)
DEEP = Image.fromarray(GRAY.astype(np.uint16) * 200)
PALETTE = Image.fromarray(GRAY).convert("P")
RGB = Image.fromarray(np.dstack([GRAY] * 3))
EXIF = Image.Exif()
EXIF[0x0112] = 5
IMAGES = [
    encoded(GRAY),
    encoded(DEEP),
    encoded(PALETTE, transparency=3),
    encoded(RGB.convert("RGBA")),
    encoded(RGB, exif=EXIF),
    encoded(RGB, save_all=True, append_images=[RGB.rotate(90)]),
    encoded(GRAY, "JPEG"),
    encoded(RGB.convert("CMYK"), "JPEG", exif=EXIF),
    encoded(RGB, "JPEG", progressive=True),
    encoded(DEEP, "TIFF"),
    encoded(RGB, "TIFF", compression="tiff_lzw"),
    encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"),
    encoded(PALETTE, "GIF"),
    *(encoded(GRAY, kind) for kind in ("BMP", "WEBP", "JPEG2000", "PPM")),
]


@st.composite
def damaged(draw):
    """An image file with some bytes changed, cut out, inserted, or its end cut off."""
    content = bytearray(draw(st.sampled_from(IMAGES)))
    for _ in range(draw(st.integers(0, 4))):
        # most of what can go wrong is in the first hundred bytes
        first = draw(st.integers(0, min(len(content), draw(st.sampled_from([120, 10_000])))))
        cut = draw(st.sampled_from([1, 1, 0, 20, len(content)]))
        content[first : first + cut] = draw(st.binary(max_size=20 if cut == 0 else 1))
    return bytes(content)


DICOMS = [
    dicom(GRAY),
    dicom(np.dstack([GRAY] * 3), "RGB"),
    dicom(np.asarray(DEEP).astype(np.int16), WindowCenter=[900, 40], WindowWidth=[800, 2]),
    dicom(np.asarray(DEEP), "MONOCHROME1", RescaleSlope=2, RescaleIntercept=-9),
    dicom(np.stack([GRAY, GRAY]), NumberOfFrames=2, PixelPaddingValue=3),
    dicom(np.asarray(DEEP), syntax="1.2.840.10008.1.2.1.99"),  # deflated
    dicom(np.asarray(DEEP), compression="RLELossless"),
    dicom(np.tile(np.asarray(DEEP), (4, 3)), compression="JPEG2000Lossless"),  # of 64 x 48 or more
]


@st.composite
def damaged_dicom(draw):
    """A DICOM file with some bytes changed from its tags on, or its end cut off."""
    content = bytearray(draw(st.sampled_from(DICOMS)))
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(128, min(len(content) - 1, draw(st.sampled_from([800, 10_000])))))
        content[first] = draw(st.integers(0, 255))
    return bytes(
        content[: draw(st.sampled_from([len(content)] * 3) | st.integers(0, len(content)))]
    )


BYTES = st.binary(max_size=200) | st.binary(max_size=60).map(lambda end: IMAGES[0][:33] + end)


def is_decoded_or_refused(file, content):
    file.write_bytes(content)
    facts = check_image(file, file.name)  # never raises
    assert facts.pixels_digest or facts.issues
    try:
        gray = read_gray(file)
    except ImageError as error:
        assert str(error).startswith(str(file))
        assert error.kind
        return
    assert gray.dtype == np.uint8
    assert gray.ndim == 2
    assert gray.size > 0
    assert fit_square(gray, 16).shape == (16, 16)


@given(damaged() | damaged() | damaged() | BYTES)
@example(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
@settings(max_examples=1250)
def test_any_bytes_are_decoded_or_refused_by_name(root, content):
    is_decoded_or_refused(root.parent / "image.png", content)


@given(damaged_dicom() | damaged_dicom() | damaged_dicom() | BYTES)
@settings(max_examples=600)
def test_any_dicom_is_decoded_or_refused_by_name(root, content):
    is_decoded_or_refused(root.parent / "image.dcm", content)
