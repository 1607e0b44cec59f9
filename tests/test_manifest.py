import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout import PREFIX, read_lines, study_path, write_layout, write_lines

from mura.data import BODY_PARTS, ManifestError, data_root, image_file, image_files, split_patients
from mura.data import read as read_manifest
from mura.data.manifest import COLUMNS
from mura.data.sources.mura import list_labels


@pytest.fixture
def root(tmp_path):
    return write_layout(tmp_path)


def test_one_row_per_image_in_the_order_of_the_files(root):
    manifest = read_manifest(root)
    listed = read_lines(root / "train_image_paths.csv") + read_lines(root / "valid_image_paths.csv")
    assert tuple(manifest.columns) == COLUMNS
    assert manifest["path"].tolist() == listed
    assert manifest.index.equals(pd.RangeIndex(16))
    first = manifest.iloc[0]
    assert first.to_dict() == {
        "path": "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png",
        "split": "train",
        "body_part": "XR_WRIST",
        "patient": "patient00001",
        "study": "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive",
        "view": 1,
        "label": 1,
    }
    assert manifest["study"].nunique() == 8  # patient 1 has study1 of two body parts
    assert manifest["label"].dtype == "Int64"
    assert manifest["label"].sum() == 3 + 2 + 2
    assert tuple(manifest["body_part"].cat.categories) == BODY_PARTS
    assert manifest["body_part"].cat.ordered
    assert manifest["view"].tolist()[:4] == [1, 2, 3, 1]


def test_labels_come_from_the_csv_and_not_from_the_folder(root):
    rows = read_lines(root / "train_labeled_studies.csv")
    rows[0] = rows[0].replace(",1", ",0")
    write_lines(root / "train_labeled_studies.csv", rows[:-1])
    manifest = read_manifest(root)
    assert manifest["label"][:3].tolist() == [0, 0, 0]
    unlabelled = manifest[manifest["label"].isna()]
    assert unlabelled["study"].unique().tolist() == [
        study_path("train", "XR_FOREARM", 4, 1, 0),
    ]


def _header(text):
    return b"path\n" + text if b".png" in text else b"study,label\n" + text


@pytest.mark.parametrize(
    "rewrite",
    [
        _header,
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"\xef\xbb\xbf" + _header(text),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: b"\n\n" + text.replace(b"\n", b"\n \n"),
        lambda text: text.replace(b"/", b"\\"),
        lambda text: text.replace(b"MURA", b"./MURA"),
        lambda text: text.decode().encode("utf-16"),
        lambda text: (
            b"".join(b'"%s"\n' % line for line in text.splitlines() if b"png" in line) or text
        ),
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"\n", b"  \n"),
        lambda text: text.replace(b"/,", b","),
    ],
    ids=[
        *("header", "bom", "bom-header", "crlf", "cr", "blank-lines", "windows", "dot", "utf-16"),
        *("quotes", "no-newline", "spaces", "no-trailing-slash"),
    ],
)
def test_every_way_of_writing_the_same_files_reads_the_same(root, rewrite):
    expected = read_manifest(root)
    for file in root.glob("*.csv"):
        file.write_bytes(rewrite(file.read_bytes()))
    pd.testing.assert_frame_equal(read_manifest(root), expected)


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("train_image_paths.csv", "/etc/passwd", "out of the root"),
        ("train_labeled_studies.csv", study_path("valid", "XR_HAND", 9, 1, 0) + "/,0", "split"),
        ("train_image_paths.csv", "C:\\MURA-v1.1\\train\\image1.png", "out of the root"),
        ("train_image_paths.csv", f"{PREFIX}/train/../../secret/image1.png", "out of the root"),
        ("train_image_paths.csv", "other/train/XR_HAND/patient00001/study1/image1.png", "below"),
        ("train_image_paths.csv", f"{PREFIX}/train/XR_HAND/image1.png", "no image of MURA"),
        ("train_image_paths.csv", f"{PREFIX}/train/XR_KNEE/patient1/study1/image1.png", "no image"),
        (
            "train_image_paths.csv",
            f"{PREFIX}/train/XR_HAND/patient00001/study1_negative/image1.gif",
            "no image",
        ),
        ("train_image_paths.csv", study_path("valid", "XR_HAND", 9, 1, 0) + "/image1.png", "split"),
        ("train_labeled_studies.csv", study_path("train", "XR_HAND", 9, 1, 0) + "/,2", "0 or 1"),
        ("train_labeled_studies.csv", study_path("train", "XR_HAND", 9, 1, 0), "0 or 1"),
        ("train_labeled_studies.csv", study_path("train", "XR_HAND", 9, 1, 0) + "/,nan", "0 or 1"),
        ("train_labeled_studies.csv", "../train/XR_HAND/patient00001/study1/,0", "out of the root"),
        ("train_labeled_studies.csv", "other/train/XR_HAND/patient00001/study1/,0", "below"),
        (
            "train_labeled_studies.csv",
            study_path("train", "XR_WRIST", 1, 1, 1) + "/,0",
            "both 0 and 1",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_line(root, file, row, message):
    rows = read_lines(root / file)
    write_lines(root / file, [*rows, row])
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(root)
    assert file in str(caught.value)
    conflict = message == "both 0 and 1"  # names the first of the two rows
    assert f"line {1 if conflict else len(rows) + 1}" in str(caught.value)


def test_a_path_listed_twice_is_refused_with_its_line(root):
    rows = read_lines(root / "valid_image_paths.csv")
    write_lines(root / "valid_image_paths.csv", [*rows, rows[1]])
    with pytest.raises(ManifestError, match=r"stand twice \(line 6"):
        read_manifest(root)


def test_a_study_labelled_twice_alike_is_no_problem(root):
    rows = read_lines(root / "valid_labeled_studies.csv")
    write_lines(root / "valid_labeled_studies.csv", [*rows, rows[0]])
    assert len(read_manifest(root)) == 16
    labels = list_labels(root / "valid_labeled_studies.csv", "valid", PREFIX)
    assert labels["problem"].tolist() == ["", "", "duplicate-row"]


def test_apple_double_rows_are_left_out_with_a_warning(root):
    rows = read_lines(root / "valid_image_paths.csv")
    hidden = rows[0].replace("image1", "._image1")
    write_lines(root / "valid_image_paths.csv", [hidden, *rows])
    with pytest.warns(UserWarning, match="left out 1 AppleDouble"):
        manifest = read_manifest(root)
    assert manifest["path"].tolist()[11:] == rows


def test_missing_files_are_named_with_what_to_do(root, tmp_path):
    (root / "train_labeled_studies.csv").unlink()
    (root / "valid_image_paths.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"train_labeled_studies\.csv") as caught:
        read_manifest(root)
    assert "valid_image_paths.csv" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="mura phantom"):
        read_manifest(tmp_path / "nowhere")


def test_a_folder_of_another_name_is_explained_and_a_link_of_the_right_name_works(root, tmp_path):
    listed = read_lines(root / "train_image_paths.csv")
    renamed = tmp_path / "mura"
    root.rename(renamed)
    for extra in ("", "../elsewhere/image1.png\n"):
        with (renamed / "train_image_paths.csv").open("a") as file:
            file.write(extra)
        with pytest.raises(ManifestError, match=r"named 'mura'; rename the folder to 'MURA"):
            read_manifest(renamed)
    write_lines(renamed / "train_image_paths.csv", listed)
    root.symlink_to(renamed, target_is_directory=True)
    manifest = read_manifest(root)
    assert all(file.is_file() for file in image_files(root, manifest["path"]))


def test_files_are_found_below_the_root_only(root, tmp_path):
    paths = read_manifest(root)["path"].tolist()
    assert image_files(root, paths) == [image_file(root, path) for path in paths]
    assert image_file(root, paths[0]) == tmp_path / paths[0]
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    for escape in ("secret.png", f"{PREFIX}/../secret.png", str(secret)):
        with pytest.raises(ManifestError, match="leads out of"):
            image_file(root, escape)


def test_links_out_of_the_root_are_refused_and_links_inside_are_followed(root, tmp_path):
    paths = read_manifest(root)["path"].tolist()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "image1.png").write_bytes(b"")
    first = tmp_path / paths[0]
    first.unlink()
    first.symlink_to(tmp_path / paths[1])
    assert image_files(root, paths)[0] == first
    first.unlink()
    first.symlink_to(first)  # a loop leads nowhere; reading it says so
    assert image_files(root, paths)[0] == first
    first.unlink()
    first.symlink_to(outside / "image1.png")
    with pytest.raises(ManifestError, match=r"image1\.png: leads out of"):
        image_files(root, paths)
    folder = (tmp_path / paths[5]).parent
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.symlink_to(outside, target_is_directory=True)
    with pytest.raises(ManifestError, match="leads out of"):
        image_files(root, [paths[5]])


def test_the_data_folder_is_the_argument_else_the_environment_else_the_checkout(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MURA_ROOT", "/somewhere/MURA-v1.1")
    assert data_root("here") == Path("here")
    assert data_root() == Path("/somewhere/MURA-v1.1")
    monkeypatch.delenv("MURA_ROOT")
    monkeypatch.chdir(tmp_path)
    assert data_root() == Path("data/phantom/MURA-v1.1")
    (tmp_path / "data" / "MURA-v1.1").mkdir(parents=True)
    assert data_root() == Path("data/MURA-v1.1")


def test_a_tilde_in_the_data_folder_is_ones_home(home, monkeypatch):
    assert data_root("~/MURA-v1.1") == home / "MURA-v1.1"
    monkeypatch.setenv("MURA_ROOT", "~/MURA-v1.1")
    assert data_root() == home / "MURA-v1.1"


@pytest.fixture(scope="module")
def many_patients():
    random = np.random.default_rng(1)
    rows = []
    for patient in range(2000):
        split = "train" if patient < 1800 else "valid"
        for part in random.choice(BODY_PARTS, random.integers(1, 3), replace=False):
            label = int(random.random() < 0.4)
            study = study_path(split, part, patient, 1, label)
            rows += [
                (split, part, f"patient{patient:05d}", study, label)
                for _ in range(random.integers(1, 4))
            ]
    return pd.DataFrame(rows, columns=["split", "body_part", "patient", "study", "label"])


def test_no_patient_is_in_two_parts_and_the_proportions_are_trains(many_patients):
    part = split_patients(many_patients, 0.1)
    assert part.index.equals(many_patients.index)
    assert (part[many_patients["split"] == "valid"] == "valid").all()
    assert set(part) == {"fit", "tune", "valid"}
    assert (many_patients.groupby("patient")["split"].nunique() == 1).all()
    assert (part.groupby(many_patients["patient"]).nunique() == 1).all()
    train = many_patients[many_patients["split"] == "train"]
    patients = train.groupby(part)["patient"].nunique()
    assert patients["tune"] / patients.sum() == pytest.approx(0.1, abs=0.01)
    shares = pd.crosstab([train["body_part"], train["label"]], part, normalize="columns")
    assert (shares["fit"] - shares["tune"]).abs().max() < 0.03
    assert (shares["tune"] > 0).all()


def test_the_split_is_a_function_of_the_seed_whatever_the_index(many_patients):
    part = split_patients(many_patients, seed=3)
    pd.testing.assert_series_equal(part, split_patients(many_patients.copy(), seed=3))
    assert not part.equals(split_patients(many_patients, seed=4))
    relabelled = many_patients.set_index(np.arange(len(part)) * 7 + 5)
    assert split_patients(relabelled, seed=3).index.equals(relabelled.index)
    assert split_patients(relabelled, seed=3).tolist() == part.tolist()


def test_odd_shares_of_tune_patients(many_patients):
    assert "tune" not in set(split_patients(many_patients, 0))
    for share in (-0.1, 1, 2):
        with pytest.raises(ManifestError, match="share"):
            split_patients(many_patients, share)


@pytest.mark.parametrize("module", ["manifest", "listings", "images", "pixel_cache", "audit"])
def test_the_data_layer_imports_neither_keras_nor_tensorflow(module):
    script = (
        f"import sys, mura.{module}; "
        "sys.exit(bool({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0


def test_labels_that_name_other_studies_are_pointed_out(root):
    """Labels per image, say, or of folders that were renamed."""
    file = root / "valid_labeled_studies.csv"
    rows = read_lines(file)
    write_lines(file, [rows[0], rows[1].replace("_negative", "")])
    with pytest.warns(UserWarning, match="1 of its 2 studies have no image listed, for example"):
        manifest = read_manifest(root)
    assert manifest["label"].isna().sum() == 3
    write_lines(file, [*rows, rows[0].replace("study1", "study9")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all images have labels: nothing is lost
        read_manifest(root)
