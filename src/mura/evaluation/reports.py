"""Tables of results for people to read: of runs and of external predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mura.data import BODY_PARTS
from mura.evaluation.bootstrap import RESAMPLES
from mura.evaluation.predictions import (
    PredictionsError,
    check_predictions,
    refuse_leakage,
    study_predictions,
)
from mura.evaluation.tables import metric_table, model_table
from mura.runs import Run

SHOWN = ("kappa", "auroc", "accuracy", "sensitivity", "specificity")
PARTS = ("fit", "tune", "train", "valid", "test")  # a folder of such a name names the split


def run_studies(run: Run, split: str = "valid", method: str = "mean") -> pd.DataFrame:
    """Return a run's study predictions on one split (see ``evaluation.study_predictions``).

    Raises:
        PredictionsError: The predictions are damaged, or include patients that the run was fitted
            on.
    """
    file = str(run.folder / "predictions.csv")
    known = labelled(run.predictions)
    if split in set(run.predictions["split"]) - set(known["split"]):
        raise PredictionsError(f"{file}: no study of split {split!r} is labelled.")
    studies = study_predictions(check_predictions(known, file), method, split)
    fit_patients = run.split.loc[run.split["part"] == "fit", "patient"]
    refuse_leakage(studies, fit_patients, run.name)
    return studies


def csv_studies(
    predictions: pd.DataFrame,
    split: str = "valid",
    manifest: pd.DataFrame | None = None,
    name: str = "predictions",
) -> pd.DataFrame:
    """Return the studies of external predictions: of the split, or all where the file names none.

    Args:
        predictions: As ``evaluation.read_predictions`` returns them.
        split: Which split's studies.
        manifest: Of the data, where it is available: tells how many images a study has.
        name: The file, for messages.

    Raises:
        PredictionsError: The predictions are only of other splits; or rows are images, and some
            images of a listed study are missing, so that their mean answers another question.
    """
    if not (predictions["split"] == split).any():
        if _names_a_split(predictions):
            found = ", ".join(sorted(predictions["split"].astype(str).unique()))
            raise PredictionsError(
                f"{name}: no rows of split {split!r}; found {found}. Models are compared on the "
                "studies of one split."
            )
        split = None
    studies = study_predictions(predictions, split=split)
    if manifest is not None:
        images = studies["study"].map(manifest["study"].value_counts())
        lacking = studies[(studies["views"] > 0) & (studies["views"] < images)]
        if len(lacking):
            first = lacking.iloc[0]
            raise PredictionsError(
                f"{name}: {len(lacking):,} of {len(studies):,} studies lack images; it lists "
                f"{first['views']} of {images[first.name]} images of {first['study']}. Give all "
                "images of a study, or one row for the whole study."
            )
    return studies


def _names_a_split(predictions: pd.DataFrame) -> bool:
    """Return whether a column names the rows' split, or a folder that is named as splits are."""
    folder = predictions["study"].str.split("/").str[-4]
    return bool((predictions["split"].isin(PARTS) | (predictions["split"] != folder)).any())


def labelled(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose label is known: only they can be evaluated."""
    return predictions[predictions["label"].notna()].reset_index(drop=True)


def run_metrics(predictions: pd.DataFrame, split: str = "valid") -> dict[str, Any]:
    """Return what ``metrics.json`` holds: the study-level metric table of one split.

    Keys: split, threshold, and ``table``: a list of {group, metric, value, low, high, studies,
    abnormal, patients, note}, empty where no study of the split is labelled.
    """
    known = labelled(predictions)
    rows: list[dict[str, Any]] = []
    if (known["split"] == split).any():
        studies = study_predictions(known, split=split)
        rows = _records(metric_table(studies))
    return {"split": split, "threshold": 0.5, "table": rows}


def leaderboard(
    studies_by_model: Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = SHOWN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return ``evaluation.model_table`` of all models: tidy, one row per value."""
    return model_table(studies_by_model, metrics=metrics, resamples=resamples, seed=seed)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the overall rows of a tidy table as model x metric, "0.71 [0.65, 0.76]".

    The first column, ``studies``, tells how many studies: "169 (75 abnormal)".
    """
    chosen = table[table["group"] == "all"]
    cells = chosen.assign(cell=_cells(chosen, 3))
    wide = cells.pivot(index="model", columns="metric", values="cell")
    wide = wide.loc[cells["model"].unique(), cells["metric"].unique()]
    wide.insert(0, "studies", _studies(cells, "model"))
    return wide.rename_axis(columns=None).reset_index()


def _studies(rows: pd.DataFrame, by: str) -> pd.Series:
    """Return "169 (75 abnormal)" by group or by model."""
    counts = rows.groupby(by)[["studies", "abnormal"]].first()
    return pd.Series({row.Index: counted(*row[1:]) for row in counts.itertuples()}, dtype=str)


def counted(studies: int, abnormal: int) -> str:
    """Return "169 (75 abnormal)"."""
    return f"{studies:,} ({abnormal:,} abnormal)"


def _cells(rows: pd.DataFrame, digits: int) -> list[str]:
    numbers = rows[["value", "low", "high"]].to_numpy(dtype=float)
    return [with_interval(*row, digits) for row in numbers]


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return "0.71 [0.65, 0.76]", the value alone where it has no interval, or "undefined"."""
    if np.isnan(value):
        return "undefined"
    bounds = "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{bounds}"


def body_part_intervals(table: pd.DataFrame, metric: str = "kappa") -> pd.DataFrame:
    """Return one metric of a tidy table as body part (and "macro", "all") x model, with intervals.

    Cells are "0.71 [0.55, 0.84]", or "–" where a model predicted no study of the body part. Where
    all models predicted equally many, a first column ``studies`` gives the count.
    """
    chosen = table[table["metric"] == metric]
    cells = chosen.assign(cell=_cells(chosen, 2))
    wide = cells.pivot(index="group", columns="model", values="cell").fillna("–")
    wide = wide.loc[_groups(chosen), chosen["model"].unique()]
    if (chosen.groupby("group")[["studies", "abnormal"]].nunique() == 1).all(axis=None):
        # a model may have that name, too
        wide.insert(0, "studies", _studies(chosen, "group"), allow_duplicates=True)
    return wide.rename_axis(index=None, columns=None)


def by_body_part(table: pd.DataFrame, metric: str = "kappa") -> pd.DataFrame:
    """Return one metric of a tidy table as model x body part (and "macro", "all"): floats."""
    chosen = table[table["metric"] == metric]
    wide = chosen.pivot(index="model", columns="group", values="value")
    return wide.loc[chosen["model"].unique(), _groups(chosen)].rename_axis(columns=None)


def _groups(rows: pd.DataFrame) -> list[str]:
    """Return the body parts, in the order of the model that has the most, then macro and all."""
    by_model = rows.groupby("model", sort=False)["group"].unique()
    groups = pd.unique(np.concatenate(sorted(by_model, key=len, reverse=True)))
    return [*(group for group in groups if group not in ("macro", "all")), "macro", "all"]


def run_facts(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: its data, starting weights, settings and cost."""
    rows = []
    for run in runs:
        recipe, facts = run.recipe, run.environment
        parts = [] if len(recipe["body_parts"]) == len(BODY_PARTS) else recipe["body_parts"]
        rows.append(
            {
                "model": run.name,
                "architecture": recipe["architecture"],
                "problem": recipe["head"] + (f", {' '.join(parts)}" if parts else ""),
                "data": facts["data"]["name"],
                "weights": facts["weights"],
                "image_size": recipe["image_size"],
                "parameters": facts["parameters"],
                "fit_images": facts["data"]["images"]["fit"],
                "epochs": facts["epochs"],
                "seconds": facts["training_seconds"],
                "images_per_second": facts["images_per_second"],
            }
        )
    return pd.DataFrame(rows)


def results_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the overall results of runs beside their facts, one row per run."""
    table = leaderboard({run.name: run_studies(run) for run in runs})
    return formatted(table).merge(run_facts(runs), on="model")


def to_json(table: pd.DataFrame) -> dict[str, Any]:
    """Return a tidy table as {model: {group: {metric: {value, low, high, studies}}}}."""
    content: dict[str, Any] = {}
    for row in _records(table):
        metrics = content.setdefault(row.pop("model"), {}).setdefault(row.pop("group"), {})
        metrics[row.pop("metric")] = row
    return content


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON-ready values: None where a number is undefined."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
