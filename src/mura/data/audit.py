"""Find what is wrong with a MURA-layout folder: its lists, its labels and every image file."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mura.data.image_checks import ImageFacts, Issue, check_image, find_copies
from mura.data.images import COME_BACK
from mura.data.manifest import BODY_PARTS, SPLITS
from mura.data.sources import mura as layout
from mura.files import printable
from mura.phantom.counts import IMAGE_COUNTS, PATIENT_COUNTS, STUDY_COUNTS

# Every kind of finding, in the order in which they are reported.
KINDS = {
    **layout.PROBLEMS,
    "link-outside-root": "symbolic links that lead out of the data folder",
    "appledouble-row": "rows that list AppleDouble files (._*)",
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
    "white-is-zero": "images whose lowest value is white; they are read inverted",
    "coloured-image": "RGB images that are not gray",
    "unusual-size": "images of a size that MURA does not have",
    "turned-by-metadata": "images that EXIF metadata turns or mirrors",
    "several-frames": "files with more than one image",
    "blank-image": "images of one gray level",
    "narrow-gray-range": "images of nearly one gray: a few pixels take the rest of the range",
    "clipped-image": "images that are plain white or black in most places",
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
_EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """``findings`` (columns kind, a key of ``KINDS``, path, detail), and what the folder holds."""

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
        counts, whats = self.counts, ("images", "studies", "patients")
        lines = [
            f"{split}: " + ", ".join(f"{counts[what][split]:,} {what}" for what in whats)
            for split in SPLITS
        ]
        modes = ", ".join(f"{count:,} {mode}" for mode, count in counts["modes"].items())
        sides = " to ".join(map(str, counts["longer_side"]))
        decoded = f"{modes}; longer sides {sides} pixels" if modes else "none decoded"
        lines.append(f"read: {counts['read']:,} files ({decoded})")
        for kind, group in self.findings.groupby("kind", sort=False):
            lines += ["", f"{kind}: {len(group):,} ({KINDS[kind]})"]
            for row in group[:_EXAMPLES].itertuples():  # a stranger chose the names
                lines.append(f"  {printable(f'{row.path}: {row.detail}')}")
            if len(group) > _EXAMPLES:
                lines.append(f"  and {len(group) - _EXAMPLES:,} more (--json lists all)")
        kinds = self.findings["kind"].nunique()
        total = f"{len(self.findings):,} findings of {kinds} kinds" if kinds else "no findings"
        return "\n".join([*lines, "", f"{printable(str(self.root))}: {total}"])


def audit(root: str | Path, progress: bool = True) -> Report:
    """Check a data folder (the one that holds the four CSV files); every file is read once.

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
        ManifestError: The folder was renamed: its lists name another one.
    """
    root = layout.data_folder(root)
    issues, tables = [], {"path": [], "study": []}
    for name in layout.CSV_FILES:
        split, key = name.split("_")[0], "path" if "image" in name else "study"
        if key == "path":
            table = layout.list_images(root / name, split, root.name)
            layout.refuse_other_root(root / name, table, root.name)
        else:
            table = layout.list_labels(root / name, split, root.name)
        tables[key].append(table)
        bad = table[table["problem"] != ""]
        for kind, text, line in zip(bad["problem"], bad[key], bad["line"], strict=True):
            issues.append(Issue(kind, text, f"{name}, line {line}"))
    images, studies = (pd.concat(each, ignore_index=True) for each in tables.values())
    images = images[images["problem"].isin(["", "wrong-split"])].drop_duplicates("path")
    named = ["", "wrong-split", "duplicate-row", "conflicting-labels"]
    studies = studies[studies["problem"].isin(named)].drop_duplicates("study")
    images = images.rename(columns={"label": "folder_label"})
    images["label"] = images["study"].map(studies.set_index("study")["label"]).astype("Int64")

    issues += _check_studies(images, studies["study"])
    issues += _check_folder(root, set(images["path"]))
    real_root = os.path.realpath(root)
    inside = [_is_inside(root.parent / path, real_root) for path in images["path"]]
    outside = images["path"][~np.array(inside, bool)]
    issues += [Issue("link-outside-root", path, "leads out of the data folder") for path in outside]
    looking = joblib.Parallel(-1, prefer="threads", return_as="generator_unordered")(
        joblib.delayed(check_image)(root.parent / path, path) for path in images["path"][inside]
    )
    bar = tqdm(looking, "auditing", sum(inside), unit="image", disable=not progress)
    facts = sorted(bar, key=lambda one: one.path)
    issues += [issue for one in facts for issue in one.issues]
    issues += find_copies(facts, images)
    counts = _count(images, facts)
    issues += _compare_with_published(counts)
    issues.sort(key=lambda issue: (list(KINDS).index(issue.kind), issue.path))
    return Report(root, pd.DataFrame(issues, columns=Issue._fields, dtype="str"), counts)


def _check_studies(images: pd.DataFrame, labelled: pd.Series) -> Iterator[Issue]:
    by_study = images.drop_duplicates("study")
    for study in by_study.loc[by_study["label"].isna(), "study"]:
        yield Issue("unlabelled-study", study, "not in the list of labelled studies")
    for row in by_study[(by_study["label"] != by_study["folder_label"]).fillna(False)].itertuples():
        folder = "positive" if row.folder_label else "negative"
        yield Issue("label-against-folder", row.study, f"label {row.label}, folder {folder}")
    for study in labelled[~labelled.isin(by_study["study"])]:
        yield Issue("study-without-images", study, "labelled, but no image of it is listed")
    number = by_study["study"].str.replace(r"_(?:positive|negative)$", "", regex=True)
    for study in number[number.duplicated()].unique():
        yield Issue("study-under-both-labels", study, "listed with two suffixes")
    for study, views in images.groupby("study", sort=False)["view"].agg(sorted).items():
        if views != list(range(1, len(views) + 1)):
            yield Issue("image-number-gap", study, f"images {', '.join(map(str, views))}")
    splits = images.groupby("patient")["split"].unique()
    for patient, found in splits[splits.map(len) > 1].items():
        yield Issue("patient-across-splits", patient, f"in {' and '.join(sorted(found))}")


def _check_folder(root: Path, listed: set[str]) -> Iterator[Issue]:
    known = listed | {f"{root.name}/{name}" for name in layout.CSV_FILES}
    studies = {path.rpartition("/")[0] for path in listed}
    real_root = os.path.realpath(root)
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root.parent).as_posix()
        if not folders and not names and place not in studies:  # else its files are missing
            yield Issue("empty-folder", printable(place), "no file in it")
        for name in folders + names:
            path = f"{place}/{name}"
            if path in known:
                continue
            path, file = printable(path), Path(folder, name)
            if file.is_symlink() and not _is_inside(file, real_root):
                yield Issue("link-outside-root", path, "leads out of the data folder")
            elif name.startswith("._"):
                yield Issue("appledouble-file", path, "no image; delete it")
            elif name in names and name.lower() not in COME_BACK:
                yield Issue("unlisted-file", path, "in no list")
        folders[:] = [name for name in folders if name.lower() not in COME_BACK]  # not entered


def _is_inside(file: Path, real_root: str) -> bool:
    return Path(os.path.realpath(file)).is_relative_to(real_root)


def _count(images: pd.DataFrame, facts: list[ImageFacts]) -> dict[str, Any]:
    """Return JSON-ready counts; cells are [normal, abnormal]."""
    studies = images.drop_duplicates("study")
    sides = [one.longer_side for one in facts if one.mode]

    def totals(table: pd.DataFrame) -> dict[str, int]:
        return {split: int((table["split"] == split).sum()) for split in SPLITS}

    def cells(table: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
        found = Counter(zip(table["split"], table["body_part"], table["label"], strict=True))
        return {
            split: {part: [found[split, part, label] for label in (0, 1)] for part in BODY_PARTS}
            for split in SPLITS
        }

    return {
        "images": totals(images),
        "studies": totals(studies),
        "patients": totals(images.drop_duplicates(["split", "patient"])),
        "images_by_label": cells(images),
        "studies_by_label": cells(studies),
        "read": len(facts),
        "modes": dict(Counter(one.mode for one in facts if one.mode).most_common()),
        "longer_side": [min(sides), max(sides)] if sides else [],
    }


def _compare_with_published(counts: dict[str, Any]) -> Iterator[Issue]:
    """Yield cells that differ from MURA v1.1's, in a folder that is about as large."""
    published = sum(sum(cell) for cells in IMAGE_COUNTS.values() for cell in cells.values())
    if abs(sum(counts["images"].values()) - published) > _COMPLETE * published:
        return
    for what, cells in (("images", IMAGE_COUNTS), ("studies", STUDY_COUNTS)):
        for split, part in itertools.product(SPLITS, BODY_PARTS):
            found, expected = counts[f"{what}_by_label"][split][part], list(cells[split][part])
            if found != expected:
                detail = f"{found} {what} (normal, abnormal); published {expected}"
                yield Issue("count-against-published", f"{split}/{part}", detail)
    for split, expected in PATIENT_COUNTS.items():
        if (found := counts["patients"][split]) != expected:
            yield Issue("count-against-published", split, f"{found} patients; published {expected}")
