"""Read external predictions, lists of studies and a phantom's truth."""

import re
import warnings
from pathlib import Path

import pandas as pd

from mura.data import ManifestError, data_root
from mura.data import read as read_manifest
from mura.data.tables import read_table, to_labels
from mura.evaluation.predictions import (
    PREDICTION_COLUMNS,
    PredictionsError,
    check_predictions,
    refuse_rows,
)

# .../<split>/<body part>/<patient>/<study>[_positive|_negative][/<image>]
PATH = (
    r"^(?P<root>.*?)(?P<key>(?P<split>[^/]+)/(?P<body_part>XR_[A-Z]+)/(?P<patient>patient\d+)/"
    r"study\d+(?:_(?P<finding>positive|negative))?)(?:/(?P<image>image(?P<view>\d+)\.\w+))?/?$"
)


MIXED = "a whole study among rows for images, expected one kind"


class UnlabelledError(PredictionsError):
    """Rows of a CSV file have no label, neither in the file nor in the data set."""


class UnknownStudyError(PredictionsError):
    """The data set does not list rows of a CSV file, which may belong to another one."""


def read_predictions(csv: str | Path, manifest: pd.DataFrame | None = None) -> pd.DataFrame:
    """Read a CSV of probabilities, one row per image or one per study.

    Args:
        csv: As ``mura.data.tables.read_table`` reads it. Columns ``path`` or ``study`` (as
            the manifest has them; of MURA's, a leading folder and the suffix do not matter),
            ``probability`` (of abnormal), optionally ``label`` and ``split``; others are ignored.
            Without a header: path or study, probability, optionally label.
        manifest: As ``data.read`` returns it. Gives labels to a CSV that has none, and refuses
            rows that it does not know, and other labels than its own; study folders may be named
            with or without their suffix.
            Without it the folder suffix ``_positive`` or ``_negative`` is the label.

    Returns:
        Checked predictions, ``PREDICTION_COLUMNS``, in the file's order. A row for a whole study
        has its study as ``path`` and 0 as ``view``.

    Raises:
        FileNotFoundError: There is no such file.
        UnknownStudyError: The manifest lacks some of its rows.
        UnlabelledError: Rows have no label.
        PredictionsError: The file is no such CSV, or its rows cannot be evaluated; names them.
    """
    csv = Path(csv).expanduser()
    table = _read(csv)
    given = table["path"] if "path" in table else table["study"]
    shown = table.assign(path=given)
    if manifest is not None and not manifest["study"].str.fullmatch(PATH).any():
        rows = _rows_of(csv, shown, manifest)
    else:
        rows = _rows_by_path(csv, shown, manifest)
    study, label = rows["study"], rows["label"]
    if "label" in table:
        if manifest is not None:
            _refuse_other_labels(csv, study, to_labels(table["label"]), label)
        label = table["label"]
    elif (missing := label.isna()).any():
        raise UnlabelledError(
            f"{csv}: {missing.sum()} of {len(table)} rows have no label, for example "
            f"{given[missing].iloc[0]}: no label column, no folder that ends in _positive or "
            "_negative, and no data set that knows it."
        )
    if "split" in table:
        rows["split"] = table["split"]
    rows = rows.assign(label=label, probability=table["probability"])
    return check_predictions(rows[list(PREDICTION_COLUMNS)], str(csv)).reset_index(drop=True)


def read_external(
    csv: str | Path, root: str | Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame | None, str]:
    """Read a CSV of probabilities with the labels of the data at hand, else with its own.

    Args:
        csv: As in ``read_predictions``.
        root: The data folder that has to list its rows; None: ``data_root()``, if it does.

    Returns:
        The predictions, the manifest (None where the data do not list the rows), and what to say
        of the data.
    """
    folder = root or data_root()
    try:
        manifest = read_manifest(folder)
        return read_predictions(csv, manifest), manifest, str(folder)
    except (FileNotFoundError, ManifestError, UnknownStudyError, UnlabelledError) as error:
        if root:
            raise
        if isinstance(error, ManifestError):  # nobody named these data
            warnings.warn(str(error), stacklevel=2)
    try:
        predictions = read_predictions(csv)
    except UnlabelledError as error:
        todo = "Name the data folder that has them with --root."
        raise PredictionsError(f"{error} {todo}") from None
    return predictions, None, "none here lists these rows, so the labels are the CSV file's own"


def _rows_by_path(csv: Path, shown: pd.DataFrame, manifest: pd.DataFrame | None) -> pd.DataFrame:
    """Return what MURA's paths say of each row, and the label that the data or the folder has."""
    parts = shown["path"].str.extract(PATH)
    what = "path is not .../<split>/XR_<PART>/patient<N>/study<K>[/image<V>.png]"
    refuse_rows(shown, parts["key"].isna(), what, str(csv))
    whole = parts["image"].isna()
    refuse_rows(shown, whole & (not whole.all()), MIXED, str(csv))
    image = ("/" + parts["image"]).fillna("")
    if manifest is None:
        # the last folder of a leading path is the data set's own: MURA-v1.1
        study = parts["root"].str.extract(r"([^/]+/)$")[0].fillna("") + parts["key"]
        label = parts["finding"].map({"positive": "1", "negative": "0"})
    else:
        study = parts["key"].map(_studies_by_key(manifest))
        known = manifest["study"] if whole.all() else manifest["path"]
        _refuse_unknown(csv, shown, ~(study + image).isin(known))
        label = study.map(manifest.drop_duplicates("study").set_index("study")["label"])
    view = pd.to_numeric(parts["view"]).fillna(0).astype(int)
    kept = parts[["body_part", "patient", "split"]]
    return kept.assign(path=study + image, study=study, view=view, label=label)


def _rows_of(csv: Path, shown: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return what a manifest says of each row, which names an image or a whole study."""
    named = shown["path"].str.removeprefix("./").str.rstrip("/")
    images, studies = manifest.set_index("path"), manifest.drop_duplicates("study")
    whole = ~named.isin(images.index)
    _refuse_unknown(csv, shown, whole & ~named.isin(studies["study"]))
    refuse_rows(shown, whole & (not whole.all()), MIXED, str(csv))
    found = studies.set_index("study", drop=False).assign(view=0) if whole.all() else images
    columns = ["study", "body_part", "patient", "split", "view", "label"]
    return found.loc[named, columns].set_index(shown.index).assign(path=named)


def _refuse_unknown(csv: Path, shown: pd.DataFrame, unknown: pd.Series) -> None:
    try:
        refuse_rows(shown, unknown, "not listed by the data set", str(csv))
    except PredictionsError as error:
        raise UnknownStudyError(str(error)) from None


def _refuse_other_labels(csv: Path, study: pd.Series, given: pd.Series, known: pd.Series) -> None:
    other = (given != known).fillna(False).astype(bool)
    if other.any():
        label, first = given[other].iloc[0], study[other].iloc[0]
        raise PredictionsError(
            f"{csv}: its labels contradict the data folder's in {study[other].nunique():,} of "
            f"{study.nunique():,} studies, for example label {label} of {first}; correct or delete "
            "its label column, or name the data folder that has these labels."
        )


def _studies_by_key(manifest: pd.DataFrame) -> pd.Series:
    """Return study paths by their part behind the data folder, with and without the suffix."""
    studies = manifest["study"].drop_duplicates()
    key = studies.str.extract(PATH)["key"]
    bare = key.str.replace(r"_(?:positive|negative)$", "", regex=True)
    bare = bare[~bare.duplicated(keep=False) & ~bare.isin(key)]
    return pd.concat([pd.Series(studies[keys.index].array, keys) for keys in (key, bare)])


def read_study_list(file: str | Path) -> list[str]:
    """Read study paths, one per line (or a table's column), e.g. those with disputed labels.

    Blank lines, lines that start with ``#`` and a header are left out.

    Raises:
        FileNotFoundError: There is no such file.
    """
    entries = read_table(Path(file).expanduser(), ["study"])["study"]
    paths = [re.split("/?[,;\t]", entry)[0].rstrip("/") for entry in entries]
    return [path for path in paths if path and not path.startswith("#")]


def _read(csv: Path) -> pd.DataFrame:
    """Return the CSV's columns as text; row 1 is the first under the header, as a person counts."""
    table = read_table(csv, ["path", "probability", "label"], by_header=True)
    names, repeated = set(table), table.columns.has_duplicates
    if repeated or "probability" not in names or not {"path", "study"} & names:
        found = f"columns {', '.join(table)}" if names else "not a CSV file"
        raise PredictionsError(
            f"{csv}: {found}; expected path or study, and probability, each once."
        )
    if table.empty:
        raise PredictionsError(f"{csv}: no rows; expected one per image or study.")
    return table.set_index(pd.RangeIndex(1, len(table) + 1))
