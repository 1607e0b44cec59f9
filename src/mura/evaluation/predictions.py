"""Predictions per image: check them, and pool the views of a study into one probability.

Predictions have one row per view and the columns ``PREDICTION_COLUMNS``, studies one row per study
and the columns ``STUDY_COLUMNS``. Everything else in this package starts from one of the two.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from mura.data import in_source_order
from mura.data.tables import to_labels
from mura.files import InputError

PREDICTION_COLUMNS = ("path", "study", "view", "body_part", "patient", "split")
PREDICTION_COLUMNS += ("label", "probability")
STUDY_COLUMNS = ("study", "body_part", "patient", "split", "label", "probability", "views")
AGGREGATIONS = ("mean", "max", "noisy_or", "logit_mean")

LOGIT_MARGIN = 1e-6  # probabilities are kept this far from 0 and 1 where the logit is taken


class PredictionsError(InputError):
    """Predictions that cannot be evaluated; the message names the rows."""


def check_predictions(predictions: pd.DataFrame, name: str = "predictions") -> pd.DataFrame:
    """Return a copy with plain dtypes (label int64, ordered body part) once every check passed.

    Args:
        predictions: Columns ``PREDICTION_COLUMNS`` in any order; further columns are kept.
        name: What the messages call the table: a run's or a file's name.

    Raises:
        PredictionsError: A column or all rows are missing; a value is missing or out of range; a
            view is predicted twice; the rows of a study disagree about its label, patient, body
            part or split; a patient is in two splits.
    """
    missing = [column for column in PREDICTION_COLUMNS if column not in predictions]
    if missing:
        raise PredictionsError(
            f"{name}: no column {', '.join(missing)}; found {', '.join(map(str, predictions))}."
        )
    if predictions.empty:
        raise PredictionsError(f"{name}: no rows; expected one row per view.")
    numbers = pd.to_numeric(predictions["probability"], errors="coerce")
    probability = numbers.to_numpy(dtype=float, na_value=np.nan)
    label = to_labels(predictions["label"])
    faults = {
        "probability": ("no probability from 0 to 1", ~((probability >= 0) & (probability <= 1))),
        "label": ("no label of 0 (normal) or 1 (abnormal)", label.isna()),
        **{
            key: (f"no {key.replace('_', ' ')}", predictions[key].isna())
            for key in ("body_part", "study", "patient", "split")
        },
    }
    for column, (what, bad) in faults.items():
        refuse_rows(predictions, bad, what, name, column)
    for key in (["path"], ["study", "view"]):
        twice = predictions.duplicated(key, keep=False)
        refuse_rows(predictions, twice, "view predicted twice", name)
    checked = predictions.assign(
        probability=probability,
        label=label.astype(np.int64),
        body_part=in_source_order(predictions["body_part"]),
    )
    pairs = [("study", column) for column in ("label", "patient", "body_part", "split")]
    for key, column in (*pairs, ("patient", "split")):
        distinct = checked.drop_duplicates([key, column])
        several = checked[key].isin(distinct.loc[distinct.duplicated(key), key])
        refuse_rows(checked, several, f"{key} with more than one {column}", name, column)
    return checked


def study_predictions(
    predictions: pd.DataFrame,
    method: str = "mean",
    split: str | None = None,
    name: str = "predictions",
) -> pd.DataFrame:
    """Pool the views of each study into one probability.

    Args:
        predictions: One row per view; checked here.
        method: ``"mean"`` of the views (the paper's), ``"max"``, ``"noisy_or"`` (1 - the product
            of 1 - p: one abnormal view suffices, views taken as independent), or
            ``"logit_mean"`` (the mean of log-odds, back as a probability).
        split: Keep only this split's studies, e.g. ``"valid"``; all when ``None``.
        name: What the messages call the table.

    Returns:
        Columns ``STUDY_COLUMNS``, one row per study in order of first appearance. ``views`` is
        the number of rows pooled, 0 where a file gave one probability for the whole study.

    Raises:
        PredictionsError: As ``check_predictions``; or the split has no rows.
        ValueError: No such method.
    """
    if method not in AGGREGATIONS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(AGGREGATIONS)}.")
    checked = check_predictions(predictions, name)
    if split is not None:
        found = ", ".join(sorted(checked["split"].unique()))
        checked = checked[checked["split"] == split]
        if checked.empty:
            raise PredictionsError(f"{name}: no rows of split {split!r}; found {found}.")
    code, _ = pd.factorize(checked["study"])
    views, probability = np.bincount(code), checked["probability"].to_numpy()
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
    studies = checked.drop_duplicates("study")[["study", "body_part", "patient", "split", "label"]]
    return studies.reset_index(drop=True).assign(
        probability=np.clip(pooled, 0.0, 1.0),  # rounding may take the mean of (1, 1, 1) above 1
        views=np.bincount(code, checked["view"] > 0).astype(int),
    )


def aligned(studies_by_model: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the first model's table, and all probabilities [models, studies] in its row order.

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
                    f"{two}: {_some(list(absent))} missing, which {one} has; compare models on the "
                    "same studies."
                )
        table = table.set_index("study").loc[base["study"]]
        conflict = table["label"].to_numpy() != base["label"].to_numpy()
        refuse_rows(base, conflict, f"another label than in {first}", name)
        rows.append(table["probability"].to_numpy(dtype=float))
    return base.reset_index(drop=True), np.stack(rows)


def refuse_leakage(evaluated: pd.DataFrame, fit_patients: Iterable[str], name: str) -> None:
    """Raise ``PredictionsError`` naming the patients that were both fitted on and evaluated."""
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
    table: pd.DataFrame, bad: pd.Series | np.ndarray, what: str, name: str, show: str | None = None
) -> None:
    """Raise ``PredictionsError`` naming the rows where bool[rows] ``bad`` is true.

    The message quotes each row's path (or study) and the column ``show``.
    """
    rows = table[np.asarray(bad, dtype=bool)]
    if rows.empty:
        return
    key = "path" if "path" in rows else "study"
    quoted = rows[[key] if show in (None, key) else [key, show]].itertuples()
    named = [f"row {index} ({', '.join(map(str, values))})" for index, *values in quoted]
    raise PredictionsError(f"{name}: {what} ({len(named)} of {len(table)} rows): {_some(named)}.")


def _some(items: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
