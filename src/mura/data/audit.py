"""Find what is wrong with a MURA-layout folder: its lists, its labels and every image file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from tqdm.auto import tqdm

from mura.data.image_checks import Finding, ImageFacts, check_image, find_copies
from mura.data.manifest import SPLITS, ManifestError, image_file, image_files
from mura.data.sources.mura import (
    BODY_PARTS,
    CSV_FILES,
    data_folder,
    list_images,
    list_labels,
    refuse_other_root,
)
from mura.files import printable
from mura.phantom.counts import IMAGE_COUNTS, PATIENT_COUNTS, STUDY_COUNTS

# Every kind of finding, in the order in which they are reported.
KINDS = {
    "malformed-row": "rows that are no image path of MURA's layout",
    "path-outside-root": "rows that lead out of the data folder",
    "link-outside-root": "symbolic links that lead out of the data folder",
    "appledouble-row": "rows that list AppleDouble files (._*)",
    "wrong-split": "rows in the list of another split",
    "duplicate-row": "rows that stand twice",
    "invalid-label": "labels other than 0 and 1",
    "conflicting-labels": "rows that label one study both 0 and 1",
    "label-against-folder": "studies whose label and folder name disagree",
    "study-under-both-labels": "study numbers with a positive and a negative folder",
    "unlabelled-study": "studies with images and no label",
    "study-without-images": "labelled studies with no image listed",
    "image-number-gap": "studies whose images are not numbered 1, 2, 3, ...",
    "patient-across-splits": "patients in more than one split",
    "missing-file": "listed files that are not there",
    "unlisted-file": "files that no list names",
    "appledouble-file": "AppleDouble files (._*) that macOS left; delete them",
    "empty-folder": "folders with nothing in them",
    "unreadable-file": "files that cannot be read",
    "empty-file": "files of 0 bytes",
    "not-an-image": "files that hold no image, or one of an unsupported kind",
    "oversized-image": "images too large to be radiographs (decompression bombs)",
    "truncated-image": "images that are cut off",
    "damaged-image": "images that cannot be decoded",
    "wrong-format": "images in another format than their name says",
    "unusual-mode": "images neither 8-bit gray nor RGB",
    "coloured-image": "RGB images that are not gray",
    "unusual-size": "images of a size that MURA does not have",
    "turned-by-metadata": "images that EXIF metadata turns or mirrors",
    "several-frames": "files with more than one image",
    "blank-image": "images of one gray level",
    "narrow-gray-range": "images of nearly one gray: a few pixels take the rest of the range",
    "byte-identical": "copies of a file within a split",
    "byte-identical-across-splits": "copies of a file in several splits",
    "byte-identical-with-different-labels": "copies of a file labelled normal and abnormal",
    "pixel-identical": "files with the same picture within a split",
    "pixel-identical-across-splits": "files with the same picture in several splits",
    "pixel-identical-with-different-labels": "the same picture labelled normal and abnormal",
    "count-against-published": "counts other than MURA v1.1's",
}
# A folder whose number of images is this close to MURA's counts as the complete data set.
_COMPLETE = 0.01
# File managers and notebooks create these again and again.
_COME_BACK = {".ds_store", "thumbs.db", "desktop.ini", ".ipynb_checkpoints"}
_EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """What an audit found.

    ``findings`` has the columns kind (a key of ``KINDS``), path and detail; ``counts`` says what
    the folder holds, found or not.
    """

    root: Path
    findings: pd.DataFrame
    counts: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.findings.empty

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "root": str(self.root),
            "ok": self.ok,
            "kinds": self.findings["kind"].value_counts(sort=False).to_dict(),
            "counts": self.counts,
            "findings": self.findings.to_dict("records"),
        }

    def __str__(self) -> str:
        images, patients = self.counts["images"], self.counts["patients"]
        lines = [
            f"{split}: {images[split]:,} images, {self.counts['studies'][split]:,} studies, "
            f"{patients[split]:,} patients"
            for split in SPLITS
        ]
        modes = ", ".join(f"{count:,} {mode}" for mode, count in self.counts["modes"].items())
        sides = " to ".join(map(str, self.counts["longer_side"]))
        lines.append(f"read: {self.counts['read']:,} files ({modes or 'none decoded'})")
        if sides:
            lines[-1] += f", longer sides {sides} pixels"
        for kind, group in self.findings.groupby("kind", sort=False):
            lines += ["", f"{kind}: {len(group):,} ({KINDS[kind]})"]
            shown = (f"{row.path}: {row.detail}" for row in group[:_EXAMPLES].itertuples())
            lines += [f"  {printable(line)}" for line in shown]  # a stranger chose the names
            if len(group) > _EXAMPLES:
                lines.append(f"  and {len(group) - _EXAMPLES:,} more (--json lists all)")
        kinds = self.findings["kind"].nunique()
        total = f"{len(self.findings):,} findings of {kinds} kinds" if kinds else "no findings"
        return "\n".join([*lines, "", f"{printable(str(self.root))}: {total}"])


def audit(root: str | Path, progress: bool = True) -> Report:
    """Check a data folder; every file is read once.

    Args:
        root: The folder that holds the four CSV files.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
        ManifestError: The folder has another name than all the paths in its lists begin with.
    """
    root = data_folder(root)
    lists = {
        split: list_images(root / f"{split}_image_paths.csv", split, root.name) for split in SPLITS
    }
    for split, table in lists.items():
        refuse_other_root(root / f"{split}_image_paths.csv", table, root.name)
    labels = {
        split: list_labels(root / f"{split}_labeled_studies.csv", split, root.name)
        for split in SPLITS
    }
    findings = [
        Finding(row.problem, getattr(row, key), f"{split}_{kind}.csv, line {row.line}")
        for kind, key, tables in (
            ("image_paths", "path", lists),
            ("labeled_studies", "study", labels),
        )
        for split, table in tables.items()
        for row in table[table["problem"] != ""].itertuples()
    ]
    images = pd.concat(lists.values(), ignore_index=True)
    images = images[images["problem"].isin(["", "wrong-split"])].drop_duplicates("path")
    studies = pd.concat(labels.values(), ignore_index=True)
    named = ["", "wrong-split", "duplicate-row", "conflicting-labels"]
    studies = studies[studies["problem"].isin(named)]
    images = images.rename(columns={"label": "folder_label"})
    by_study = studies.drop_duplicates("study").set_index("study")["label"]
    images["label"] = images["study"].map(by_study).astype("Int64")

    findings += _check_studies(images, studies)
    findings += _check_folder(root, set(images["path"]))
    files, links = _locate(root, list(images["path"]))
    findings += links
    looking = joblib.Parallel(-1, prefer="threads", return_as="generator_unordered")(
        joblib.delayed(check_image)(file, path) for file, path in files
    )
    bar = tqdm(looking, "auditing", len(files), unit="image", disable=not progress)
    facts = sorted(bar, key=lambda one: one.path)
    findings += [finding for one in facts for finding in one.findings]
    findings += find_copies(facts, images)
    counts = _count(images, facts)
    findings += _compare_with_published(counts)
    table = pd.DataFrame(findings, columns=Finding._fields, dtype="str")
    order = table["kind"].map(list(KINDS).index)
    table = table.assign(order=order).sort_values(["order", "path"], kind="stable")
    return Report(root, table[list(Finding._fields)].reset_index(drop=True), counts)


def _check_studies(images: pd.DataFrame, studies: pd.DataFrame) -> Iterator[Finding]:
    by_study = images.drop_duplicates("study")
    for row in by_study[by_study["label"].isna()].itertuples():
        yield Finding("unlabelled-study", row.study, "not in the list of labelled studies")
    for row in by_study[(by_study["label"] != by_study["folder_label"]).fillna(False)].itertuples():
        folder = "positive" if row.folder_label else "negative"
        yield Finding("label-against-folder", row.study, f"label {row.label}, folder {folder}")
    listed = set(by_study["study"])
    for study in dict.fromkeys(studies["study"]):
        if study not in listed:
            yield Finding("study-without-images", study, "labelled, but no image of it is listed")
    number = by_study["study"].str.replace(r"_(?:positive|negative)$", "", regex=True)
    for study in dict.fromkeys(number[number.duplicated()]):
        yield Finding("study-under-both-labels", study, "listed with two suffixes")
    for study, views in images.groupby("study", sort=False)["view"].agg(sorted).items():
        if views != list(range(1, len(views) + 1)):
            yield Finding("image-number-gap", study, f"images {', '.join(map(str, views))}")
    splits = images.groupby("patient")["split"].unique()
    for patient, found in splits[splits.map(len) > 1].items():
        yield Finding("patient-across-splits", patient, f"in {' and '.join(sorted(found))}")


def _check_folder(root: Path, listed: set[str]) -> Iterator[Finding]:
    """Yield what lies in the folder and is not listed."""
    known = listed | {f"{root.name}/{name}" for name in CSV_FILES}
    studies = {path.rpartition("/")[0] for path in listed}
    real_root = os.path.realpath(root)
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root.parent).as_posix()
        if not folders and not names and place not in studies:  # else its files are missing
            yield Finding("empty-folder", printable(place), "no file in it")
        for name in folders + names:
            path = f"{place}/{name}"
            file = os.path.join(folder, name)  # noqa: PTH118 (a Path for each takes far longer)
            if path in known:
                continue
            path = printable(path)
            if os.path.islink(file) and not _is_inside(file, real_root):  # noqa: PTH114
                yield Finding("link-outside-root", path, "leads out of the data folder")
            elif name.startswith("._"):
                yield Finding("appledouble-file", path, "no image; delete it")
            elif name in names and name.lower() not in _COME_BACK:
                yield Finding("unlisted-file", path, "in no list")
        folders[:] = [name for name in folders if name.lower() not in _COME_BACK]  # not entered


def _is_inside(file: str, real_root: str) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(real_root)


def _locate(root: Path, paths: list[str]) -> tuple[list[tuple[Path, str]], list[Finding]]:
    """Return the files to read, and the links that lead out of the root."""
    try:
        return list(zip(image_files(root, paths), paths, strict=True)), []
    except ManifestError:
        files, links = [], []
    for path in paths:
        try:
            files.append((image_file(root, path), path))
        except ManifestError:
            links.append(Finding("link-outside-root", path, "leads out of the data folder"))
    return files, links


def _count(images: pd.DataFrame, facts: list[ImageFacts]) -> dict[str, Any]:
    """Return JSON-ready counts; cells are [normal, abnormal]."""
    studies = images.drop_duplicates("study")
    patients = images.drop_duplicates(["split", "patient"])
    sides = pd.Series([max(one.width, one.height) for one in facts if one.width], dtype="int64")

    def cells(table: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
        found = table.groupby(["split", "body_part", "label"], observed=True).size()
        return {
            split: {
                part: [int(found.get((split, part, label), 0)) for label in (0, 1)]
                for part in BODY_PARTS
            }
            for split in SPLITS
        }

    def totals(table: pd.DataFrame) -> dict[str, int]:
        return {split: int((table["split"] == split).sum()) for split in SPLITS}

    views = images.groupby(["split", "study"]).size().groupby("split").value_counts()
    modes = pd.Series([one.mode for one in facts if one.mode], dtype="str").value_counts()
    return {
        "images": totals(images),
        "studies": totals(studies),
        "patients": totals(patients),
        "images_by_label": cells(images),
        "studies_by_label": cells(studies),
        "views_per_study": {
            split: {int(view): int(n) for (found, view), n in views.items() if found == split}
            for split in SPLITS
        },
        "read": len(facts),
        "modes": {mode: int(count) for mode, count in modes.items()},
        "longer_side": [int(sides.min()), int(sides.max())] if len(sides) else [],
    }


def _compare_with_published(counts: dict[str, Any]) -> Iterator[Finding]:
    """Yield cells that differ from MURA v1.1's, in a folder that is about as large."""
    published = sum(sum(cell) for cells in IMAGE_COUNTS.values() for cell in cells.values())
    if abs(sum(counts["images"].values()) - published) > _COMPLETE * published:
        return
    for what, expected in (("images", IMAGE_COUNTS), ("studies", STUDY_COUNTS)):
        for split in SPLITS:
            for part, cell in expected[split].items():
                found = counts[f"{what}_by_label"][split][part]
                if tuple(found) != tuple(cell):
                    detail = (
                        f"{found[0]} normal and {found[1]} abnormal {what}; "
                        f"published {cell[0]} and {cell[1]}"
                    )
                    yield Finding("count-against-published", f"{split}/{part}", detail)
    for split, expected in PATIENT_COUNTS.items():
        if counts["patients"][split] != expected:
            detail = f"{counts['patients'][split]} patients; published {expected}"
            yield Finding("count-against-published", split, detail)
