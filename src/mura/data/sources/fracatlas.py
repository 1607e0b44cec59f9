"""FracAtlas as its authors publish it, faults included.

Abedeen et al. 2023, Scientific Data 10, doi 10.1038/s41597-023-02432-4 (CC BY 4.0): 4,083
radiographs of hands, legs, hips and shoulders, 717 with fractures. Patients are not given, but
neighbouring numbers are often one patient, so 25 consecutive numbers make one group, which stands
for the patient. Some pictures occur several times, under other numbers, cut off, or with the other
label.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from PIL import Image, ImageFile, ImageOps

from mura.data.image_checks import Issue, digest
from mura.data.images import COME_BACK, ImageError, read_gray
from mura.data.manifest import COLUMNS, ManifestError, files_inside, held_out
from mura.data.tables import read_table, to_labels

NAME = "FracAtlas"
PARTS = ("hand", "leg", "hip", "shoulder")  # the flags, in the table's order
BODY_PARTS = (*PARTS, "hand+shoulder", "leg+hip", "other")  # other mixes are too few to name
UPPER_EXTREMITY = ("hand", "shoulder", "hand+shoulder")  # as MURA has it
KEPT = ("hardware", "multiscan", "frontal", "lateral", "oblique")  # further flags, for subgroups
# Abedeen et al. 2023, abstract
PUBLISHED = {"images": 4083, "fractured": 717, "not fractured": 3366}
# Usable pictures of the whole archive, as we counted them: not fractured, fractured.
WHOLE = {"hand": (832, 350), "leg": (1858, 204), "hip": (169, 10), "shoulder": (88, 10)}
WHOLE |= {"hand+shoulder": (179, 47), "leg+hip": (91, 45), "other": (15, 9)}
GROUP = 25  # consecutive numbers that stand for one patient
FOLDERS = ("Non_fractured", "Fractured")  # by label
CUT_OFF = "cut off"
MCU = 16  # rows that a JPEG decodes at a time: of a cut-off one, the last may be half there
TOP = 64  # rows by which a copy of a cut-off file is looked up


def matches(root: Path) -> bool:
    """Whether a folder holds the authors' table and one of their folders of images."""
    # images/ alone may lie beside a table of one's own, which may be called dataset.csv, too
    folders = any((root / "images" / folder).is_dir() for folder in FOLDERS)
    return folders and (root / "dataset.csv").is_file()


def name(root: Path) -> str:
    """Return what runs and results call the data set, whatever its folder is called."""
    return NAME


def note(manifest: pd.DataFrame) -> str:
    """Return what a table of results has to say: how much was seen, and whose split it is."""
    seen = f"{len(manifest):,} of the {PUBLISHED['images']:,} images"
    return f"{seen}; split by this project, in groups of {GROUP} numbers; CC BY 4.0"


def image_files(root: Path, paths: Iterable[str]) -> list[Path]:
    """Return where images lie: their paths begin in the data folder."""
    return files_inside(root, root, paths)


def read(root: str | Path) -> pd.DataFrame:
    """Read the authors' table and look at every picture once (seconds), to find copies.

    Args:
        root: The folder with ``dataset.csv`` and ``images/``.

    Returns:
        The manifest (see ``mura.data.manifest``), by image number: a study is one image, a patient
        a group. Then int64 columns width and height (upright, in pixels; 0 where cut off) and
        0/1 flags ``KEPT``. ``excluded`` says which file cannot be read, repeats another or
        contradicts itself or another.

    Raises:
        ManifestError: The table lacks columns or rows, or has a row that cannot be read.
    """
    root = Path(root)
    facts = [(str(file), file.lstat()) for file in (root / "dataset.csv", *_files(root))]
    return _read(root, tuple((name, one.st_size, one.st_mtime_ns) for name, one in facts)).copy()


def check(root: Path) -> tuple[pd.DataFrame, list[Issue]]:
    """Return the images, and what is wrong: left-out images, and files that no row names."""
    manifest = read(root)
    left = manifest[manifest["excluded"] != ""]
    issues = [Issue("left-out", *row) for row in left[["path", "excluded"]].itertuples(index=False)]
    there = {f"images/{file.parent.name}/{file.name}" for file in _files(root)}
    for path in sorted(there - set(manifest["path"])):
        issues.append(Issue("unlisted-file", path, "not in dataset.csv"))
    return manifest[manifest["path"].isin(there)], issues


def against_published(counts: dict[str, Any]) -> list[Issue]:
    """Return nothing: part of the data set is a data set, too."""
    return []


def boxes(root: Path) -> pd.DataFrame:
    """Read the fractures' boxes: path, finding and x0, y0, x1, y1 in upright pixels."""
    rows = []
    for row in read(root).query("excluded == '' and label == 1").itertuples():
        file = root / "Annotations" / "YOLO" / f"{Path(row.path).stem}.txt"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        for line in filter(str.strip, text.splitlines()):
            try:  # class, centre and size, as shares of the image
                _, x, y, width, height = map(float, line.split())
                if not (0 <= x <= 1 and 0 <= y <= 1 and 0 < width <= 1 and 0 < height <= 1):
                    raise ValueError
            except ValueError:
                raise ManifestError(f"{file}: {line!r:.80} is no box; restore the file.") from None
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            sides = np.array([row.width, row.height] * 2)
            rows.append((row.path, "fracture", *np.clip(corners, 0, 1) * sides))
    return pd.DataFrame(rows, columns=["path", "finding", "x0", "y0", "x1", "y1"])


@functools.lru_cache(maxsize=4)
def _read(root: Path, facts: tuple[tuple[str, int, int], ...]) -> pd.DataFrame:
    """Read a folder of which these are the files' names, sizes and times."""
    file = root / "dataset.csv"
    table = read_table(file, ["path"], by_header=True)
    needed = ("image_id", *PARTS, "fractured")
    if missing := [column for column in needed if [*table].count(column) != 1]:
        found = f"not one column {', '.join(missing)}"
        raise ManifestError(f"{file}: {found}; take it from the original archive.")
    table = table.loc[:, table.columns.isin([*needed, *KEPT]) & ~table.columns.duplicated()]
    numbers = table["image_id"].str.extract(r"^IMG([0-9]{1,9})\.\w+$")[0]
    flags = table[[*PARTS, "fractured"]].apply(to_labels)
    bad = numbers.isna() | flags.isna().any(axis=1) | table["image_id"].duplicated()
    if table.empty or bad.any():
        found = f"line {bad.idxmax()}: no new image, 0 or 1" if bad.any() else "no rows"
        raise ManifestError(f"{file}: {found}; take it from the original archive.")
    table = table.assign(label=flags["fractured"], number=numbers.astype("int64"))
    named = ["+".join(np.array(PARTS)[row]) for row in (flags[list(PARTS)] == 1).to_numpy(bool)]
    named = [one if one in BODY_PARTS else "other" for one in named]
    table["body_part"] = pd.Categorical(named, BODY_PARTS, ordered=True)
    table = table.sort_values("number", ignore_index=True)
    found = {file.name: f"images/{file.parent.name}/{file.name}" for file in _files(root)}
    usual = "images/" + table["label"].map(dict(enumerate(FOLDERS))) + "/" + table["image_id"]
    table["path"] = table["image_id"].map(found).fillna(usual)
    return _without_copies(root, table)


def _without_copies(root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest; of each picture one is kept, and all are in the first one's group."""
    files = image_files(root, table["path"])
    looked = joblib.Parallel(-1, prefer="threads")(joblib.delayed(_look)(file) for file in files)
    columns = ["picture", "top", "height", "width", "excluded"]
    table = table.join(pd.DataFrame(looked, columns=columns))
    _find_copies_of_cut_files(table, files)
    folder = table["path"].str.split("/").str[1]
    itself = (folder.map(FOLDERS.index) != table["label"]) & (table["excluded"] == "")
    row_says = ", and its row says " + table["label"].astype(str)
    table.loc[itself, "excluded"] = "contradiction: it lies in " + folder[itself] + row_says[itself]
    for _, rows in table[table.duplicated("picture", keep=False)].groupby("picture", sort=False):
        table.loc[rows.index, "number"] = rows["number"].min()
        first = next(iter(rows.loc[rows["excluded"] == "", "path"]), rows["path"].iloc[0])
        for row in rows[rows["path"] != first].itertuples():
            why = f"{row.excluded}; repeats {first}" if row.excluded else f"repeats {first}"
            table.loc[row.Index, "excluded"] = why
        if rows["label"].nunique() > 1:
            why = f"contradiction: one picture with both labels ({', '.join(rows['path'])})"
            table.loc[rows.index, "excluded"] = why
    patient = table["number"].map(lambda number: f"group{number // GROUP:03d}")
    split = patient.map(held_out).map({True: "valid", False: "train"})
    table = table.assign(patient=patient, split=split, study=table["path"], view=1)
    return table[[*COLUMNS, "width", "height", *(flag for flag in KEPT if flag in table)]]


def _find_copies_of_cut_files(table: pd.DataFrame, files: list[Path]) -> None:
    """Give a cut-off file the picture of the intact one whose rows begin as it does."""
    intact = table[table["excluded"] == ""]
    tops = intact.groupby("top").groups
    for row in table.index[table["excluded"] == CUT_OFF]:
        decoded, shape = _decoded_rows(files[row])
        for other in tops.get(_top(decoded, shape), ()):
            if np.array_equal(read_gray(files[other])[: len(decoded)], decoded):
                table.loc[row, "picture"] = table.loc[other, "picture"]
    alone = table["picture"] == ""
    table.loc[alone, "picture"] = table.loc[alone, "path"]


def _look(file: Path) -> tuple[str, str, int, int, str]:
    """Return digests of a file's picture and of its top rows, its sides, and what is wrong."""
    try:
        gray = read_gray(file)
    except ImageError as error:
        reasons = {"missing-file": "missing", "truncated-image": CUT_OFF}
        return "", "", 0, 0, reasons.get(error.kind, "cannot be read")
    return digest(gray, gray.shape).hex(), _top(gray, gray.shape), *gray.shape, ""


def _top(gray: np.ndarray, shape: tuple[int, int]) -> str:
    return digest(np.ascontiguousarray(gray[:TOP]), shape).hex()


def _decoded_rows(file: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the whole rows that a cut-off JPEG still has, uint8[h, W], and its full shape."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        gray = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("L"))
    except Exception:  # Pillow raises many kinds where nothing of it decodes
        return np.zeros((0, 0), np.uint8), (0, 0)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
    varied = np.flatnonzero((gray != gray[:, :1]).any(axis=1))  # the rest is filled with one gray
    return gray[: max(0, varied.max(initial=0) + 1 - MCU)], gray.shape


def _files(root: Path) -> list[Path]:
    folders = [root / "images" / folder for folder in FOLDERS]
    found = (sorted(folder.iterdir()) for folder in folders if folder.is_dir())
    return [file for files in found for file in files if file.name.lower() not in COME_BACK]
