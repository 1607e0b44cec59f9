"""The lists of a data folder become one table, or an error that names the file and the line."""

import csv
import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from layout import PREFIX, read_lines, study_path, write_layout, write_lines

from mura import data
from mura.data import BODY_PARTS, ManifestError, image_file, image_files, split_patients
from mura.data.audit import audit
from mura.data.manifest import COLUMNS
from mura.data.sources.mura import list_labels


@pytest.fixture
def root(tmp_path):
    return write_layout(tmp_path)


def test_one_row_per_image_in_the_order_of_the_files(root):
    manifest = data.read(root)
    listed = read_lines(root / "train_image_paths.csv") + read_lines(root / "valid_image_paths.csv")
    assert tuple(manifest.columns) == COLUMNS
    assert manifest["path"].tolist() == listed
    assert manifest.index.equals(pd.RangeIndex(16))
    assert manifest.iloc[0].to_dict() == {
        "path": "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png",
        "split": "train",
        "body_part": "XR_WRIST",
        "patient": "patient00001",
        "study": "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive",
        "view": 1,
        "label": 1,
        "excluded": "",
    }
    assert manifest["study"].nunique() == 8  # patient 1 has study1 of two body parts
    assert manifest["label"].dtype == "Int64"
    assert manifest["label"].sum() == 3 + 2 + 2
    assert manifest["body_part"].dtype == data.BODY_PART_DTYPE
    assert manifest["view"].tolist()[:4] == [1, 2, 3, 1]


def test_labels_come_from_the_csv_and_not_from_the_folder(root):
    rows = read_lines(root / "train_labeled_studies.csv")
    rows[0] = rows[0].replace(",1", ",0")
    write_lines(root / "train_labeled_studies.csv", rows[:-1])
    manifest = data.read(root)
    assert manifest["label"][:3].tolist() == [0, 0, 0]
    unlabelled = manifest.loc[manifest["label"].isna(), "study"]
    assert unlabelled.unique().tolist() == [study_path("train", "XR_FOREARM", 4, 1, 0)]


def _header(text):
    return b"path\n" + text if b".png" in text else b"study,label\n" + text


def _table(separator=",", columns=slice(None), header=True, index=None, quote=0, end="\n"):
    """Write a list as a spreadsheet or pandas does; the index numbers rows from ``index``."""

    def write(text):
        rows = [line.split(",") for line in text.decode().splitlines()]
        names = ["path"] if len(rows[0]) == 1 else ["Study", " LABEL "]
        table = pd.DataFrame(rows, columns=names)[names[columns]]
        table.index += index or 0
        settings = {"sep": separator, "header": header, "index": index is not None}
        return table.to_csv(**settings, quoting=quote, lineterminator=end).encode()

    return write


def _labels(zero, one):
    return lambda text: text.replace(b"/,0", b"/," + zero).replace(b"/,1", b"/," + one)


def _again(text):
    """Read by pandas, which takes the first row for the header, and written with an index."""
    return pd.read_csv(io.BytesIO(text), dtype=str).to_csv().encode()


WAYS = {
    "semicolons": _table(";"),
    "tabs": _table("\t", header=False),
    "index": _table(index=0),
    "index-without-header": _table(header=False, index=0),
    "index-from-1": _table(";", header=False, index=1, end="\r\n"),
    "index-of-part": _table("\t", index=4711, quote=csv.QUOTE_ALL),
    "index-by-pandas": lambda text: b"Unnamed: 0" + _table(index=0)(text),
    "index-by-r": lambda text: _table(index=1)(text).removeprefix(b","),
    "index-and-no-header": _again,
    "other-order": _table(";", columns=slice(None, None, -1), quote=csv.QUOTE_NONNUMERIC),
    "other-order-without-header": _table(columns=slice(None, None, -1), header=False),
    "excel": lambda text: b"sep=;\r\n" + _table(";", end="\r\n")(text),
    "empty-columns-and-rows": lambda text: text.replace(b"\n", b",,,\n") + b",,,\n",
    "lines-in-quotes": lambda text: b'"' + text[:-1].replace(b"\n", b'"\n"') + b'"',
    "latin-1": lambda text: b"\xe9tude\n" + text,
    "utf-16-tabs": lambda text: _table("\t", index=0)(text).decode().encode("utf-16"),
    "float-labels": _labels(b"0.0", b" 1.0 "),
    "decimal-commas": lambda text: _labels(b"0,0", b"1,0")(text).replace(b"/,", b"/;"),
    "words": _labels(b"Normal", b"abnormal"),
    "more-words": _labels(b"negative", b"POSITIVE"),
    "truth": _labels(b"FALSE", b"True"),
    "header": _header,
    "bom-header": lambda text: b"\xef\xbb\xbf" + _header(text),
    "crlf": lambda text: text.replace(b"\n", b"\r\n"),
    "cr": lambda text: text.replace(b"\n", b"\r"),
    "blank-lines": lambda text: b"\n\n" + text.replace(b"\n", b"\n \n"),
    "windows": lambda text: text.replace(b"/", b"\\"),
    "dot": lambda text: text.replace(b"MURA", b"./MURA"),
    "utf-16": lambda text: text.decode().encode("utf-16"),
    "quotes": lambda text: (
        b"".join(b'"%s"\n' % line for line in text.splitlines() if b"png" in line) or text
    ),
    "spaces": lambda text: text.replace(b"\n", b"  \n"),
    "no-trailing-slash": lambda text: text.replace(b"/,", b","),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_the_same_files_reads_the_same(root, way):
    expected = data.read(root)
    before = audit(root, progress=False).findings
    for file in root.glob("*.csv"):
        file.write_bytes(WAYS[way](file.read_bytes()))
    pd.testing.assert_frame_equal(data.read(root), expected)
    pd.testing.assert_frame_equal(audit(root, progress=False).findings, before)


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_separator_in_the_folders_name_separates_nothing(root, tmp_path, separator):
    expected = data.read(root)["label"]
    renamed = root.rename(tmp_path / f"MURA{separator} fractures")
    for file in renamed.glob("*.csv"):
        file.write_text(file.read_text().replace(PREFIX, renamed.name))
    manifest = data.read(renamed)
    assert manifest["path"].str.startswith(f"{renamed.name}/").all()
    assert manifest["label"].equals(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7,{},1\n8,{},0\n", "study from column 2, label from column 3 and left out column 1."),
        ("1;{}\n0;{}\n", "study from column 2, label from column 1."),
        ("Folder,finding,age\n{},1,40\n{},0,7\n", "label from column 2 and left out column 3."),
        (",label,study\n0,1,{}\n1,0,{}\n", "study from column 3 and left out column 1."),
        ("{}\t1\twrist, ap\n{}\t0\t\n", "label from column 2 and left out column 3."),
    ],
)
def test_it_is_said_which_column_is_what_in_unusual_lists(root, text, said):
    expected = data.read(root)
    file = root / "valid_labeled_studies.csv"
    file.write_text(text.format(*(row.rpartition(",")[0] for row in read_lines(file))))
    with pytest.warns(UserWarning, match=f": read .*{said}$"):
        pd.testing.assert_frame_equal(data.read(root), expected)


def test_muras_own_lists_are_read_without_a_word(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.read(root)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rows_of_a_table_are_named_by_their_line(root):
    file = root / "train_labeled_studies.csv"
    rows = [f"{number};{line.replace(',', ';')}" for number, line in enumerate(read_lines(file))]
    rows[2] = rows[2][:-1] + "maybe"
    write_lines(file, [";study;label", "", *rows])
    with pytest.raises(ManifestError, match=r": 1 rows that have a label .*\(line 5: 'MURA-v1\.1/"):
        data.read(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("/etc/passwd", "out of the data folder"),
        ("C:\\MURA-v1.1\\train\\image1.png", "out of the data folder"),
        (f"{PREFIX}/train/../../secret/image1.png", "out of the data folder"),
        ("other/train/XR_HAND/patient00001/study1/image1.png", "not below its name"),
        (f"{PREFIX}/train/XR_HAND/image1.png", "not image paths of MURA"),
        (f"{PREFIX}/train/XR_KNEE/patient1/study1/image1.png", "not image paths"),
        (f"{PREFIX}/train/XR_HAND/patient00001/study1_negative/image1.gif", "not image paths"),
        (study_path("valid", "XR_HAND", 9, 1, 0) + "/image1.png", "list of another split"),
        (study_path("train", "XR_WRIST", 1, 1, 1) + "/image2.png", "listed twice"),
        (study_path("valid", "XR_HAND", 9, 1, 0) + "/,0", "list of another split"),
        (study_path("train", "XR_HAND", 9, 1, 0) + "/,2", "other than 0 or 1"),
        (study_path("train", "XR_HAND", 9, 1, 0), "other than 0 or 1"),
        (study_path("train", "XR_HAND", 9, 1, 0) + "/,nan", "other than 0 or 1"),
        ("../train/XR_HAND/patient00001/study1/,0", "out of the data folder"),
        ("other/train/XR_HAND/patient00001/study1/,0", "not below its name"),
        (study_path("train", "XR_WRIST", 1, 1, 1) + "/,0", "both 0 and 1"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_line(root, row, message):
    images = row.endswith((".png", ".gif", "passwd"))
    file = root / f"train_{'image_paths' if images else 'labeled_studies'}.csv"
    rows = read_lines(file)
    write_lines(file, [*rows, row])
    with pytest.raises(ManifestError, match=message) as caught:
        data.read(root)
    assert str(file) in str(caught.value)
    conflict = message == "both 0 and 1"  # names the first of the two rows
    assert f"line {1 if conflict else len(rows) + 1}" in str(caught.value)


def test_a_study_labelled_twice_alike_is_no_problem(root):
    rows = read_lines(root / "valid_labeled_studies.csv")
    write_lines(root / "valid_labeled_studies.csv", [*rows, rows[0]])
    assert len(data.read(root)) == 16
    labels = list_labels(root / "valid_labeled_studies.csv", "valid", PREFIX)
    assert labels["problem"].tolist() == ["", "", "duplicate-row"]


def test_apple_double_rows_are_left_out_with_a_warning(root):
    rows = read_lines(root / "valid_image_paths.csv")
    hidden = rows[0].replace("image1", "._image1")
    write_lines(root / "valid_image_paths.csv", [hidden, *rows])
    with pytest.warns(UserWarning, match="left out 1 AppleDouble"):
        assert data.read(root)["path"].tolist()[11:] == rows


def test_labels_that_name_other_studies_are_pointed_out(root):
    """Labels per image, say, or of folders that were renamed."""
    file = root / "valid_labeled_studies.csv"
    rows = read_lines(file)
    write_lines(file, [rows[0], rows[1].replace("_negative", "")])
    with pytest.warns(UserWarning, match="1 of its 2 studies have no image listed, for example"):
        assert data.read(root)["label"].isna().sum() == 3
    write_lines(file, [*rows, rows[0].replace("study1", "study9")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all images have labels: nothing is lost
        data.read(root)


def test_missing_files_are_named_with_what_to_do(root, tmp_path):
    (root / "train_labeled_studies.csv").unlink()
    (root / "valid_image_paths.csv").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"train_labeled_studies\.csv, valid_image_paths\.csv missing"
    ):
        data.read(root)
    with pytest.raises(FileNotFoundError, match="mura phantom"):
        data.read(tmp_path / "nowhere")


def test_a_renamed_folder_is_explained_and_a_link_of_the_right_name_works(root, tmp_path):
    renamed = root.rename(tmp_path / "mura")
    with pytest.raises(ManifestError, match=r"named 'mura'; rename the folder to 'MURA"):
        data.read(renamed)
    root.symlink_to(renamed, target_is_directory=True)
    manifest = data.read(root)
    assert all(file.is_file() for file in image_files(root, manifest["path"]))


def test_only_files_below_the_root_are_found(root, tmp_path):
    paths = data.read(root)["path"].tolist()
    assert image_files(root, paths) == [tmp_path / path for path in paths]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "image1.png").write_bytes(b"")
    for escape in ("outside/image1.png", f"{PREFIX}/../outside/image1.png", str(outside)):
        with pytest.raises(ManifestError, match="leads out of"):
            image_file(root, escape)
    first = tmp_path / paths[0]
    for target in (tmp_path / paths[1], first):  # the second is a loop, which reading will report
        first.unlink()
        first.symlink_to(target)
        assert image_files(root, paths)[0] == first
    first.unlink()
    first.symlink_to(outside / "image1.png")
    with pytest.raises(ManifestError, match=r"image1\.png: leads out of"):
        image_files(root, paths)
    folder = (tmp_path / paths[5]).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(outside, target_is_directory=True)
    with pytest.raises(ManifestError, match="leads out of"):
        image_files(root, [paths[5]])


@pytest.fixture(scope="module")
def many_patients():
    random = np.random.default_rng(1)
    rows = []
    for patient in range(2000):
        split = "train" if patient < 1800 else "valid"
        for part in random.choice(BODY_PARTS, random.integers(1, 3), replace=False):
            label = int(random.random() < 0.4)
            study = study_path(split, part, patient, 1, label)
            row = (split, part, f"patient{patient:05d}", study, label)
            rows += [row] * random.integers(1, 4)
    return pd.DataFrame(rows, columns=["split", "body_part", "patient", "study", "label"])


def test_no_patient_is_in_two_parts_and_the_proportions_are_trains(many_patients):
    part = split_patients(many_patients, 0.1)
    assert part.index.equals(many_patients.index)
    assert (part[many_patients["split"] == "valid"] == "valid").all()
    assert set(part) == {"fit", "tune", "valid"}
    assert (part.groupby(many_patients["patient"]).nunique() == 1).all()
    train = many_patients[many_patients["split"] == "train"]
    patients = train.groupby(part)["patient"].nunique()
    assert patients["tune"] / patients.sum() == pytest.approx(0.1, abs=0.01)
    shares = pd.crosstab([train["body_part"], train["label"]], part, normalize="columns")
    assert (shares["fit"] - shares["tune"]).abs().max() < 0.03
    assert (shares["tune"] > 0).all()


def test_the_split_is_a_function_of_the_seed_whatever_the_index(many_patients):
    part = split_patients(many_patients, seed=3)
    assert not part.equals(split_patients(many_patients, seed=4))
    relabelled = many_patients.set_index(np.arange(len(part)) * 7 + 5)
    again = split_patients(relabelled, seed=3)
    assert again.index.equals(relabelled.index)
    assert again.tolist() == part.tolist()
    assert "tune" not in set(split_patients(many_patients, 0))
    for share in (-0.1, 1):
        with pytest.raises(ManifestError, match="share"):
            split_patients(many_patients, share)


@pytest.mark.parametrize(
    "module", ["data", "data.cache", "data.audit", "evaluation", "runs", "predict", "export"]
)
def test_data_evaluation_and_exported_predictions_need_no_keras(module):
    script = (
        f"import sys, mura.{module}; "
        "sys.exit(bool({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0
