"""Every planted defect is found under its name, and nothing in clean folders."""

import json
import shutil

import pandas as pd
import pytest
from defects import PLANTS, Planter
from layout import PREFIX, write_layout

from mura import data
from mura.data import BODY_PARTS
from mura.data.audit import KINDS, audit
from mura.data.sources import mura


def kinds(report):
    return set(report.findings["kind"])


def found(report, kind):
    return report.findings.loc[report.findings["kind"] == kind, "path"].tolist()


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


def test_every_kind_of_defect_is_found_under_its_own_name(clean, tmp_path):
    # other tests plant these
    all_planted = {"left-out", "count-against-published", "white-is-zero", "clipped-image"}
    for number, plant in enumerate(PLANTS):
        planter = Planter(shutil.copytree(clean, tmp_path / str(number) / PREFIX))
        planted = dict(plant(planter))
        report = audit(planter.root, progress=False)
        # consequences of a planted defect, such as a file whose row was removed
        also = {"missing-file", "unlisted-file", "image-number-gap"}
        assert kinds(report) - set(planted) <= also
        for kind, path in planted.items():
            assert path in found(report, kind), (kind, found(report, kind))
            assert kind in also or len(found(report, kind)) <= 2, (kind, found(report, kind))
        all_planted |= set(planted)
    assert all_planted == set(KINDS)


def test_a_clean_folder_has_no_findings_and_the_manifests_counts(clean, phantom_root):
    assert audit(clean, progress=False).ok
    manifest = data.read(phantom_root)
    report = audit(phantom_root, progress=False)
    assert report.ok, str(report)
    assert "no findings" in str(report)
    counts = report.counts
    assert counts["read"] == sum(counts["modes"].values()) == len(manifest)
    for split in ("train", "valid"):
        images = manifest[manifest["split"] == split]
        assert counts["images"][split] == len(images)
        assert counts["studies"][split] == images["study"].nunique()
        assert counts["patients"][split] == images["patient"].nunique()
        table = pd.crosstab(images["body_part"], images["label"])
        for part, cell in counts["images_by_label"][split].items():
            assert cell == table.loc[part].tolist()


def test_the_report_reads_well_and_is_json(clean, tmp_path):
    planter = Planter(shutil.copytree(clean, tmp_path / PREFIX))
    for path in planter.images[:5]:
        (planter.folder / path).unlink()
    report = audit(planter.root, progress=False)
    text = str(report)
    assert "train: 60 images, 60 studies, 60 patients\n" in text
    assert "missing-file: 5 (listed files that are not there)" in text
    assert "and 2 more" in text
    assert text.endswith("findings of 1 kinds")
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["ok"] is False
    assert content["kinds"] == {"missing-file": 5}
    assert [finding["path"] for finding in content["findings"]] == planter.images[:5]
    assert set(content["findings"][0]) == {"kind", "path", "detail"}
    assert content["counts"]["images"] == {"train": 60, "valid": 60}


def test_a_folder_as_large_as_mura_is_compared_with_the_published_counts(clean, monkeypatch):
    own = audit(clean, progress=False).counts
    monkeypatch.setattr(mura, "IMAGE_COUNTS", own["images_by_label"])
    monkeypatch.setattr(mura, "STUDY_COUNTS", own["studies_by_label"])
    monkeypatch.setattr(mura, "PATIENT_COUNTS", own["patients"])
    assert audit(clean, progress=False).ok
    own["images_by_label"]["train"]["XR_HAND"] = (3, 5)
    own["patients"]["valid"] = 61
    report = audit(clean, progress=False)
    assert found(report, "count-against-published") == ["train/XR_HAND", "valid"]
    assert "published [3, 5]" in report.findings["detail"][0]


def test_unlisted_links_out_of_the_folder_are_found_and_links_inside_are_not(clean, tmp_path):
    root = shutil.copytree(clean, tmp_path / PREFIX)
    (root / "train" / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    (root / "train" / "secret.png").symlink_to(tmp_path / "secret.png")
    (root / "train" / "again").symlink_to(root / "valid", target_is_directory=True)
    report = audit(root, progress=False)
    assert report.findings[["kind", "path"]].to_numpy().tolist() == [
        ["link-outside-root", f"{PREFIX}/train/elsewhere"],
        ["link-outside-root", f"{PREFIX}/train/secret.png"],
    ]


def test_names_and_rows_cannot_hide_or_forge_what_is_found(clean, tmp_path):
    root = shutil.copytree(clean, tmp_path / "a\033[8m" / PREFIX)
    for name in ("a\033[2J\033[H", "z: in no list\n\nno findings\n", "größe"):
        (root / name).touch()
    (root / "b\033[1A").mkdir()
    with (root / "train_image_paths.csv").open("a") as file:
        file.write("row\033[2J\x9b2K/image1.png\n")
    report = audit(root, progress=False)
    text = str(report)
    assert all(line.isprintable() for line in text.split("\n"))
    for line in (
        rf"  {PREFIX}/a\x1b[2J\x1b[H: in no list",
        rf"  {PREFIX}/z: in no list\n\nno findings\n: in no list",
        f"  {PREFIX}/größe: in no list",
        rf"  {PREFIX}/b\x1b[1A: no file in it",
        r"  row\x1b[2J\x9b2K/image1.png: train_image_paths.csv, line 61",
    ):
        assert line in text.split("\n")
    assert text.endswith(rf"/a\x1b[8m/{PREFIX}: 5 findings of 3 kinds")


def test_empty_lists_are_audited_too(clean, tmp_path):
    root = shutil.copytree(clean, tmp_path / PREFIX)
    for file in root.glob("*.csv"):
        file.write_bytes(b"")
    report = audit(root, progress=False)
    assert kinds(report) == {"unlisted-file"}
    assert len(report.findings) == 120
    assert "read: 0 files (none decoded)" in str(report)
