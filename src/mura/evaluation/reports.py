"""Results for people: tables of runs and of anybody's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mura import evaluation
from mura.data.manifest import BODY_PARTS
from mura.runs import Run

RESAMPLES = 2000  # of the intervals in tables; the evaluation notebook takes more
SHOWN = ("kappa", "auroc", "accuracy", "sensitivity", "specificity")
PARTS = ("fit", "tune", "train", "valid", "test")  # folders of these names tell the split


def run_studies(run: Run, split: str = "valid", method: str = "mean") -> pd.DataFrame:
    """Return a run's study predictions on one split (see ``evaluation.study_predictions``).

    Raises:
        PredictionsError: The predictions are damaged, or were made on patients that the run was
            fitted on.
    """
    file = str(run.folder / "predictions.csv")
    known = labelled(run.predictions)
    if split in set(run.predictions["split"]) - set(known["split"]):
        raise evaluation.PredictionsError(f"{file}: no study of split {split!r} is labelled.")
    predictions = evaluation.check_predictions(known, file)
    studies = evaluation.study_predictions(predictions, method, split)
    fit_patients = run.split.loc[run.split["part"] == "fit", "patient"]
    evaluation.refuse_leakage(studies, fit_patients, run.name)
    return studies


def csv_studies(
    predictions: pd.DataFrame,
    split: str = "valid",
    manifest: pd.DataFrame | None = None,
    name: str = "predictions",
) -> pd.DataFrame:
    """Return the studies of anybody's predictions: of the split, or all where no split is told.

    Args:
        predictions: As ``evaluation.read_predictions`` returns them.
        split: Which split's studies.
        manifest: Of the data, where it is at hand: says how many images a study has.
        name: What the messages call the predictions: the file.

    Raises:
        PredictionsError: The predictions are of other splits alone; or, where rows are images,
            some images of a listed study are missing.
    """
    if not (predictions["split"] == split).any():
        if _tells_split(predictions):
            found = ", ".join(sorted(predictions["split"].astype(str).unique()))
            raise evaluation.PredictionsError(
                f"{name}: no rows of split {split!r}; found {found}. Models are compared on the "
                "studies of one split."
            )
        split = None
    studies = evaluation.study_predictions(predictions, split=split)
    if manifest is not None:
        _refuse_missing_views(studies, manifest, name)
    return studies


def _tells_split(predictions: pd.DataFrame) -> bool:
    """Whether a column said of which split rows are, or a folder that is called as a split is."""
    folder = predictions["study"].str.split("/").str[-4]
    return bool((predictions["split"].isin(PARTS) | (predictions["split"] != folder)).any())


def _refuse_missing_views(studies: pd.DataFrame, manifest: pd.DataFrame, name: str) -> None:
    """Raise where a mean would be over some of a study's images: that is another question."""
    images = studies["study"].map(manifest["study"].value_counts())
    lacking = studies[(studies["views"] > 0) & (studies["views"] < images)]
    if len(lacking):
        first = lacking.iloc[0]
        raise evaluation.PredictionsError(
            f"{name}: {len(lacking):,} of {len(studies):,} studies lack images; it lists "
            f"{first['views']} of {images[first.name]} images of {first['study']}. Give all "
            "images of a study, or one row for the whole study."
        )


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
        studies = evaluation.study_predictions(known, split=split)
        rows = _records(evaluation.metric_table(studies, resamples=RESAMPLES))
    return {"split": split, "threshold": 0.5, "table": rows}


def leaderboard(
    studies_by_model: Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = SHOWN,
    resamples: int = RESAMPLES,
    **settings: Any,
) -> pd.DataFrame:
    """Return ``evaluation.model_table`` of all models: tidy, one row per value."""
    return evaluation.model_table(
        studies_by_model, metrics=metrics, resamples=resamples, **settings
    )


def formatted(table: pd.DataFrame, group: str = "all") -> pd.DataFrame:
    """Return one group of a tidy table as model x metric, "0.71 [0.65, 0.76]".

    The first column, ``studies``, says how many there are of: "169 (75 abnormal)".
    """
    chosen = table[table["group"] == group]
    cells = chosen.assign(cell=_with_intervals(chosen))
    wide = cells.pivot(index="model", columns="metric", values="cell")
    wide = wide.loc[cells["model"].unique(), cells["metric"].unique()]
    wide.insert(0, "studies", _studies(cells, "model"))
    return wide.rename_axis(columns=None).reset_index()


def _studies(rows: pd.DataFrame, by: str) -> pd.Series:
    """Return by group or model, whose rows are of the same studies, "169 (75 abnormal)"."""
    counts = rows.groupby(by)[["studies", "abnormal"]].first().to_dict("index")
    return pd.Series({name: counted(**count) for name, count in counts.items()}, dtype=str)


def counted(studies: int, abnormal: int) -> str:
    """Return what a value is of: "169 (75 abnormal)"."""
    return f"{studies:,} ({abnormal:,} abnormal)"


def _with_intervals(rows: pd.DataFrame, digits: int = 3) -> list[str]:
    return [
        with_interval(value, low, high, digits)
        for value, low, high in rows[["value", "low", "high"]].to_numpy(dtype=float)
    ]


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return "0.71 [0.65, 0.76]", the value alone where it has no interval, or "undefined"."""
    if np.isnan(value):
        return "undefined"
    if np.isnan(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def body_part_intervals(table: pd.DataFrame, metric: str = "kappa") -> pd.DataFrame:
    """Return one metric of a tidy table as body part (and "macro", "all") x model, with intervals.

    Cells are "0.71 [0.55, 0.84]", or "–" where a model predicted no study of the body part. Where
    all models predicted as many, a first column ``studies`` says how many.
    """
    chosen = table[table["metric"] == metric]
    cells = chosen.assign(cell=_with_intervals(chosen, digits=2))
    wide = cells.pivot(index="group", columns="model", values="cell").fillna("–")
    rows = [name for name in (*BODY_PARTS, "macro", "all") if name in wide.index]
    wide = wide.loc[rows, chosen["model"].unique()]
    if (chosen.groupby("group")[["studies", "abnormal"]].nunique() == 1).all(axis=None):
        # a model may be called so, too
        wide.insert(0, "studies", _studies(chosen, "group"), allow_duplicates=True)
    return wide.rename_axis(index=None, columns=None)


def by_body_part(table: pd.DataFrame, metric: str = "kappa") -> pd.DataFrame:
    """Return one metric of a tidy table as model x body part (and "macro", "all"): floats."""
    chosen = table[table["metric"] == metric]
    wide = chosen.pivot(index="model", columns="group", values="value")
    columns = [name for name in (*BODY_PARTS, "macro", "all") if name in wide]
    return wide.loc[chosen["model"].unique(), columns].rename_axis(columns=None)


def run_facts(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: what it was trained on, from and with, and at what cost."""
    rows = []
    for run in runs:
        recipe, facts = run.recipe, run.environment
        parts = recipe["body_parts"]
        rows.append(
            {
                "model": run.name,
                "architecture": recipe["architecture"],
                "problem": recipe["head"]
                if len(parts) == len(BODY_PARTS)
                else f"{recipe['head']}, {' '.join(parts)}",
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
    return [
        {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in row.items()
        }
        for row in table.to_dict("records")
    ]
