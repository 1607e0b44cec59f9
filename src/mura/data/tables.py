"""Read tables as spreadsheets, pandas and people write them, and labels as they write those."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

_LABELS = {"0": 0, "false": 0, "normal": 0, "negative": 0}
_LABELS |= {"1": 1, "true": 1, "abnormal": 1, "positive": 1}


def read_table(
    file: Path, names: Sequence[str], by_header: bool = False, folder: str = ""
) -> pd.DataFrame:
    """Read a list of paths, or a table whose columns a comma, semicolon or tab separates.

    UTF-8, UTF-16 and Latin-1, all line ends, quotes and decimal commas are read. A first row
    without "/", or with all the names, is the header. Blank rows and unnamed columns, such as the
    index that pandas writes, are left out.

    Args:
        file: Its backslashes are read as "/".
        names: What the columns are without a header: that of the paths, then the others in order.
        by_header: Rely on a header and return all its columns. Otherwise a header that lacks one of
            the names counts as none, and the names are all that is returned ("" where missing).
        folder: A folder's name, in which a comma separates nothing.

    Returns:
        str columns, named as in the header (in lower case) or by ``names``; the index holds line
        numbers from 1. A warning says which column is what if that is not plain from the file.
    """
    kept = re.sub("[,;\t]", "\1", folder)
    numbers, lines = _lines(file, folder, kept)
    if lines and re.fullmatch("sep=.", lines[0]):  # Excel's first line
        numbers, lines = numbers[1:], lines[1:]
    first = {cell.strip(' "').lower() for line in lines[:1] for cell in re.split("[,;\t]", line)}
    header = int(bool(lines) and ("/" not in lines[0] or {*names} <= first))
    separator = _separator(lines[:header]) or _separator(lines[header:])
    rows = [_cells(line, separator) for line in lines]
    head, rows = [name.lower() for row in rows[:header] for name in row], rows[header:]
    width = Counter(map(len, rows)).most_common(1)[0][0] if rows else len(head)
    if head and width == len(head) + 1 and _is_index([row[0] for row in rows]):
        head.insert(0, "")  # R does not name the column of its row names
    slashes = Counter(column for row in rows for column, cell in enumerate(row) if "/" in cell)
    # longer rows than usual end in one cell
    path = min(slashes.most_common(1)[0][0], max(width, len(head)) - 1) if slashes else 0
    if {*head[path : path + 1]} & {"", "unnamed: 0"} and not {"path", "study"} & {*head}:
        head[path] = names[0]  # the paths are the index
    named = bool(head) and (by_header or all(head.count(name) == 1 for name in names))
    width = len(head) if named else width
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    rows = [[*row[: width - 1], (separator or "").join(row[width - 1 :])] for row in rows]
    filled = [column for column in range(width) if any(row[column] for row in rows)]
    if named:
        columns = {c: name for c, name in enumerate(head) if not re.match(r"$|unnamed:", name)}
    else:
        others = [column for column in filled if column != path]
        if len(others) > 1 and others[0] < path and _is_index([row[others[0]] for row in rows]):
            others.pop(0)
        columns = dict(zip([path, *others] if width else [], names, strict=False))
    left = [str(column + 1) for column in filled if column not in columns]
    if left or (rows and not named and (by_header or [*columns] != [*range(len(columns))])):
        wanted = names if names[0] in columns.values() else [*names, "study"]
        used = {c: name for c, name in columns.items() if name in wanted}
        taken = ", ".join(f"{name} from column {column + 1}" for column, name in used.items())
        text = f" and left out column {', '.join(left)}" if left else ""
        warnings.warn(f"{file}: read {taken}{text}.", stacklevel=3)
    table = pd.DataFrame(rows, pd.Index(numbers[header:], dtype="int64"), range(width), dtype="str")
    table = table[[c for c in columns if by_header or columns[c] in names]].rename(columns=columns)
    if by_header:
        return table
    table[names[0]] = table[names[0]].str.replace(kept, folder) if width else ""
    return table.reindex(columns=[*names], fill_value="")


def to_labels(values: pd.Series) -> pd.Series:
    """Return Int64 labels, 0 (normal) or 1 (abnormal); missing where a value is neither.

    0, 1, 0.0, 1.0, true, false, normal, abnormal, negative and positive are labels, in any case.
    """
    text = values.astype("str").str.strip().str.lower()
    return text.str.replace(r"^([01])\.0*$", r"\1", regex=True).map(_LABELS).astype("Int64")


def _lines(file: Path, folder: str, kept: str) -> tuple[list[int], list[str]]:
    """Return the numbers (from 1) and texts of the lines that are not blank."""
    content = file.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    for found, replacement in (("\r\n", "\n"), ("\r", "\n"), ("\\", "/"), ("\0", "")):
        text = text.replace(found, replacement)
    # a cell in quotes, such as a note, may hold line breaks
    cell = r'(?<![^,;\t\n])"[^"]*"(?=[,;\t\n]|$)'
    text = re.sub(cell, lambda match: match[0].replace("\n", " "), text)
    text = text.replace(folder, kept) if folder != kept else text
    lines = [line.strip(" ") for line in text.split("\n")]
    whole = re.compile('"[^"]*"')  # a spreadsheet that took the line for one cell
    lines = [line[1:-1] if whole.fullmatch(line) else line for line in lines]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip('\t,;" ')]
    return [number for number, _ in numbered], [line for _, line in numbered]


def _separator(lines: Sequence[str]) -> str | None:
    """Return the separator that stands in most lines."""
    often = (s for s in "\t;," if 2 * sum(s in line for line in lines) > len(lines))
    return next(often, None)


def _cells(line: str, separator: str | None) -> list[str]:
    cells = line.split(separator) if separator else [line]
    if separator and '"' in line:  # csv refuses longer fields, and no path is as long
        cells = next(csv.reader([line[:100_000]], delimiter=separator, skipinitialspace=True))
    cells = [cell.replace('"', "").strip() for cell in cells]
    return [re.sub(r"^([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)$", r"\1.\2", cell) for cell in cells]


def _is_index(cells: Sequence[str]) -> bool:
    """Whether a column numbers rows: most are whole numbers, and not the labels 0 and 1."""
    digits = [cell for cell in cells if cell.isdecimal()]
    several = len({*digits}) == len(digits) or {*digits} - {"0", "1"}
    return 2 * len(digits) > sum(map(bool, cells)) and bool(several)
