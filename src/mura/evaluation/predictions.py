"""Predictions per image: check them, and pool the views of a study into one probability.

Predictions are a DataFrame with one row per view and the columns of ``PREDICTION_COLUMNS``;
studies are a DataFrame with one row per study and the columns of ``STUDY_COLUMNS``. Everything
else in this package starts from one of the two.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from mura.data import BODY_PART_DTYPE, BODY_PARTS
from mura.files import InputError

PREDICTION_COLUMNS = (
    "path",
    "study",
    "view",
    "body_part",
    "patient",
    "split",
    "label",
    "probability",
)
STUDY_COLUMNS = ("study", "body_part", "patient", "split", "label", "probability", "views")
AGGREGATIONS = ("mean", "max", "noisy_or", "logit_mean")

# Where the logit is taken, probabilities are kept this far from 0 and 1.
LOGIT_MARGIN = 1e-6


class PredictionsError(InputError):
    """Predictions that cannot be evaluated; the message names the rows."""


def check_predictions(predictions: pd.DataFrame, name: str = "predictions") -> pd.DataFrame:
    """Return a copy with plain dtypes (label int64, ordered body part) once every check passed.

    Args:
        predictions: Columns ``PREDICTION_COLUMNS`` in any order; further columns are kept.
        name: What the messages call the table: a run's or a file's name.

    Raises:
        PredictionsError: A column is missing or there are no rows; a probability is missing, no
            number or outside 0-1; a label is missing or neither 0 nor 1; a body part is
            unknown; a view is predicted twice; the rows of a study disagree about its label,
            patient, body part or split; a patient is in two splits.
    """
    missing = [column for column in PREDICTION_COLUMNS if column not in predictions]
    if missing:
        raise PredictionsError(
            f"{name}: no column {', '.join(missing)}; found {', '.join(map(str, predictions))}."
        )
    if predictions.empty:
        raise PredictionsError(f"{name}: no rows; expected one row per view.")
    checked = predictions.copy()
    checked["probability"] = _probabilities(predictions, name)
    checked["label"] = _labels(predictions, name)
    known = predictions["body_part"].isin(BODY_PARTS)
    checked["body_part"] = predictions["body_part"].astype(object).where(known, None)
    checked["body_part"] = checked["body_part"].astype(BODY_PART_DTYPE)
    for column in ("study", "patient", "split"):
        refuse_rows(predictions, predictions[column].isna(), f"no {column}", name)
    refuse_rows(
        predictions,
        ~known,
        f"body part none of {', '.join(BODY_PARTS)}",
        name,
        "body_part",
    )
    for key in (["path"], ["study", "view"]):
        twice = predictions.duplicated(key, keep=False)
        refuse_rows(predictions, twice, "view predicted twice", name, remedy="Keep one of each.")
    for column in ("label", "patient", "body_part", "split"):
        _refuse_disagreement(checked, "study", column, name)
    _refuse_disagreement(checked, "patient", "split", name)
    return checked


def study_predictions(
    predictions: pd.DataFrame, method: str = "mean", split: str | None = None
) -> pd.DataFrame:
    """Pool the views of each study into one probability.

    Args:
        predictions: One row per view; checked here.
        method: ``"mean"`` of the views (the paper's), ``"max"``, ``"noisy_or"`` (1 - the product
            of 1 - p: one abnormal view suffices, views taken as independent), or
            ``"logit_mean"`` (the mean of log-odds, back as a probability).
        split: Keep only this split's studies, e.g. ``"valid"``; all when ``None``.

    Returns:
        Columns ``STUDY_COLUMNS``, one row per study in order of first appearance. ``views`` is
        the number of rows pooled, 0 where a file gave one probability for the whole study.

    Raises:
        PredictionsError: As ``check_predictions``; or the split has no rows.
        ValueError: No such method.
    """
    if method not in AGGREGATIONS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(AGGREGATIONS)}.")
    checked = check_predictions(predictions)
    if split is not None:
        found = ", ".join(sorted(checked["split"].unique()))
        checked = checked[checked["split"] == split]
        if checked.empty:
            raise PredictionsError(f"predictions: no rows of split {split!r}; found {found}.")
    code, _ = pd.factorize(checked["study"])
    studies = checked.drop_duplicates("study")[["study", "body_part", "patient", "split", "label"]]
    studies = studies.reset_index(drop=True)
    views = np.bincount(code)
    probability = checked["probability"].to_numpy()
    if method == "mean":
        pooled = np.bincount(code, probability) / views
    elif method == "max":
        pooled = np.zeros(len(views))
        np.maximum.at(pooled, code, probability)
    elif method == "noisy_or":
        with np.errstate(divide="ignore"):  # p = 1: log 0 = -inf, and 1 - exp(-inf) = 1
            pooled = -np.expm1(np.bincount(code, np.log1p(-probability)))
    else:
        pooled = from_logit(np.bincount(code, to_logit(probability)) / views)
    # Summing rounds: the mean of (1, 1, 1) may not leave 0-1.
    studies["probability"] = np.clip(pooled, 0.0, 1.0)
    studies["views"] = np.bincount(code, checked["view"] > 0).astype(int)
    return studies


def aligned(studies_by_model: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, np.ndarray]:
    """Put several models' predictions of the same studies side by side.

    Returns:
        The first model's table, and float64[models, studies] probabilities in its row order.

    Raises:
        PredictionsError: A model lacks studies that another has, or labels a study differently.
    """
    if not studies_by_model:
        raise PredictionsError("no models to compare; expected at least one.")
    (first, base), *others = studies_by_model.items()
    for name, table in studies_by_model.items():
        refuse_rows(table, table.duplicated("study", keep=False), "repeated study", name)
    rows = [base["probability"].to_numpy(dtype=float)]
    for name, table in others:
        for one, two, left, right in ((first, name, base, table), (name, first, table, base)):
            absent = left.loc[~left["study"].isin(right["study"]), "study"]
            if len(absent):
                raise PredictionsError(
                    f"{two}: {_some(absent)} missing, which {one} has; compare models on the "
                    "same studies."
                )
        table = table.set_index("study").loc[base["study"]]
        conflict = table["label"].to_numpy() != base["label"].to_numpy()
        refuse_rows(base, conflict, f"another label than in {first}", name)
        rows.append(table["probability"].to_numpy(dtype=float))
    return base.reset_index(drop=True), np.stack(rows)


def exclude_studies(table: pd.DataFrame, studies: Iterable[str]) -> pd.DataFrame:
    """Return predictions or studies without the named studies, e.g. ones with disputed labels.

    Args:
        table: Anything with a ``study`` column.
        studies: Study paths as in the table; a trailing slash is accepted.

    Raises:
        PredictionsError: A named study is not in the table, or none would be left.
    """
    named = {str(study).strip().rstrip("/") for study in studies}
    unknown = sorted(named - set(table["study"]))
    if unknown:
        raise PredictionsError(
            f"disputed studies: {_some(unknown)} not among the {table['study'].nunique()} "
            "predicted studies; give study paths as the predictions have them."
        )
    kept = table[~table["study"].isin(named)]
    if kept.empty:
        raise PredictionsError("disputed studies: every study is on the list; none is left.")
    return kept.reset_index(drop=True)


def refuse_leakage(evaluated: pd.DataFrame, fit_patients: Iterable[str], name: str) -> None:
    """Stop when patients that a model was fitted on are among the evaluated ones.

    Raises:
        PredictionsError: Names the patients.
    """
    leaked = sorted(set(evaluated["patient"]) & set(fit_patients))
    if leaked:
        raise PredictionsError(
            f"{name}: {_some(leaked)} evaluated, but fitted on too; evaluate on patients that "
            "the training never saw."
        )


def to_logit(probability: np.ndarray) -> np.ndarray:
    """Return log-odds, of probabilities kept ``LOGIT_MARGIN`` from 0 and 1."""
    clipped = np.clip(probability, LOGIT_MARGIN, 1 - LOGIT_MARGIN)
    return np.log(clipped) - np.log1p(-clipped)


def from_logit(logit: np.ndarray) -> np.ndarray:
    """Return the probability of log-odds, without overflow at either end."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logit, dtype=float)))


def refuse_rows(
    table: pd.DataFrame,
    bad: pd.Series | np.ndarray,
    what: str,
    name: str,
    show: str | None = None,
    remedy: str = "",
) -> None:
    """Raise ``PredictionsError`` naming the rows where ``bad`` is true, if there are any.

    Args:
        table: Has ``path`` or ``study``.
        bad: bool[rows].
        what: Is wrong with them.
        name: Of the table: a file or a model.
        show: A further column to quote.
        remedy: A sentence.
    """
    bad = np.asarray(bad, dtype=bool)
    if not bad.any():
        return
    rows = table[bad]
    key = "path" if "path" in rows else "study"
    shown = [] if show in (None, key) else [show]
    described = [
        f"row {index} ({', '.join(str(value) for value in values)})"
        for index, values in zip(rows.index, rows[[key, *shown]].to_numpy(), strict=True)
    ]
    message = f"{name}: {what} ({len(rows)} of {len(table)} rows): {_some(described)}."
    raise PredictionsError(f"{message} {remedy}".rstrip())


def _probabilities(predictions: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(predictions["probability"], errors="coerce").to_numpy(dtype=float)
    wrong = ~np.isfinite(values) | (values < 0) | (values > 1)
    what = "no probability from 0 to 1"
    refuse_rows(predictions, wrong, what, name, "probability")
    return values


def _labels(predictions: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(predictions["label"], errors="coerce").to_numpy(
        dtype=float, na_value=np.nan
    )
    wrong = (values != 0) & (values != 1)
    what = "no label of 0 (normal) or 1 (abnormal)"
    refuse_rows(predictions, wrong, what, name, "label")
    return values.astype(np.int64)


def _refuse_disagreement(checked: pd.DataFrame, key: str, column: str, name: str) -> None:
    distinct = checked.drop_duplicates([key, column])
    several = distinct.loc[distinct.duplicated(key), key]
    if several.empty:
        return
    what = f"{key} with more than one {column}"
    refuse_rows(checked, checked[key].isin(several), what, name, column)


def _some(items: Iterable[str], limit: int = 6) -> str:
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
