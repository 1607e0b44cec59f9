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

from mura.files import InputError

BODY_PARTS = (
    "XR_ELBOW",
    "XR_FINGER",
    "XR_FOREARM",
    "XR_HAND",
    "XR_HUMERUS",
    "XR_SHOULDER",
    "XR_WRIST",
)
BODY_PART_DTYPE = pd.CategoricalDtype(BODY_PARTS, ordered=True)

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


class ManifestError(InputError):
    """The CSV files do not describe a data set that can be used."""


def list_images(file: Path, split: str, root_name: str) -> pd.DataFrame:
    """Read a list of images as it is, and say what is wrong with its rows.

    Args:
        file: A CSV file of image paths, with or without a header.
        split: "train" or "valid"; rows of the other split are a problem.
        root_name: The folder name that paths must begin with.

    Returns:
        The columns of :func:`read_manifest`, line (int64, from 1) and problem ("" or
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
