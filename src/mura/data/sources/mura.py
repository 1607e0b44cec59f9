"""Read MURA's CSV files row by row, and say what is wrong with a row.

In v1.1, ``train_image_paths.csv`` and ``valid_image_paths.csv`` list images and
``*_labeled_studies.csv`` labels studies. None has a header; paths begin with the data folder's
name. No other module knows this.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data.manifest import BODY_PART_DTYPE, BODY_PARTS, COLUMNS, SPLITS, ManifestError
from mura.files import absolute

CSV_FILES = tuple(
    f"{split}_{kind}.csv" for split in SPLITS for kind in ("image_paths", "labeled_studies")
)

# The study folder's suffix may be missing: the labels come from the CSV files.
_IMAGE = re.compile(
    rf"((?:.*/)?([^/]+)/({'|'.join(BODY_PARTS)})/(patient[0-9]{{1,9}})"
    r"/study[0-9]{1,9}(?:_(positive|negative))?)/image([0-9]{1,9})\.(?:png|jpe?g)"
)
_OUTSIDE = re.compile(r"[/~]|[A-Za-z]:|(?:.*/)?\.\.(?:/|$)")
_START = re.compile(rf"([^/]+)/([^/]+)/(?:{'|'.join(BODY_PARTS)})/")
_SUFFIX_LABELS = {"positive": 1, "negative": 0, None: None}

# What can be wrong with a row; `audit` uses the same names for its findings.
_PROBLEMS = {
    "path-outside-root": "lead out of the root: absolute, with '..', or not below '{root}/'",
    "malformed-row": "are no image of MURA's layout (SPLIT/XR_PART/patientN/studyN/imageN.png, "
    "numbers of at most nine digits; data/README.md says more)",
    "duplicate-row": "stand twice",
    "wrong-split": "belong to another split than the file",
    "invalid-label": "have a label other than 0 or 1; expected STUDY/,0 or STUDY/,1",
    "conflicting-labels": "label one study both 0 and 1",
}


def read(root: str | Path) -> pd.DataFrame:
    """Read the four CSV files of a data folder.

    Args:
        root: The folder that holds them; their paths begin with its name ("MURA-v1.1").

    Returns:
        One row per image in the CSV files' order: path (str, relative to the root's parent),
        split ("train" or "valid"), body_part (ordered categorical), patient (str), study (str,
        the whole study path: the key), view (int64), label (Int64: 0 normal, 1 abnormal, missing
        where unknown).

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
        ManifestError: A row is no image of this layout, leads out of the root or is listed twice;
            a label is neither 0 nor 1; a study is labelled both ways.
    """
    root = data_folder(root)
    tables = []
    for split in SPLITS:
        file = root / f"{split}_image_paths.csv"
        images = usable(file, list_images(file, split, root.name), root.name)
        file = root / f"{split}_labeled_studies.csv"
        labels = list_labels(file, split, root.name)
        labels = usable(file, labels[labels["problem"] != "duplicate-row"], root.name)
        labels = labels.set_index("study")["label"]
        _warn_of_unmatched_names(file, images["study"], labels.index)
        tables.append(images.assign(label=images["study"].map(labels).astype("Int64")))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def data_folder(root: str | Path) -> Path:
    """Check that a data folder has its four CSV files; return its absolute path.

    Raises:
        FileNotFoundError: The folder or one of the CSV files is missing.
    """
    root = absolute(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such data folder; put MURA-v1.1 there, or draw the phantom with "
            "`mura phantom`."
        )
    missing = [name for name in CSV_FILES if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{root}: {', '.join(missing)} missing; name the folder that holds MURA's four CSV "
            "files."
        )
    return root


def list_images(file: Path, split: str, root_name: str) -> pd.DataFrame:
    """Read a list of images as it is, and say what is wrong with its rows.

    Args:
        file: A CSV file of image paths, with or without a header.
        split: "train" or "valid"; rows of the other split are a problem.
        root_name: The folder name that paths must begin with.

    Returns:
        The columns of :func:`read`, line (int64, from 1) and problem ("" or
        "appledouble-row", "path-outside-root", "malformed-row", "duplicate-row", "wrong-split";
        the columns after path are missing for the first three).
    """
    lines, paths = _read_lines(file)
    paths = [path.rstrip("/,").removeprefix("./") for path in paths]
    matches = [_IMAGE.fullmatch(path) for path in paths]
    fields = [match.groups() if match else (None,) * 6 for match in matches]
    study, found_split, body_part, patient, suffix, view = (
        list(zip(*fields, strict=True)) or [()] * 6
    )
    table = pd.DataFrame(
        {
            "path": pd.array(paths, dtype="str"),
            "split": pd.array(found_split, dtype="str"),
            "body_part": pd.Categorical(body_part, dtype=BODY_PART_DTYPE),
            "patient": pd.array(patient, dtype="str"),
            "study": pd.array(study, dtype="str"),
            "view": [int(number) if number else 0 for number in view],
            "label": pd.array([_SUFFIX_LABELS[found] for found in suffix], dtype="Int64"),
            "line": lines,
        }
    )
    problem = np.full(len(paths), "", dtype=object)
    problem[(table["split"] != split).to_numpy(bool)] = "wrong-split"
    problem[table["path"].duplicated().to_numpy()] = "duplicate-row"
    problem[[match is None for match in matches]] = "malformed-row"
    problem[[_is_outside(path, root_name) for path in paths]] = "path-outside-root"
    problem[["/._" in path for path in paths]] = "appledouble-row"
    return table.assign(problem=problem)


def list_labels(file: Path, split: str, root_name: str) -> pd.DataFrame:
    """Read a list of labelled studies as it is, and say what is wrong with its rows.

    Args:
        file: A CSV file of study folders and labels, with or without a header.
        split: "train" or "valid"; rows of the other split are a problem.
        root_name: The folder name that studies must begin with.

    Returns:
        line (int64), study (str), label (Int64, missing where invalid) and problem ("" or
        "path-outside-root", "wrong-split", "invalid-label", "duplicate-row",
        "conflicting-labels").
    """
    lines, rows = _read_lines(file)
    fields = [row.rpartition(",") if "," in row else (row, "", "") for row in rows]
    studies = [study.strip().rstrip("/").removeprefix("./") for study, _, _ in fields]
    labels = [{"0": 0, "1": 1}.get(label.strip()) for _, _, label in fields]
    table = pd.DataFrame(
        {
            "line": pd.array(lines, dtype="int64"),
            "study": pd.array(studies, dtype="str"),
            "label": pd.array(labels, dtype="Int64"),
        }
    )
    problem = np.full(len(rows), "", dtype=object)
    found = [_START.match(study) for study in studies]
    problem[[bool(match) and match[2] != split for match in found]] = "wrong-split"
    different = table.dropna().drop_duplicates(["study", "label"])["study"]
    twice = different[different.duplicated()]
    problem[table["study"].isin(twice).to_numpy()] = "conflicting-labels"
    problem[table.duplicated(["study", "label"]).to_numpy()] = "duplicate-row"
    problem[table["label"].isna().to_numpy()] = "invalid-label"
    problem[[_is_outside(study, root_name) for study in studies]] = "path-outside-root"
    return table.assign(problem=problem)


def _is_outside(path: str, root_name: str) -> bool:
    return not path.startswith(f"{root_name}/") or bool(_OUTSIDE.match(path))


def refuse_other_root(file: Path, table: pd.DataFrame, root_name: str) -> None:
    """Raise if the data folder was renamed: no row is below it and most are below another.

    Raises:
        ManifestError: It was renamed.
    """
    column = table["path" if "path" in table else "study"]
    starts = map(_START.match, column)
    names = Counter(start[1] for start in starts if start)
    if root_name not in names and names.total() > len(column) / 2:
        name = names.most_common(1)[0][0]
        raise ManifestError(
            f"{file}: its paths begin with {name + '/'!r:.80}, and the folder is named "
            f"{root_name!r}; rename the folder to {name!r:.80}, or make a link of that name."
        )


def usable(file: Path, table: pd.DataFrame, root_name: str) -> pd.DataFrame:
    """Return a table that has rows and no problem, or say what is wrong with it.

    AppleDouble rows, which list no images, are left out with a warning.

    Raises:
        ManifestError: A row has a problem, or there are no rows.
    """
    apple_double = table["problem"] == "appledouble-row"
    if apple_double.any():
        text = f"{file}: left out {apple_double.sum()} AppleDouble files (._*); they are no images."
        warnings.warn(text, stacklevel=3)
        table = table[~apple_double].reset_index(drop=True)
    if table.empty and "path" in table:
        raise ManifestError(f"{file}: no image paths; expected one per line.")
    refuse_other_root(file, table, root_name)
    for problem, text in _PROBLEMS.items():
        bad = table[table["problem"] == problem]
        if len(bad):
            key = "path" if "path" in bad else "study"
            found = [f"line {row.line}: {getattr(row, key)!r:.120}" for row in bad[:3].itertuples()]
            raise ManifestError(
                f"{file}: {len(bad)} rows {text.format(root=root_name)} ({'; '.join(found)}); "
                "correct the file or take it from the original archive."
            )
    return table


def _warn_of_unmatched_names(file: Path, studies: pd.Series, labelled: pd.Index) -> None:
    """Warn if studies lack labels while labels lack studies: their names differ."""
    without_images = labelled[~labelled.isin(studies)]
    if len(without_images) and not studies.isin(labelled).all():
        warnings.warn(
            f"{file}: {len(without_images):,} of its {len(labelled):,} studies have no image "
            f"listed, for example {without_images[0]!r:.120}, and listed ones have no label; "
            "labels are given per study folder, named as the images' paths name it.",
            stacklevel=3,
        )


def _read_lines(file: Path) -> tuple[list[int], list[str]]:
    """Return the numbers (from 1) and contents of a CSV file's rows.

    Blank lines, quotes, a byte order mark and a header (a first row without "/") are left out;
    Windows separators become "/".
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{file}: no such file; expected one of MURA's CSV files."
        ) from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for found, replacement in (("\r\n", "\n"), ("\r", "\n"), ("\\", "/"), ('"', ""), ("\0", "")):
        text = text.replace(found, replacement)
    stripped = [line.strip() for line in text.split("\n")]
    rows = [(number, line) for number, line in enumerate(stripped, 1) if line]
    if rows and "/" not in rows[0][1]:
        rows = rows[1:]
    return [number for number, _ in rows], [line for _, line in rows]
