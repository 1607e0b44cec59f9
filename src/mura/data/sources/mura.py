"""MURA, and whatever lies in its layout, such as the phantom."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura.data.image_checks import Issue
from mura.data.images import COME_BACK
from mura.data.manifest import COLUMNS, SPLITS, ManifestError, files_inside
from mura.data.sources.mura_lists import (
    BODY_PARTS,
    CSV_FILES,
    PROBLEMS,
    list_images,
    list_labels,
    refuse_other_root,
)
from mura.files import absolute, printable
from mura.phantom.counts import IMAGE_COUNTS, PATIENT_COUNTS, STUDY_COUNTS

# A folder whose number of images is this close to MURA's counts as the complete data set.
_COMPLETE = 0.01


def matches(root: Path) -> bool:
    """Whether a folder holds one of MURA's lists."""
    return any((root / name).is_file() for name in CSV_FILES)


def name(root: Path) -> str:
    """Return what runs and results call the data set: its folder's name."""
    return root.name


def note(manifest: pd.DataFrame) -> str:
    """Return nothing: the split is the authors', and all images are used."""
    return ""


def image_files(root: Path, paths: Iterable[str]) -> list[Path]:
    """Return where images lie: their paths begin with the data folder's name."""
    return files_inside(root, root.parent, paths)


def boxes(root: Path) -> pd.DataFrame | None:
    """Return a phantom's boxes, of findings that show; None for radiographs."""
    truth = read_truth(root)
    if truth is None:
        return None
    return truth[truth["visible"] == 1][["path", "finding", "x0", "y0", "x1", "y1"]]


def read_truth(root: str | Path) -> pd.DataFrame | None:
    """Read ``truth.csv`` beside a phantom's data folder; None for a folder without it.

    One row per image: path, finding ("none" for normal studies), variant ("" without one), visible
    (1 where the image shows the finding), x0, y0, x1, y1 (its box in pixels, else NaN), inverted
    (1 for inverted polarity), projection.
    """
    file = Path(root).parent / "truth.csv"
    if not file.is_file():
        return None
    table = pd.read_csv(file, dtype={"path": str, "finding": str, "variant": str})
    return table.fillna({"finding": "none", "variant": ""})


def read(root: str | Path) -> pd.DataFrame:
    """Read the four CSV files of a data folder.

    Args:
        root: The folder that holds them; their paths begin with its name ("MURA-v1.1").

    Returns:
        The manifest (see ``mura.data.manifest``), in the CSV files' order.

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
        ManifestError: There are no rows, or a row has one of ``PROBLEMS``.
    """
    root = data_folder(root)
    tables = []
    for split in SPLITS:
        file = root / f"{split}_image_paths.csv"
        images = list_images(file, split, root.name)
        apple_double = images["problem"] == "appledouble-row"
        if apple_double.any():
            text = f"{file}: left out {apple_double.sum()} AppleDouble files (._*) of macOS."
            warnings.warn(text, stacklevel=2)
            images = images[~apple_double]
        if images.empty:
            raise ManifestError(f"{file}: no image paths; expected one per line.")
        _refuse_problems(file, images, root.name)
        file = root / f"{split}_labeled_studies.csv"
        labels = list_labels(file, split, root.name)
        labels = labels[labels["problem"] != "duplicate-row"]
        _refuse_problems(file, labels, root.name)
        unmatched = labels["study"][~labels["study"].isin(images["study"])]
        if len(unmatched) and not images["study"].isin(labels["study"]).all():
            found = f"{len(unmatched):,} of its {len(labels):,} studies have no image listed"
            one = f"for example {unmatched.iloc[0]!r:.120}, and some listed images have no label"
            todo = "name each study folder as the images' paths name it."
            warnings.warn(f"{file}: {found}, {one}; {todo}", stacklevel=2)
        labels = images["study"].map(labels.set_index("study")["label"]).astype("Int64")
        tables.append(images.assign(label=labels, excluded=""))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def check(root: Path) -> tuple[pd.DataFrame, list[Issue]]:
    """Return the listed images that lie in the folder, and what is wrong with lists and folder."""
    data_folder(root)
    issues, tables = [], {"path": [], "study": []}
    for name in CSV_FILES:
        split, key = name.split("_")[0], "path" if "image" in name else "study"
        reader = list_images if key == "path" else list_labels
        table = reader(root / name, split, root.name)
        refuse_other_root(root / name, table, root.name)
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
    inside = np.array([_is_inside(root.parent / path, real_root) for path in images["path"]], bool)
    outside = images["path"][~inside]
    issues += [Issue("link-outside-root", path, "leads out of the data folder") for path in outside]
    return images[inside], issues


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
    known = listed | {f"{root.name}/{name}" for name in CSV_FILES}
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


def against_published(counts: dict[str, Any]) -> Iterator[Issue]:
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


def data_folder(root: str | Path) -> Path:
    """Return a data folder's absolute path; raise FileNotFoundError if it lacks a CSV file."""
    root = absolute(root)
    missing = [name for name in CSV_FILES if not (root / name).is_file()]
    if missing:
        found = f"{', '.join(missing)} missing" if root.is_dir() else "no such data folder"
        todo = "name another folder (--root or MURA_ROOT), or draw the phantom with `mura phantom`."
        raise FileNotFoundError(f"{root}: {found}; put MURA-v1.1 there, {todo}")
    return root


def _refuse_problems(file: Path, table: pd.DataFrame, root_name: str) -> None:
    refuse_other_root(file, table, root_name)
    for problem, text in PROBLEMS.items():
        bad = table[table["problem"] == problem]
        if len(bad):
            rows = zip(bad["line"], bad["path" if "path" in bad else "study"], strict=True)
            found = [f"line {line}: {row!r:.120}" for line, row in rows][:3]
            todo = "correct the file or take it from the original archive."
            raise ManifestError(f"{file}: {len(bad)} {text} ({'; '.join(found)}); {todo}")
