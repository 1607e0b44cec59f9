"""Read external predictions, lists of studies and a phantom's truth."""

from pathlib import Path

import pandas as pd

from mura.evaluation.predictions import PredictionsError, check_predictions, refuse_rows

# .../<split>/<body part>/<patient>/<study>[_positive|_negative][/<image>]
PATH = (
    r"^(?P<root>.*?)(?P<key>(?P<split>[^/]+)/(?P<body_part>XR_[A-Z]+)/(?P<patient>patient\d+)/"
    r"study\d+(?:_(?P<finding>positive|negative))?)(?:/(?P<image>image(?P<view>\d+)\.\w+))?/?$"
)


class UnlabelledError(PredictionsError):
    """Rows of a CSV file have no label, neither in the file nor in the data set."""


class UnknownStudyError(PredictionsError):
    """The data set does not list rows of a CSV file, which may belong to another one."""


def read_predictions(csv: str | Path, manifest: pd.DataFrame | None = None) -> pd.DataFrame:
    """Read a CSV of probabilities, one row per image or one per study.

    Args:
        csv: Columns ``path`` or ``study`` (MURA's paths; a leading folder, backslashes and a
            trailing slash do not matter), ``probability`` (of abnormal), optionally ``label`` and
            ``split``; others are ignored.
        manifest: As ``data.read`` returns it. Gives labels to a CSV that has none, and refuses
            rows that it does not know; study folders may be named with or without their suffix.
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
    text = given.str.strip().str.replace("\\", "/", regex=False)
    parts = text.str.extract(PATH)
    shown = table.assign(path=given)
    what = "path is not .../<split>/XR_<PART>/patient<N>/study<K>[/image<V>.png]"
    refuse_rows(shown, parts["key"].isna(), what, str(csv))
    whole = parts["image"].isna()
    what = "a whole study among rows for images, expected one kind"
    refuse_rows(shown, whole & (not whole.all()), what, str(csv))
    image = ("/" + parts["image"]).fillna("")
    if manifest is None:
        # the last folder of a leading path is the data set's own: MURA-v1.1
        study = parts["root"].str.extract(r"([^/]+/)$")[0].fillna("") + parts["key"]
        label = parts["finding"].map({"positive": "1", "negative": "0"})
    else:
        study = parts["key"].map(_studies_by_key(manifest))
        known = manifest["study"] if whole.all() else manifest["path"]
        try:
            refuse_rows(shown, ~(study + image).isin(known), "not listed by the data set", str(csv))
        except PredictionsError as error:
            raise UnknownStudyError(str(error)) from None
        label = study.map(manifest.drop_duplicates("study").set_index("study")["label"])
    if "label" in table:
        label = table["label"]
    elif (missing := label.isna()).any():
        raise UnlabelledError(
            f"{csv}: {missing.sum()} of {len(table)} rows have no label, for example "
            f"{given[missing].iloc[0]}: no label column, no folder that ends in _positive or "
            "_negative, and no data set that knows it."
        )
    columns = {
        "path": study + image,
        "study": study,
        "view": pd.to_numeric(parts["view"]).fillna(0).astype(int),
        **parts[["body_part", "patient"]],
        "split": table["split"] if "split" in table else parts["split"],
        "label": label,
        "probability": table["probability"],
    }
    predictions = pd.DataFrame(columns)
    return check_predictions(predictions, str(csv)).reset_index(drop=True)


def _studies_by_key(manifest: pd.DataFrame) -> pd.Series:
    """Return study paths by their part behind the data folder, with and without the suffix."""
    studies = manifest["study"].drop_duplicates()
    key = studies.str.extract(PATH)["key"]
    bare = key.str.replace(r"_(?:positive|negative)$", "", regex=True)
    bare = bare[~bare.duplicated(keep=False) & ~bare.isin(key)]
    return pd.concat([pd.Series(studies[keys.index].array, keys) for keys in (key, bare)])


def read_study_list(file: str | Path) -> list[str]:
    """Read study paths, one per line (a CSV's first column), e.g. those with disputed labels.

    Blank lines, lines that start with ``#`` and a header ``study`` are left out.

    Raises:
        FileNotFoundError: There is no such file.
        PredictionsError: It is no UTF-8 text.
    """
    file = Path(file).expanduser()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PredictionsError(f"{file}: not UTF-8 text ({error}); save it as UTF-8.") from error
    entries = [line.split(",")[0].strip().replace("\\", "/").rstrip("/") for line in lines]
    return [e for e in entries if e and not e.startswith("#") and e.lower() != "study"]


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


def _read(csv: Path) -> pd.DataFrame:
    """Return the CSV's columns as text; row 1 is the first under the header, as a person counts."""
    options = {"header": None, "dtype": str, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        table = pd.read_csv(csv, **options)
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        expected = "expected columns study or path, and probability"
        raise PredictionsError(f"{csv}: not a CSV file in UTF-8 ({error}); {expected}.") from error
    # read as a row: pandas would rename a column that is there twice
    names = [str(name).strip().lower() for name in table.iloc[0]]
    table = table.iloc[1:].set_axis(names, axis=1)
    repeated = table.columns.has_duplicates
    if repeated or "probability" not in names or not {"path", "study"} & set(names):
        found = f"{csv}: columns {', '.join(names)}"
        raise PredictionsError(f"{found}; expected path or study, and probability, each once.")
    if table.empty:
        raise PredictionsError(f"{csv}: no rows; expected one per image or study.")
    return table
