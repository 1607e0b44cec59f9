"""Read a table of one's own: one row per image, with the columns path and label at least.

The first row names the columns, in any order and case. study, patient, body_part and split are
used where they are there; other columns are kept. Relative paths start at the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mura.data.image_checks import Issue
from mura.data.manifest import COLUMNS, ManifestError, held_out, is_split_by_name
from mura.data.tables import read_table, to_labels
from mura.files import absolute

_SUFFIXES = (".csv", ".tsv", ".txt")
_NEEDED = {"path", "label"}
_OPTIONAL = ("study", "patient", "body_part", "split")
_RESERVED = {"view", "excluded", "part"}  # the manifest's own, which say something else
_SPLITS = {"train": "train", "training": "train"}
_SPLITS |= dict.fromkeys(["valid", "validation", "val", "test"], "valid")


def matches(root: str | Path) -> bool:
    """Whether this is a table (by its suffix), or a folder with one table of path and label."""
    if Path(root).is_file():
        return _is_table(Path(root))
    try:
        return table_file(root).is_file()
    except FileNotFoundError:
        return False


def name(root: str | Path) -> str:
    """Return the data set's name in runs and results: the table's, without the suffix."""
    file = table_file(root)
    # a radiograph must not pass for a phantom's, whose figures are published
    return file.name if file.stem.startswith("phantom") else file.stem


def note(manifest: pd.DataFrame) -> str:
    """Return whose split it is, where the table has none of its own."""
    text = "split by this project, by the patients' names"
    return text if is_split_by_name(manifest) else ""


def boxes(root: str | Path) -> None:
    """Return nothing: a table does not say where findings are."""


def check(root: str | Path) -> tuple[pd.DataFrame, list[Issue]]:
    """Return the table's images; what is wrong with its rows is an error already."""
    return read(root), []


def against_published(counts: dict[str, Any]) -> list[Issue]:
    """Return nothing: nobody published counts of it."""
    return []


def table_file(root: str | Path) -> Path:
    """Return the table's absolute path; raise FileNotFoundError if there is none, or several."""
    root = absolute(root)
    if root.is_file():
        return root
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tables that are not the one
        files = [file for file in sorted(root.glob("*")) if _is_table(file)]
        columns = [{*read_table(file, ["path"], by_header=True)} for file in files]
    files = [file for file, names in zip(files, columns, strict=True) if names >= _NEEDED]
    if len(files) != 1:
        found = "tables with the columns path and label; name the one to read."
        raise FileNotFoundError(f"{root}: {len(files) or 'no'} {found}")
    return files[0]


def image_files(root: str | Path, paths: Iterable[str]) -> list[Path]:
    """Return where images lie: relative paths start at the table, absolute ones stay."""
    root = absolute(root)
    folder = root if root.is_dir() else root.parent
    return [folder / path for path in paths]


def read(root: str | Path) -> pd.DataFrame:
    """Read a table, named itself or by the folder that holds it.

    Without study, each image is its own; without patient, each study is its own, and a warning says
    so; without split, ``held_out`` splits the patients. A column without any entry counts as none.

    Returns:
        The manifest (see ``mura.data.manifest``) in the table's order, then the other columns as
        str, with lower-case names. ``path`` has no backslashes and no leading "./". ``study``
        begins with the patient if patients share names of studies. ``body_part`` is "unnamed"
        where the table has none.

    Raises:
        FileNotFoundError: There is no table, or a folder holds several.
        ManifestError: A column is missing or named twice, there are no rows, or a row is wrong: no
            path or one that is listed twice, an unknown label or split, an empty cell, a study with
            two labels or body parts, or a patient in both splits.
    """
    file = table_file(root)
    table = read_table(file, ["path"], by_header=True)
    _refuse_columns(file, [*table])
    if table.empty:
        raise ManifestError(f"{file}: no rows below the header; expected one per image.")
    given = [column for column in _OPTIONAL if column in table and (table[column] != "").any()]
    table["path"] = table["path"].str.replace(r"^(\./+)+", "", regex=True)
    _refuse_cells(file, table, given)
    table["label"] = to_labels(table["label"])
    if "study" not in given:
        table["study"] = table["path"]
    if "patient" not in given:
        text = "no patients, so each study counts as one: leaks between patients cannot be seen."
        warnings.warn(f"{file}: {text}", stacklevel=2)
        table["patient"] = table["study"]
    elif table.drop_duplicates(["patient", "study"])["study"].duplicated().any():
        table["study"] = table["patient"] + "/" + table["study"]
    if "body_part" not in given:
        table["body_part"] = "unnamed"
    if "split" in given:
        table["split"] = table["split"].str.lower().map(_SPLITS)
    else:
        table["split"] = ["valid" if held_out(one) else "train" for one in table["patient"]]
    _refuse_conflicts(file, table)
    parts = pd.CategoricalDtype(sorted(table["body_part"].unique()), ordered=True)
    table["body_part"] = table["body_part"].astype(parts)
    table["view"] = (table.groupby("study").cumcount() + 1).astype("int64")
    table["excluded"] = ""
    table = table.astype({"split": "str", "excluded": "str"}).reset_index(drop=True)
    return table[[*dict.fromkeys([*COLUMNS, *table])]]


def _refuse_columns(file: Path, columns: list[str]) -> None:
    found = f"(found: {', '.join(columns)!r:.200})"
    if not {*columns} >= _NEEDED:
        todo = "name the columns path and label in the first row."
        raise ManifestError(f"{file}: no column path or no column label {found}; {todo}")
    taken = [one for one in columns if one in _RESERVED or columns.count(one) > 1]
    if taken:
        text = f"the name of the column {taken[0]!r:.80} is taken {found}; give it another."
        raise ManifestError(f"{file}: {text}")


def _refuse_cells(file: Path, table: pd.DataFrame, given: list[str]) -> None:
    paths, labels, files = table["path"], table["label"], image_files(file, table["path"])
    _refuse(file, paths[paths == ""], "without a path", "fill it in or delete the row.")
    twice = pd.Series([str(absolute(one)) for one in files], table.index).duplicated(keep=False)
    _refuse(file, paths[twice], "that list an image twice", "leave one of them.")
    for column in given:
        todo = "fill it in, or delete the column."
        _refuse(file, paths[table[column] == ""], f"without a {column}", todo)
    unknown = labels[to_labels(labels).isna() & (labels != "")]
    todo = "write 0 (normal), 1 (abnormal) or nothing (unknown)."
    _refuse(file, unknown, "with another label than 0 and 1", todo)
    if "split" in given:
        unknown = table["split"][~table["split"].str.lower().isin(_SPLITS)]
        todo = "write train or valid, or delete the column."
        _refuse(file, unknown, "with another split than train and valid", todo)


def _refuse_conflicts(file: Path, table: pd.DataFrame) -> None:
    # two patients: after the prefix, study "b/c" of patient "a" and study "c" of patient "a/b"
    pairs = [("study", "label"), ("study", "body_part"), ("study", "patient"), ("patient", "split")]
    for key, column in pairs:
        several = table.drop_duplicates([key, column])[key]
        several = several[several.duplicated(keep=False)].sort_values(kind="stable")
        todo = f"correct the {column}, or write different names of the {key}."
        _refuse(file, several, f"that give one {key} more than one {column}", todo)


def _refuse(file: Path, rows: pd.Series, text: str, todo: str) -> None:
    """Raise ManifestError that names the first of the wrong rows, if there are any."""
    if len(rows):
        found = "; ".join(f"line {line}: {cell!r:.120}" for line, cell in rows.head(3).items())
        raise ManifestError(f"{file}: {len(rows)} rows {text} ({found}); {todo}")


def _is_table(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in _SUFFIXES and file.name[0] != "."
