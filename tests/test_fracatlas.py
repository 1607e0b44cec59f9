"""FracAtlas is read as its authors publish it, and its faults are left out by name.

MURA_TEST_FRACATLAS names a folder of real FracAtlas images, whole or in part. They are used where
they lie and never copied into the repository.
"""

import csv
import hashlib
import io
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout import (
    FRACATLAS_HEAD,
    encoded,
    fracatlas_path,
    noise,
    read_lines,
    study_path,
    write_fracatlas,
    write_layout,
    write_lines,
)
from PIL import Image, ImageFile, ImageOps
from tiny import tiny_run

from mura import data
from mura.cli import main
from mura.data import ManifestError, read_gray
from mura.data.audit import audit
from mura.data.cache import cached
from mura.data.manifest import COLUMNS, held_out
from mura.data.sources import fracatlas, source

PARTS = ("hand", "leg", "hip", "shoulder", "hand+shoulder", "leg+hip", "hand+leg")
MANY = [(7 * number, PARTS[number % 7], number % 3 // 2) for number in range(42)]
PICTURE = noise(99, 160, 80)
JPEG = encoded(PICTURE, "JPEG")
CUT = JPEG[: len(JPEG) * 4 // 5]
UPRIGHT = np.zeros((96, 64), np.uint8)  # white where write_fracatlas draws the box
UPRIGHT[24:72, 24:40] = 255


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_fracatlas(tmp_path_factory.mktemp("clean") / "bones", MANY)


@pytest.fixture
def write(tmp_path):
    return lambda *images: write_fracatlas(tmp_path / "FracAtlas", images)


def whole(root):
    """All rows, by the image's number."""
    manifest = data.read(root, excluded=True)
    return manifest.set_index(manifest["path"].str.extract(r"IMG(\d+)")[0].astype(int))


def reasons(root):
    left = whole(root)["excluded"]
    return left[left != ""].to_dict()


def findings(root):
    table = audit(root, progress=False).findings
    return list(zip(table["kind"], table["path"], strict=True))


def test_the_table_becomes_a_manifest(clean):
    manifest = data.read(clean)
    assert [*manifest] == [*COLUMNS, "width", "height", *fracatlas.KEPT]
    assert manifest["path"].tolist() == [fracatlas_path(one, label) for one, _, label in MANY]
    assert manifest["study"].equals(manifest["path"].rename("study"))
    assert manifest["patient"].tolist() == [f"group{number // 25:03d}" for number, *_ in MANY]
    assert manifest["label"].tolist() == [label for *_, label in MANY]
    assert (manifest[["width", "height", "view"]] == [80, 96, 1]).all(axis=None)
    assert manifest["multiscan"].tolist() == ["0"] * 42
    assert manifest["hardware"].tolist() == [str(number % 2) for number, *_ in MANY]
    assert manifest.index.equals(pd.RangeIndex(42))
    types = manifest.dtypes.astype(str)
    assert (types["view"], types["label"], types["width"]) == ("int64", "Int64", "int64")
    text = ["path", "split", "patient", "study", "excluded"]
    assert set(types[text]) == {str(pd.Series(["a"], dtype="str").dtype)}
    assert all(file.is_file() for file in data.image_files(clean, manifest["path"]))


def test_body_parts_stand_in_the_tables_order_and_rare_mixes_are_other(clean):
    parts = data.read(clean)["body_part"]
    order = ["hand", "leg", "hip", "shoulder", "hand+shoulder", "leg+hip", "other"]
    assert parts.cat.categories.tolist() == order == list(fracatlas.BODY_PARTS)
    assert parts.cat.ordered
    assert parts.tolist() == [part.replace("hand+leg", "other") for _, part, _ in MANY]
    assert set(fracatlas.UPPER_EXTREMITY) < set(order)


def test_25_consecutive_numbers_are_one_patient_and_rows_are_sorted(write):
    root = write(*((number, "hand", 0) for number in (4082, 50, 24, 25, 0, 49)))
    assert whole(root)["patient"].to_dict() == {
        **{0: "group000", 24: "group000", 25: "group001", 49: "group001"},
        **{50: "group002", 4082: "group163"},
    }


def test_a_part_of_the_folder_is_split_exactly_as_the_whole(write):
    root = write(*((5 * number, "hand", number % 2) for number in range(60)))
    split = whole(root)["split"]
    assert set(split) == {"train", "valid"}
    assert (whole(root).groupby("patient")["split"].nunique() == 1).all()
    assert split.eq("valid").tolist() == [held_out(one) for one in whole(root)["patient"]]
    head, *lines = read_lines(root / "dataset.csv")
    write_lines(root / "dataset.csv", [head, *lines[::-3]])
    assert whole(root)["split"].equals(split[whole(root).index])


def test_repeats_are_left_out_and_stand_in_the_first_ones_group(write):
    png = encoded(Image.open(io.BytesIO(JPEG)))  # other bytes, the same pixels
    root = write((3, "leg", 0, JPEG), (90, "leg", 0), (200, "leg", 0, png), (400, "hip", 0, JPEG))
    first = fracatlas_path(3, 0)
    assert reasons(root) == {200: f"repeats {first}", 400: f"repeats {first}"}
    assert whole(root)["patient"].tolist() == ["group000", "group003", "group000", "group000"]
    assert data.read(root)["path"].tolist() == [first, fracatlas_path(90, 0)]
    assert data.read(root).index.equals(pd.RangeIndex(2))


@pytest.mark.parametrize(("intact", "cut"), [(3, 200), (200, 3)])
def test_a_cut_off_file_is_found_to_repeat_an_intact_one(write, intact, cut):
    root = write((intact, "leg", 0, JPEG), (cut, "leg", 0, CUT), (90, "leg", 0))
    assert reasons(root) == {cut: f"cut off; repeats {fracatlas_path(intact, 0)}"}
    table = whole(root)
    assert table["patient"].to_dict() == {3: "group000", 90: "group003", 200: "group000"}
    assert table.loc[cut, ["height", "width"]].tolist() == [0, 0]
    assert ("truncated-image", fracatlas_path(cut, 0)) in findings(root)


def test_cut_off_files_without_an_intact_one_are_left_out(write):
    almost = encoded(np.vstack([PICTURE[:40], noise(5, 120, 80)]), "JPEG")  # begins the same
    root = write(
        *((3, "leg", 0, CUT), (90, "leg", 1, CUT), (120, "leg", 0, almost)),
        *((200, "leg", 0, JPEG[:50]), (300, "leg", 0, b""), (400, "leg", 0, b"no image")),
    )
    assert reasons(root) == {
        **{3: "cut off", 90: "cut off", 200: "cut off"},
        **{300: "cannot be read", 400: "cannot be read"},
    }
    assert whole(root)["patient"].nunique() == 6
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("copy", [JPEG, CUT])
def test_copies_that_contradict_each_other_are_all_left_out(write, copy):
    root = write((3, "leg", 1, JPEG), (90, "leg", 0), (200, "leg", 0, copy), (300, "leg", 1, JPEG))
    paths = [fracatlas_path(number, label) for number, label in ((3, 1), (200, 0), (300, 1))]
    why = f"contradiction: one picture with both labels ({', '.join(paths)})"
    assert reasons(root) == {3: why, 200: why, 300: why}
    assert whole(root)["patient"].tolist() == ["group000", "group003", "group000", "group000"]


def test_an_image_in_the_other_labels_folder_contradicts_its_row(write):
    root = write((3, "leg", 0), (90, "leg", 1), (120, "leg", 0))
    for number, label in ((3, 0), (90, 1)):
        (root / fracatlas_path(number, label)).rename(root / fracatlas_path(number, 1 - label))
    assert reasons(root) == {
        3: "contradiction: it lies in Fractured, and its row says 0",
        90: "contradiction: it lies in Non_fractured, and its row says 1",
    }
    assert whole(root)["path"].tolist()[:2] == [fracatlas_path(3, 1), fracatlas_path(90, 0)]
    assert [path for _, path in findings(root)] == [fracatlas_path(3, 1), fracatlas_path(90, 0)]
    assert data.boxes(root).empty


def test_missing_and_unlisted_files_are_found(write):
    root = write((3, "leg", 0), (90, "leg", 1), (120, "leg", 0))
    assert reasons(root) == {}
    (root / fracatlas_path(90, 1)).rename(root / "images" / "Fractured" / "other.jpg")
    (root / "images" / "Fractured" / ".DS_Store").touch()
    assert reasons(root) == {90: "missing"}  # at once, though the table did not change
    assert findings(root) == [
        ("unlisted-file", "images/Fractured/other.jpg"),
        ("left-out", fracatlas_path(90, 1)),
    ]


def test_a_file_that_was_replaced_is_looked_at_again(write):
    root = write((3, "leg", 0, CUT), (90, "leg", 1))
    assert reasons(root) == {3: "cut off"}
    (root / fracatlas_path(3, 0)).write_bytes(JPEG)
    assert reasons(root) == {}


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(1, UPRIGHT), (3, np.rot90(UPRIGHT, 2)), (6, np.rot90(UPRIGHT)), (8, np.rot90(UPRIGHT, -1))],
)
def test_boxes_are_in_pixels_of_the_upright_picture(write, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    root = write((3, "leg", 1, encoded(np.ascontiguousarray(stored), exif=exif)))
    assert data.read(root)[["width", "height"]].to_numpy().tolist() == [[64, 96]]
    box = data.boxes(root).iloc[0]
    assert box.tolist() == [fracatlas_path(3, 1), "fracture", 24, 24, 40, 72]
    gray = read_gray(data.image_file(root, box["path"]))
    assert np.array_equal(gray, UPRIGHT)
    assert gray[24:72, 24:40].min() == 255
    assert ("turned-by-metadata" in dict(findings(root))) == (orientation != 1)


def test_an_image_has_as_many_boxes_as_its_file(write):
    root = write(*((number, "leg", 1) for number in (3, 4, 5)), (6, "leg", 0), (7, "leg", 1, CUT))
    lines = ["0 0.5 0.5 0.25 0.5", "", "0 0.05 1 0.2 0.5"]
    write_lines(root / "Annotations" / "YOLO" / "IMG0000003.txt", lines)
    (root / "Annotations" / "YOLO" / "IMG0000004.txt").unlink()
    boxes = data.boxes(root)
    assert [*boxes] == ["path", "finding", "x0", "y0", "x1", "y1"]
    assert boxes["path"].tolist() == [fracatlas_path(number, 1) for number in (3, 3, 5)]
    corners = [[30, 24, 50, 72], [0, 72, 12, 96], [30, 24, 50, 72]]  # inside the image
    assert boxes[["x0", "y0", "x1", "y1"]].to_numpy() == pytest.approx(np.array(corners))


@pytest.mark.parametrize(
    "text",
    [
        *(b"0 0.5 0.5 0.1", b"0 0.5 0.5 0.1 wide", b"0 nan 0.5 0.1 0.1", b"0 0.5 0.5 -0.1 0.1"),
        *(b"0 0.5 0.5 inf 0.1", b"0 240 160 20 48", b"\xff\xfe0", b"\0\0\0\0"),
    ],
)
def test_a_damaged_file_of_boxes_is_named(write, text):
    root = write((3, "leg", 1))
    file = root / "Annotations" / "YOLO" / "IMG0000003.txt"
    file.write_bytes(b"0 0.5 0.5 0.25 0.5\n" + text)
    with pytest.raises(ManifestError, match="is no box; restore the file") as caught:
        data.boxes(root)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "not one column image_id, hand, leg, hip, shoulder, fractured; take it from the"),
        (["image_id,hand,leg,hip,shoulder"], "not one column fractured;"),
        ([f"{FRACATLAS_HEAD},hand"], "not one column hand;"),
        ([FRACATLAS_HEAD], "no rows; take it from the original archive"),
        (["ONE", "IMG0000004.jpg,0,1"], "line 3: no new image, 0 or 1"),
        (["ONE", "ONE"], "line 3: no new image"),
        (["ONE", "", "IMG0000004.jpg,0,1,0,0,0,0,0,2,0,0,0,0"], "line 4: .* 0 or 1"),
        (["ONE", "IMG0000004.jpg,0,,0,0,0,0,0,0,0,0,0,0"], "line 3: .* 0 or 1"),
        (["../IMG0000004.jpg,0,1,0,0,0,0,0,0,0,0,0,0", "ONE"], "line 2: no new image"),
        (["IMG٣.jpg,0,1,0,0,0,0,0,0,0,0,0,0", "ONE"], "line 2: no new image"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(write, lines, message):
    root = write((9, "leg", 0), (3, "leg", 0))
    file = root / "dataset.csv"
    one = "IMG0000003.jpg,0,1,0,0,0,0,0,0,0,1,0,0"
    head = [FRACATLAS_HEAD] if any("IMG" in line or line == "ONE" for line in lines) else []
    write_lines(file, head + [line.replace("ONE", one) for line in lines])
    for read in (data.read, audit):
        with pytest.raises(ManifestError, match=message) as caught:
            read(root)
        assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("settings", [{"index": True}, {"sep": ";", "index": False}])
@pytest.mark.filterwarnings("ignore:.*left out column:UserWarning")
def test_a_table_that_a_program_saved_again_says_the_same(write, settings):
    root = write(*MANY[:9])
    manifest = data.read(root)
    table = pd.read_csv(root / "dataset.csv").astype({"leg": float})
    table.assign(path="x", label=2, width=0, top="y").to_csv(root / "dataset.csv", **settings)
    pd.testing.assert_frame_equal(data.read(root), manifest)


def test_it_is_called_fracatlas_whatever_its_folder_is_called(clean):
    manifest = data.read(clean)
    assert manifest.attrs["data"] == data.data_name(clean) == "FracAtlas" != clean.name
    text = "42 of the 4,083 images; split by this project, in groups of 25 numbers; CC BY 4.0"
    assert data.data_note(clean, manifest) == text
    assert not data.is_synthetic("FracAtlas")


def test_a_table_of_ones_own_beside_images_is_not_taken_for_it(tmp_path):
    (tmp_path / "images").mkdir()
    write_lines(tmp_path / "dataset.csv", ["path,label,patient", "images/a.png,1,p"])
    assert data.read(tmp_path)["path"].tolist() == ["images/a.png"]
    assert source(tmp_path) is not fracatlas


def test_the_audit_finds_nothing_in_a_clean_folder(write, clean, capsys):
    assert main(["audit", str(clean)]) == 0
    assert capsys.readouterr().out.endswith("bones: no findings\n")
    gray = Image.fromarray(noise(5, 40, 2000)).convert("RGB")  # gray as RGB, of any size
    assert findings(write((3, "leg", 0, encoded(gray, "JPEG")))) == []


def test_the_audit_names_every_image_that_is_left_out(write, tmp_path, capsys):
    left = [(100 + number, "leg", 0, JPEG) for number in range(5)]
    root = write((3, "leg", 0, JPEG), *left, (200, "leg", 0, CUT), (300, "leg", 1))
    (root / fracatlas_path(300, 1)).unlink()
    assert main(["audit", str(root), "--json", str(tmp_path / "audit.json")]) == 1
    printed = capsys.readouterr().out
    assert "left-out: 7 (images that a training leaves out)" in printed
    assert f"{fracatlas_path(100, 0)}: repeats {fracatlas_path(3, 0)}" in printed
    found = json.loads((tmp_path / "audit.json").read_text())["findings"]
    named = {one["path"]: one["detail"] for one in found if one["kind"] == "left-out"}
    manifest = data.read(root, excluded=True).set_index("path")["excluded"]
    assert named == manifest[manifest != ""].to_dict()
    assert len(named) == 7


def test_one_training_comes_of_the_same_images_from_every_source(tmp_path):
    """MURA's lists begin with train, so here the groups of train have the lower numbers."""
    held = [held_out(f"group{group:03d}") for group in range(99)]
    train = [group for group in range(99) if not held[group]][:9]
    valid = [group for group in range(train[-1], 99) if held[group]][:3]
    images, studies, rows = [], [], []
    for group in train + valid:
        split = "train" if group in train else "valid"
        for number in range(5):
            part, label = ("hand", "shoulder")[(group + number) % 2], (group + number) // 2 % 2
            number += 25 * group
            images.append((number, part, label, encoded(noise(number, 50, 40))))
            study = (split, f"XR_{part.upper()}", group, number, label)
            studies.append((*study, 1))
            path = f"../{study_path(*study)}/image1.png"
            rows.append(f"{path},{label},{part},{split},group{group:03d}")
    roots = [
        write_layout(tmp_path, studies),
        write_fracatlas(tmp_path / "FracAtlas", images),
        tmp_path / "table" / "own.csv",
    ]
    for (*_, content), (*study, _) in zip(images, studies, strict=True):
        (tmp_path / study_path(*study) / "image1.png").write_bytes(content)
    roots[2].parent.mkdir()
    write_lines(roots[2], ["path,label,body_part,split,patient", *rows])
    manifests = [data.read(root) for root in roots]
    first, *others = [
        cached(*both, 32, tmp_path / "cache", False) for both in zip(manifests, roots, strict=True)
    ]
    assert first.shape == (60, 32, 32)
    assert all(np.array_equal(first, other) for other in others)
    settings = {"precision": "float32", "batch_size": 8, "epochs": 1}
    runs = [
        tiny_run(root, tmp_path / "models", name, **settings)
        for root, name in zip(roots, ("mura", "fracatlas", "table"), strict=True)
    ]
    first, *others = [run.load_model().get_weights() for run in runs]
    for other in others:
        for one, same in zip(first, other, strict=True):
            np.testing.assert_array_equal(one, same)


REAL = os.environ.get("MURA_TEST_FRACATLAS", "")
needs_real = pytest.mark.skipif(
    not (REAL and Path(REAL, "dataset.csv").is_file()),
    reason="set MURA_TEST_FRACATLAS to a folder of FracAtlas (images/ and dataset.csv)",
)


@pytest.fixture(scope="module")
def pictures():
    """Of each path of the real folder, its picture, and the cut-off files, by Pillow alone.

    A cut-off file has the picture of the intact one with the same first rows.
    """

    def digest(content):
        return hashlib.sha256(content).digest()

    found, cut, tops = {}, {}, defaultdict(set)
    for file in sorted(Path(REAL).glob("images/*/*.jpg")):
        path = file.relative_to(REAL).as_posix()
        try:
            image = ImageOps.exif_transpose(Image.open(file)).convert("L")
        except OSError:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
                image = Image.open(file).convert("L")
            cut[path] = image.size, digest(image.tobytes()[: 64 * image.width])
            continue
        pixels = image.tobytes()
        found[path] = image.size, digest(pixels)
        tops[image.size, digest(pixels[: 64 * image.width])].add(found[path])
    for path, top in cut.items():
        (found[path],) = tops[top]
    return found, sorted(cut)


@needs_real
def test_the_audit_names_every_fault_of_the_real_images(pictures, tmp_path):
    found, cut = pictures
    with Path(REAL, "dataset.csv").open() as file:
        labels = {row["image_id"]: row["fractured"] for row in csv.DictReader(file)}
    copies = defaultdict(list)
    for path in sorted(found, key=lambda path: Path(path).name):
        copies[found[path]].append(path)
    intact = [[path for path in paths if path not in cut] for paths in copies.values()]
    expected = {"images/Fractured/IMG0003298.jpg": "contradiction: it lies in Fractured"}
    for paths in copies.values():
        first = next(path for path in paths if path not in cut)
        contradicts = len({labels[Path(path).name] for path in paths}) > 1
        for path in paths:
            if contradicts:
                expected[path] = "contradiction: one picture with both labels"
            elif path != first:
                expected[path] = "cut off; " * (path in cut) + f"repeats {first}"
    if len(labels) == 2711:  # the part that this project has
        assert len(cut) == 46
        assert sum(len(paths) > 1 for paths in intact) == 58
        assert sum("both labels" in why for why in expected.values()) == 14
    assert main(["audit", REAL, "--json", str(tmp_path / "audit.json")]) == 1
    found = json.loads((tmp_path / "audit.json").read_text())["findings"]
    left = {one["path"]: one["detail"] for one in found if one["kind"] == "left-out"}
    assert left.keys() == expected.keys()
    assert all(left[path].startswith(why) for path, why in expected.items())
    assert [one["path"] for one in found if one["kind"] == "truncated-image"] == cut
    kept = data.read(REAL)
    assert len(kept) == len(labels) - len(expected)
    assert kept["path"].map(pictures[0]).is_unique


@needs_real
def test_copies_of_a_real_picture_never_stand_on_both_sides_of_a_split(pictures):
    manifest = data.read(REAL, excluded=True)
    picture = manifest["path"].map(pictures[0])
    assert picture.notna().all()
    for column in ("patient", "split"):
        assert (manifest.groupby(picture)[column].nunique() == 1).all()
    kept = data.read(REAL)
    part = data.split_patients(kept, 0.2)
    assert (part.groupby(kept["patient"]).nunique() == 1).all()
    assert set(part) == {"fit", "tune", "valid"}
