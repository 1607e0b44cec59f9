import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from layout import PREFIX, encoded, noise, read_lines, study_path, write_layout, write_lines
from PIL import Image
from test_images import png

from mura import audit as audit_module
from mura.audit import KINDS, audit
from mura.manifest import BODY_PARTS, read_manifest


def kinds(report):
    return set(report.findings["kind"])


def found(report, kind):
    return report.findings.loc[report.findings["kind"] == kind, "path"].tolist()


class Planter:
    """A copy of a clean data folder into which defects are planted, each with its own images."""

    def __init__(self, root):
        self.root, self.folder = root, root.parent
        images = read_manifest(root)
        self.images = images["path"].tolist()
        studies = images.drop_duplicates("study")
        self.studies = list(zip(studies["path"], studies["split"], studies["label"], strict=True))
        self.used = set()

    def take(self, split=None, label=None):
        """The path of an image of a study that no other defect uses."""
        for path, its_split, its_label in self.studies:
            if path not in self.used and split in (None, its_split) and label in (None, its_label):
                self.used.add(path)
                return path
        raise AssertionError("the clean folder has too few studies")

    def rows(self, name, change):
        file = self.root / name
        write_lines(file, change(read_lines(file)))

    def replace(self, content):
        path = self.take("train")
        (self.folder / path).write_bytes(content)
        return path

    def image(self, path):
        return np.asarray(Image.open(self.folder / path).convert("L"))


def plant_rows(planter):
    def train(row):
        planter.rows("train_image_paths.csv", lambda rows: [*rows, row])

    def label(row):
        planter.rows("train_labeled_studies.csv", lambda rows: [*rows, row])

    train(f"{PREFIX}/train/XR_KNEE/patient00001/study1_positive/image1.png")
    yield "malformed-row", f"{PREFIX}/train/XR_KNEE/patient00001/study1_positive/image1.png"
    train("../../etc/image1.png")
    yield "path-outside-root", "../../etc/image1.png"
    train(f"{PREFIX}/train/XR_HAND/patient00001/study1_negative/._image1.png")
    yield "appledouble-row", f"{PREFIX}/train/XR_HAND/patient00001/study1_negative/._image1.png"
    stray = planter.take("valid")
    planter.rows("valid_image_paths.csv", lambda rows: [row for row in rows if row != stray])
    train(stray)
    yield "wrong-split", stray
    path = planter.take("train")
    train(path)
    yield "duplicate-row", path
    label(study_path("train", "XR_HAND", 90_000, 1, 1) + "/,2")
    yield "invalid-label", study_path("train", "XR_HAND", 90_000, 1, 1)
    label(study_path("train", "XR_HAND", 90_001, 1, 1) + "/,1")
    yield "study-without-images", study_path("train", "XR_HAND", 90_001, 1, 1)
    study = planter.take("train", label=0).rpartition("/")[0]
    label(f"{study}/,1")
    yield "conflicting-labels", study
    study = planter.take("train", label=1).rpartition("/")[0]
    planter.rows(
        "train_labeled_studies.csv",
        lambda rows: [row.replace(f"{study}/,1", f"{study}/,0") for row in rows],
    )
    yield "label-against-folder", study
    study = planter.take("train").rpartition("/")[0]
    planter.rows(
        "train_labeled_studies.csv",
        lambda rows: [row for row in rows if not row.startswith(f"{study}/")],
    )
    yield "unlabelled-study", study
    path = planter.take("train", label=0)
    other = path.replace("_negative", "_positive").rpartition("/")[0]
    (planter.folder / other).mkdir()
    (planter.folder / other / "image1.png").write_bytes(encoded(noise(1000, 100, 90)))
    train(f"{other}/image1.png")
    label(f"{other}/,1")
    yield "study-under-both-labels", path.rpartition("/")[0].removesuffix("_negative")
    path = planter.take("train")
    gap = path.replace("image1.png", "image99.png")
    (planter.folder / gap).write_bytes(encoded(noise(1001, 100, 90)))
    train(gap)
    yield "image-number-gap", path.rpartition("/")[0]
    path = planter.take("train")
    patient = path.split("/")[3]
    crossing = f"{PREFIX}/valid/XR_HAND/{patient}/study7_negative"
    (planter.folder / crossing).mkdir(parents=True)
    (planter.folder / crossing / "image1.png").write_bytes(encoded(noise(1002, 100, 90)))
    planter.rows("valid_image_paths.csv", lambda rows: [*rows, f"{crossing}/image1.png"])
    planter.rows("valid_labeled_studies.csv", lambda rows: [*rows, f"{crossing}/,0"])
    yield "patient-across-splits", patient


def plant_files(planter):
    path = planter.take()
    (planter.folder / path).unlink()
    yield "missing-file", path
    path = planter.take()
    (planter.folder / "outside.png").write_bytes(encoded(noise(1003, 100, 90)))
    (planter.folder / path).unlink()
    (planter.folder / path).symlink_to(planter.folder / "outside.png")
    yield "link-outside-root", path
    path = planter.take().replace("image1.png", "image50.png")
    (planter.folder / path).write_bytes(encoded(noise(1004, 100, 90)))
    yield "unlisted-file", path
    path = planter.take().replace("image1.png", "._image1.png")
    (planter.folder / path).write_bytes(b"\0\5\x16\7 Mac OS X")
    yield "appledouble-file", path
    (planter.root / "train" / "XR_HAND" / "patient99999").mkdir(parents=True)
    yield "empty-folder", f"{PREFIX}/train/XR_HAND/patient99999"
    path = planter.take()
    (planter.folder / path).unlink()
    (planter.folder / path).mkdir()
    (planter.folder / path / "image").write_bytes(b"")
    yield "unreadable-file", path


def plant_images(planter):
    whole = encoded(noise(2000, 100, 90))
    yield "empty-file", planter.replace(b"")
    yield "not-an-image", planter.replace(b"a text that was renamed to .png\n" * 10)
    yield "oversized-image", planter.replace(png(60_000, 60_000))
    yield "truncated-image", planter.replace(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    yield "damaged-image", planter.replace(bytes(damaged))
    yield "wrong-format", planter.replace(encoded(noise(2001, 100, 90), "JPEG"))
    yield (
        "unusual-mode",
        planter.replace(encoded(noise(2002, 100, 90).astype(np.uint16) * 250)),
    )
    yield "coloured-image", planter.replace(encoded(np.dstack([noise(n) for n in (1, 2, 3)])))
    yield "unusual-size", planter.replace(encoded(noise(2003, 600, 90)))
    exif = Image.Exif()
    exif[0x0112] = 3
    yield "turned-by-metadata", planter.replace(encoded(noise(2004, 100, 90), exif=exif))
    frames = [Image.fromarray(noise(seed, 100, 90)) for seed in (2005, 2006)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    yield "several-frames", planter.replace(file.getvalue())
    yield "blank-image", planter.replace(encoded(np.full((100, 90), 7, np.uint8)))


def plant_copies(planter):
    def copy(source, target, again=False):
        content = (planter.folder / source).read_bytes()
        if again:
            content = encoded(planter.image(source), compress_level=0)
        (planter.folder / target).write_bytes(content)
        return min(source, target)

    for name, again in (("byte", False), ("pixel", True)):
        yield (
            f"{name}-identical",
            copy(planter.take("train", 1), planter.take("train", 1), again),
        )
        yield (
            f"{name}-identical-with-different-labels",
            copy(planter.take("train", 0), planter.take("train", 1), again),
        )
    for name, again in (("byte", False), ("pixel", True)):
        source, target = planter.take("train", 0), planter.take("valid", 0)
        yield f"{name}-identical-across-splits", copy(source, target, again)


def many_studies():
    """60 studies a split with one image each, of all body parts and both labels."""
    return [
        (split, BODY_PARTS[number % 7], number + 1 + 100 * (split == "valid"), 1, number % 2, 1)
        for split in ("train", "valid")
        for number in range(60)
    ]


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    return write_layout(tmp_path_factory.mktemp("clean"), many_studies())


@pytest.mark.parametrize("plant", [plant_rows, plant_files, plant_images, plant_copies])
def test_every_planted_defect_is_found_under_its_own_name(phantom_root, tmp_path, plant):
    shutil.copytree(phantom_root, tmp_path / PREFIX)
    planter = Planter(tmp_path / PREFIX)
    planted = dict(plant(planter))
    report = audit(planter.root, progress=False)
    for kind, path in planted.items():
        assert path in found(report, kind), (kind, found(report, kind))
    assert not report.ok
    # consequences of a planted defect, such as a removed row's file that no list names any more
    assert kinds(report) - set(planted) <= {"missing-file", "unlisted-file", "image-number-gap"}
    for kind, path in planted.items():
        if kind not in ("image-number-gap", "missing-file"):
            assert len(found(report, kind)) <= 2, (kind, found(report, kind), path)


def test_the_planted_kinds_are_all_kinds(clean, tmp_path):
    planted = set()
    for number, plant in enumerate((plant_rows, plant_files, plant_images, plant_copies)):
        shutil.copytree(clean, tmp_path / str(number) / PREFIX)
        planted |= {kind for kind, _ in plant(Planter(tmp_path / str(number) / PREFIX))}
    assert planted | {"count-against-published"} == set(KINDS)
    assert len(planted) >= 25


def test_a_clean_folder_and_a_clean_phantom_have_no_findings(clean, phantom_root):
    for root in (clean, phantom_root):
        report = audit(root, progress=False)
        assert report.ok, str(report)
        assert report.counts["read"] == len(read_manifest(root))
        assert "no findings" in str(report)


def test_counts_are_those_of_the_manifest(phantom_root):
    manifest = read_manifest(phantom_root)
    counts = audit(phantom_root, progress=False).counts
    for split in ("train", "valid"):
        images = manifest[manifest["split"] == split]
        assert counts["images"][split] == len(images)
        assert counts["studies"][split] == images["study"].nunique()
        assert counts["patients"][split] == images["patient"].nunique()
        table = pd.crosstab(images["body_part"], images["label"])
        for part, (normal, abnormal) in counts["images_by_label"][split].items():
            assert (normal, abnormal) == tuple(table.loc[part])
        views = images.groupby("study").size().value_counts()
        assert counts["views_per_study"][split] == views.to_dict()
    assert sum(counts["modes"].values()) == len(manifest)


def test_the_report_reads_well_and_is_json(clean, tmp_path):
    shutil.copytree(clean, tmp_path / PREFIX)
    planter = Planter(tmp_path / PREFIX)
    for path in planter.images[:5]:
        (planter.folder / path).unlink()
    report = audit(planter.root, progress=False)
    text = str(report)
    assert "missing-file: 5 (listed files that are not there)" in text
    assert "and 2 more" in text
    assert text.endswith("findings of 1 kinds")
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["ok"] is False
    assert content["kinds"] == {"missing-file": 5}
    assert [finding["path"] for finding in content["findings"]] == planter.images[:5]
    assert set(content["findings"][0]) == {"kind", "path", "detail"}
    assert content["counts"]["images"] == {"train": 60, "valid": 60}


def test_the_report_is_the_same_whatever_thread_is_first(clean, tmp_path):
    shutil.copytree(clean, tmp_path / PREFIX)
    planter = Planter(tmp_path / PREFIX)
    for _ in plant_copies(planter):
        continue
    first, second = (audit(planter.root, progress=False) for _ in range(2))
    pd.testing.assert_frame_equal(first.findings, second.findings)


def test_a_folder_as_large_as_mura_is_compared_with_the_published_counts(clean, monkeypatch):
    own = audit(clean, progress=False).counts
    tables = {
        name: {
            split: {part: tuple(cell) for part, cell in cells.items()}
            for split, cells in own[key].items()
        }
        for name, key in (("IMAGE_COUNTS", "images_by_label"), ("STUDY_COUNTS", "studies_by_label"))
    }
    tables["PATIENT_COUNTS"] = dict(own["patients"])
    for name, table in tables.items():
        monkeypatch.setattr(audit_module, name, table)
    assert audit(clean, progress=False).ok
    tables["IMAGE_COUNTS"]["train"]["XR_HAND"] = (3, 5)
    tables["PATIENT_COUNTS"]["valid"] = 61
    report = audit(clean, progress=False)
    assert found(report, "count-against-published") == ["train/XR_HAND", "valid"]
    assert "published 3 and 5" in report.findings["detail"][0]


def test_it_does_not_run_without_the_csv_files(clean, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data folder"):
        audit(tmp_path / "nowhere")
    shutil.copytree(clean, tmp_path / PREFIX)
    (tmp_path / PREFIX / "valid_image_paths.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"valid_image_paths\.csv"):
        audit(tmp_path / PREFIX)


def test_empty_lists_are_audited_too(clean, tmp_path):
    shutil.copytree(clean, tmp_path / PREFIX)
    for file in (tmp_path / PREFIX).glob("*.csv"):
        file.write_bytes(b"")
    report = audit(tmp_path / PREFIX, progress=False)
    assert kinds(report) == {"unlisted-file"}
    assert len(report.findings) == 120


def test_the_command_prints_the_findings_and_exits_with_their_status(clean, tmp_path):
    shutil.copytree(clean, tmp_path / PREFIX)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def run(root):
        command = [sys.executable, "-m", "mura.cli", "audit", root, "--json", tmp_path / "a.json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    result = run(tmp_path / PREFIX)
    assert (result.returncode, "no findings" in result.stdout) == (0, True), result.stderr
    Planter(tmp_path / PREFIX).replace(b"")
    result = run(tmp_path / PREFIX)
    assert (result.returncode, "empty-file: 1" in result.stdout) == (1, True)
    assert json.loads((tmp_path / "a.json").read_text())["kinds"] == {"empty-file": 1}
    result = run(tmp_path / "nowhere")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
