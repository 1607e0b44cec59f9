"""Read anybody's CSV of probabilities into predictions."""

from pathlib import Path

import pandas as pd

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


class UnlabelledError(PredictionsError):
    """A CSV file has rows whose label is neither in the file nor in the data set."""


class UnknownStudyError(PredictionsError):
    """A CSV file has rows that the data set does not list: it is of another, maybe."""


def read_predictions(csv: str | Path, manifest: pd.DataFrame | None = None) -> pd.DataFrame:
    """Read a CSV of probabilities, one row per image or one per study.

    Args:
        csv: Columns ``path`` or ``study`` (MURA's paths; a leading folder, backslashes and a
            trailing slash do not matter), ``probability`` (of abnormal), optionally ``label`` and
            ``split``; others are ignored. Without a header: path or study, probability and
            optionally label, as in the competition's files.
        manifest: As ``read_manifest`` returns it. Gives labels to a CSV that has none, and
            refuses rows that it does not know; study folders may be named with or without their
            suffix. Without it the folder suffix ``_positive`` or ``_negative`` is the label.

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
    # Row 1 is the first line under the header, as a person counts.
    table.index = table.index + 1
    named = "path" if "path" in table else "study"
    text = table[named].str.strip().str.replace("\\", "/", regex=False)
    parts = text.str.extract(PATH)
    bad = parts["key"].isna()
    what = "path is not .../<split>/XR_<PART>/patient<N>/study<K>[/image<V>.png]"
    refuse_rows(table.assign(path=table[named]), bad, what, str(csv))
    whole = parts["image"].isna()
    if whole.any() and not whole.all():
        what = "a whole study among rows for images, expected one kind"
        refuse_rows(table.assign(path=table[named]), whole, what, str(csv))
    # The last folder of a leading path is the data set's own: MURA-v1.1.
    root = parts["root"].str.extract(r"([^/]+/)$")[0].fillna("")
    predictions = pd.DataFrame(
        {
            "path": root + parts["key"] + ("/" + parts["image"]).fillna(""),
            "study": root + parts["key"],
            "view": pd.to_numeric(parts["view"]).fillna(0).astype(int),
            "body_part": parts["body_part"],
            "patient": parts["patient"],
            "split": table["split"] if "split" in table else parts["split"],
            "label": parts["finding"].map({"positive": "1", "negative": "0"}),
            "probability": table["probability"],
        }
    )
    if manifest is not None:
        study = parts["key"].map(_studies_by_key(manifest))
        unknown = study.isna()
        if not whole.all():
            unknown |= ~(study + "/" + parts["image"]).isin(manifest["path"])
        try:
            refuse_rows(predictions, unknown, "not listed by the data set", str(csv))
        except PredictionsError as error:
            raise UnknownStudyError(str(error)) from None
        known = manifest.drop_duplicates("study").set_index("study")["label"]
        predictions["label"] = study.map(known)
        predictions["study"] = study
        predictions["path"] = study + ("/" + parts["image"]).fillna("")
    if "label" in table:
        predictions["label"] = table["label"]
    elif (missing := predictions["label"].isna()).any():
        raise UnlabelledError(
            f"{csv}: {missing.sum()} of {len(table)} rows have no label, for example "
            f"{predictions['path'][missing].iloc[0]}: no label column, no folder that ends in "
            "_positive or _negative, and no data set that knows it."
        )
    return check_predictions(predictions, str(csv)).reset_index(drop=True)


def _studies_by_key(manifest: pd.DataFrame) -> pd.Series:
    """Return study paths by their part after the data folder's name, and by that less the suffix.

    The competition's lists name study folders without ``_positive`` or ``_negative``.
    """
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
    """Read what is known of a phantom's images; None for a data folder without such a table.

    Args:
        root: The data folder; ``truth.csv`` stands beside it.

    Returns:
        One row per image: path, finding ("none" for normal studies), variant ("" without one),
        visible (1 where the image shows the finding), x0, y0, x1, y1 (its box in pixels, NaN
        where it does not), inverted (1 for inverted polarity), projection.
    """
    file = Path(root).parent / "truth.csv"
    if not file.is_file():
        return None
    table = pd.read_csv(file, dtype={"path": str, "finding": str, "variant": str})
    return table.fillna({"finding": "none", "variant": ""})


def _read(csv: Path) -> pd.DataFrame:
    """Return the CSV's columns as text, named."""
    try:
        table = pd.read_csv(
            csv, header=None, dtype=str, encoding="utf-8-sig", skipinitialspace=True
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise PredictionsError(
            f"{csv}: not a CSV file in UTF-8 ({error}); expected columns study or path, and "
            "probability."
        ) from error
    first = [str(cell).strip().lower() for cell in table.iloc[0]]
    if "/patient" in first[0].replace("\\", "/"):
        names = ["path", "probability", "label"][: table.shape[1]]
        table = table.iloc[:, :3].set_axis(names, axis=1)
    else:
        table = table.iloc[1:].set_axis(first, axis=1).reset_index(drop=True)
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated) or "probability" not in table or not {"path", "study"} & set(table):
        raise PredictionsError(
            f"{csv}: columns {', '.join(table.columns)}; expected path or study, and probability, "
            "each once."
        )
    if table.empty:
        raise PredictionsError(f"{csv}: no rows; expected one per image or study.")
    keep = [column for column in ("study", *PREDICTION_COLUMNS) if column in table]
    return table[list(dict.fromkeys(keep))]
