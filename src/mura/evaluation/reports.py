"""Tables of results for people to read: of runs, of comparisons and of external predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mura.data import BODY_PARTS as MURA_PARTS
from mura.evaluation.predictions import (
    AGGREGATIONS,
    PredictionsError,
    refuse_leakage,
    study_predictions,
)
from mura.evaluation.reading import read_study_list
from mura.evaluation.tables import TOO_FEW, metric_table, model_table
from mura.files import as_named
from mura.runs import Run

SHOWN = ("kappa", "auroc", "accuracy", "sensitivity", "specificity")
PARTS = ("fit", "tune", "train", "valid", "test")  # a folder of such a name names the split


def run_studies(run: Run, split: str = "valid", method: str = "mean") -> pd.DataFrame:
    """Return a run's study predictions on one split (see ``evaluation.study_predictions``).

    Raises:
        PredictionsError: The predictions are damaged, or of patients that the run was fitted on.
    """
    file = str(run.folder / "predictions.csv")
    known = labelled(run.predictions)
    if split in set(run.predictions["split"]) - set(known["split"]):
        raise PredictionsError(f"{file}: no study of split {split!r} is labelled.")
    studies = study_predictions(known, method, split, file)
    refuse_leakage(studies, run.split.loc[run.split["part"] == "fit", "patient"], run.name)
    return studies


def choices(run: Run, disputed: str | Path | None = None) -> dict[str, pd.DataFrame]:
    """Return one run's validation studies, pooled in other ways, and without disputed labels.

    ``disputed`` is a file (``evaluation.read_study_list``); it may name other studies as well.

    Raises:
        PredictionsError: The list names none of the run's studies, or all of them.
    """
    tables = {method: run_studies(run, method=method) for method in AGGREGATIONS}
    pooled = {f"{method.replace('_', ' ')} of views": table for method, table in tables.items()}
    if disputed:
        mean, named = pooled["mean of views"], read_study_list(as_named(disputed))
        here = mean["study"].isin(named)
        if here.all() or not here.any():
            raise PredictionsError(
                f"{disputed}: {'all' if here.any() else 'none'} of the {len(mean):,} studies that "
                f"{run.name} predicted are on this list of {len(named):,}; give study paths as "
                "the predictions have them, and leave some out."
            )
        pooled[f"mean, {here.sum()} disputed left out"] = mean[~here].reset_index(drop=True)
    return pooled


def csv_studies(
    predictions: pd.DataFrame, manifest: pd.DataFrame | None = None, name: str = "predictions"
) -> pd.DataFrame:
    """Return the validation studies of external predictions; all where no split is named.

    Args:
        predictions: As ``evaluation.read_predictions`` returns them.
        manifest: Of the data, if available: tells how many images a study has.
        name: The file, for messages.

    Raises:
        PredictionsError: The predictions are only of other splits; or rows are images, and some
            images of a listed study are missing.
    """
    split = predictions["split"]
    valid = (split == "valid").any()
    # a column names the split, or a folder of such a name
    folder = predictions["study"].str.split("/").str[-4]
    if not valid and (split.isin(PARTS) | (split != folder)).any():
        raise PredictionsError(
            f"{name}: no rows of split 'valid'; found {', '.join(sorted(set(split)))}. Models are "
            "compared on the studies of one split."
        )
    studies = study_predictions(predictions, split="valid" if valid else None, name=name)
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


def labelled(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose label is known: only they can be evaluated."""
    return predictions[predictions["label"].notna()].reset_index(drop=True)


def run_metrics(predictions: pd.DataFrame) -> dict[str, Any]:
    """Return what ``metrics.json`` holds: the study-level metric table of the validation studies.

    Keys: split, threshold, and ``table``: a list of {group, metric, value, low, high, studies,
    abnormal, patients, note}, empty where no validation study is labelled.
    """
    valid = labelled(predictions).query("split == 'valid'")
    rows = _records(metric_table(study_predictions(valid))) if len(valid) else []
    return {"split": "valid", "threshold": 0.5, "table": rows}


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the overall rows of a tidy table as model x metric, "0.71 [0.65, 0.76]".

    The first column, ``studies``, tells how many studies: "169 (75 abnormal)".
    """
    rows = _written(table[table["group"] == "all"], 3)
    wide = rows.pivot(index="model", columns="metric", values="cell")
    wide = wide.loc[rows["model"].unique(), rows["metric"].unique()]
    wide.insert(0, "studies", rows.groupby("model")["count"].first())
    return wide.rename_axis(columns=None).reset_index()


def body_part_intervals(table: pd.DataFrame, metric: str = "kappa") -> pd.DataFrame:
    """Return one metric of a tidy table as body part (and "macro", "all") x model, with intervals.

    A cell is "–" where a model predicted no such study, and "too few" where a body part has fewer
    than ten images of either label. Where all models predicted equally many, a
    first column ``studies`` gives the count.
    """
    rows = _written(table[table["metric"] == metric], 2)
    rows["cell"] = rows["cell"].mask(rows["note"].str.startswith(TOO_FEW), TOO_FEW)
    wide = rows.pivot(index="group", columns="model", values="cell").fillna("–")
    wide = wide.loc[_groups(rows), rows["model"].unique()]
    counts = rows.groupby("group")["count"]
    if counts.nunique().max() == 1:
        # a model may have that name, too
        wide.insert(0, "studies", counts.first(), allow_duplicates=True)
    return wide.rename_axis(index=None, columns=None)


def by_body_part(table: pd.DataFrame, metric: str = "kappa") -> pd.DataFrame:
    """Return one metric of a tidy table as model x body part (and "macro", "all"): floats.

    NaN where a body part has too few images.
    """
    rows = table[table["metric"] == metric]
    rows = rows.assign(value=rows["value"].mask(rows["note"].str.startswith(TOO_FEW)))
    wide = rows.pivot(index="model", columns="group", values="value")
    return wide.loc[rows["model"].unique(), _groups(rows)].rename_axis(columns=None)


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Return "0.71 [0.65, 0.76]", the value alone where it has no interval, or "undefined"."""
    if np.isnan(value):
        return "undefined"
    bounds = "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{bounds}"


def counted(studies: int, abnormal: int) -> str:
    """Return "169 (75 abnormal)"."""
    return f"{studies:,} ({abnormal:,} abnormal)"


def _written(rows: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Return rows with the columns ``cell`` and ``count``: what ``formatted`` shows."""
    cell = [with_interval(*row, digits) for row in rows[["value", "low", "high"]].to_numpy(float)]
    return rows.assign(cell=cell, count=list(map(counted, rows["studies"], rows["abnormal"])))


def _groups(rows: pd.DataFrame) -> list[str]:
    most = rows.groupby("model")["group"].nunique().idxmax()  # a specialist has few
    first = rows[rows["model"] == most]
    groups = list(pd.concat([first, rows])["group"].unique())  # in the source's order
    last = [group for group in ("macro", "all") if group in groups]
    return [group for group in groups if group not in last] + last


def run_facts(runs: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: its data, starting weights, settings and cost."""
    rows = []
    for run in runs:
        recipe, facts = run.recipe, run.environment
        parts = recipe["body_parts"]
        parts = parts if len(parts) < len(facts["data"].get("body_parts", MURA_PARTS)) else []
        row = {
            "model": run.name,
            "architecture": recipe["architecture"],
            "problem": recipe["head"] + (f", {' '.join(parts)}" if parts else ""),
            "data": ", ".join(filter(None, (facts["data"]["name"], facts["data"].get("note")))),
            "weights": facts["weights"],
            "image_size": recipe["image_size"],
            "parameters": facts["parameters"],
            "fit_images": facts["data"]["images"]["fit"],
            "epochs": facts["epochs"],
            "seconds": facts["training_seconds"],
            "images_per_second": facts["images_per_second"],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def results_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the overall results of runs beside their facts, one row per run."""
    table = model_table({run.name: run_studies(run) for run in runs}, SHOWN)
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
