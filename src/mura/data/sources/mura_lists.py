"""MURA's four lists, row by row, and what is wrong with a row.

In v1.1, ``train_image_paths.csv`` and ``valid_image_paths.csv`` list images and
``*_labeled_studies.csv`` labels studies. None has a header; paths begin with the data folder's
name.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data.manifest import SPLITS, ManifestError
from mura.data.tables import read_table, to_labels

BODY_PARTS = (
    *("XR_ELBOW", "XR_FINGER", "XR_FOREARM", "XR_HAND"),
    *("XR_HUMERUS", "XR_SHOULDER", "XR_WRIST"),
)
BODY_PART_DTYPE = pd.CategoricalDtype(BODY_PARTS, ordered=True)
CSV_FILES = tuple(
    f"{split}_{kind}.csv" for split in SPLITS for kind in ("image_paths", "labeled_studies")
)

# The study folder's suffix may be missing: the labels come from the CSV files.
_IMAGE = re.compile(
    rf"(?P<study>(?:.*/)?(?P<split>[^/]+)/(?P<body_part>{'|'.join(BODY_PARTS)})"
    r"/(?P<patient>patient[0-9]{1,9})/study[0-9]{1,9}(?:_(?P<label>positive|negative))?)"
    r"/image(?P<view>[0-9]{1,9})\.(?:png|jpe?g)"
)
_OUTSIDE = re.compile(r"[/~]|[A-Za-z]:|(?:.*/)?\.\.(?:/|$)")
_START = re.compile(rf"([^/,;\t]+)/([^/]+)/(?:{'|'.join(BODY_PARTS)})/")

# What can be wrong with a row, as the audit names it too.
PROBLEMS = {
    "path-outside-root": "rows that lead out of the data folder: absolute, with '..', or not "
    "below its name",
    "malformed-row": "rows that are not image paths of MURA's layout "
    "(MURA-v1.1/SPLIT/XR_PART/patientN/studyN/imageN.png)",
    "duplicate-row": "rows that are listed twice",
    "wrong-split": "rows in the list of another split",
    "invalid-label": "rows that have a label other than 0 or 1; expected STUDY/,0 or STUDY/,1",
    "conflicting-labels": "rows that label one study both 0 and 1",
}


def list_images(file: Path, split: str, root_name: str) -> pd.DataFrame:
    """Read a list of images of a split as it is, and say what is wrong with its rows.

    Returns:
        The manifest's columns (the label is the folder's), line (int64, from 1) and problem: "",
        "appledouble-row" or a key of ``PROBLEMS``. Rows that are not image paths lack the columns
        after path.
    """
    listed = read_table(file, ["path"], folder=root_name)["path"]
    paths = [path.rstrip("/,").removeprefix("./") for path in listed]
    matches = [_IMAGE.fullmatch(path) for path in paths]
    fields = [match.groupdict() if match else {} for match in matches]
    table = pd.DataFrame(fields, columns=list(_IMAGE.groupindex), index=range(len(paths)))
    table = table.astype({"study": "str", "split": "str", "patient": "str"}).assign(
        path=pd.array(paths, dtype="str"),
        line=listed.index,
        body_part=table["body_part"].astype(BODY_PART_DTYPE),
        label=table["label"].map({"positive": 1, "negative": 0}).astype("Int64"),
        view=pd.to_numeric(table["view"]).fillna(0).astype("int64"),
    )
    problems = {
        "appledouble-row": ["/._" in path for path in paths],
        "path-outside-root": [_is_outside(path, root_name) for path in paths],
        "malformed-row": [match is None for match in matches],
        "duplicate-row": table["path"].duplicated(),
        "wrong-split": table["split"] != split,
    }
    return table.assign(problem=_first(problems))


def list_labels(file: Path, split: str, root_name: str) -> pd.DataFrame:
    """Read a list of labelled studies of a split as it is, and say what is wrong with its rows.

    Returns:
        line (int64, from 1), study (str), label (Int64, missing where invalid) and problem: "" or
        a key of ``PROBLEMS``.
    """
    listed = read_table(file, ["study", "label"], folder=root_name)
    studies = [study.rstrip("/").removeprefix("./") for study in listed["study"]]
    table = pd.DataFrame({"line": listed.index, "study": pd.array(studies, dtype="str")})
    table["label"] = to_labels(listed["label"]).array
    starts = [_START.match(study) for study in studies]
    problems = {
        "path-outside-root": [_is_outside(study, root_name) for study in studies],
        "invalid-label": table["label"].isna(),
        "duplicate-row": table.duplicated(["study", "label"]),
        "conflicting-labels": table.groupby("study")["label"].transform("nunique") > 1,
        "wrong-split": [bool(start) and start[2] != split for start in starts],
    }
    return table.assign(problem=_first(problems))


def refuse_other_root(file: Path, table: pd.DataFrame, root_name: str) -> None:
    """Raise ManifestError if the data folder was renamed: most rows are below another name."""
    column = table["path" if "path" in table else "study"]
    names = Counter(start[1] for start in map(_START.match, column) if start)
    name, count = names.most_common(1)[0] if names else ("", 0)
    if root_name not in names and count > len(column) / 2:
        found = f"its paths begin with {name + '/'!r:.80}, and the folder is named {root_name!r}"
        todo = f"rename the folder to {name!r:.80}, or make a link of that name."
        raise ManifestError(f"{file}: {found}; {todo}")


def _first(problems: dict[str, list[bool] | pd.Series]) -> np.ndarray:
    """Return the first problem of each row, or ""."""
    return np.select([np.asarray(rows, bool) for rows in problems.values()], list(problems), "")


def _is_outside(path: str, root_name: str) -> bool:
    return not path.startswith(f"{root_name}/") or bool(_OUTSIDE.match(path))
