"""Tables of metrics with intervals: per body part, per model, and differences of models."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura.data.manifest import few_images
from mura.evaluation.bootstrap import RESAMPLES, Bootstrap, Studies, bootstrap
from mura.evaluation.intervals import bootstrap_p_value, holm, percentile_interval, wilson_interval
from mura.evaluation.metrics import METRICS
from mura.evaluation.predictions import PredictionsError

TOO_FEW = "too few"  # how the note of such a body part begins


def metric_table(
    studies: pd.DataFrame,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return metrics overall, per body part, and as the mean over body parts.

    Args:
        studies: One split's studies of one model.
        threshold: Studies with a probability above it are called abnormal.
        resamples: Bootstrap draws of the patients; 0 for no intervals.
        seed: Of the draws.
        metrics: Names from ``METRICS``.

    Returns:
        Columns group (``"all"``, body parts, ``"macro"``), metric, value, low, high (95 %
        interval), studies, abnormal (how many of them), patients, note. An undefined metric is
        NaN, and its note says why. Notes begin with ``TOO_FEW`` for body parts with fewer than ten
        images of either label. Where all resamples give the same value, as when all of a few
        studies are called correctly, a proportion gets the Wilson interval over its patients, and
        other metrics get none.
    """
    return model_table({"": studies}, metrics, resamples, seed, threshold).drop(columns="model")


def model_table(
    studies_by_model: Mapping[str, pd.DataFrame],
    metrics: Sequence[str] = METRICS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """Return ``metric_table`` of each model, with the model's name in the first column.

    Models may have predicted different studies; those with the same studies share resamples.
    """
    by_studies: dict[frozenset, dict[str, pd.DataFrame]] = {}
    for name, studies in studies_by_model.items():
        by_studies.setdefault(frozenset(studies["study"]), {})[name] = studies
    tables = []
    for together in by_studies.values():
        base = next(iter(together.values()))
        groups, few = body_part_groups(base), few_images(base, base["views"].clip(lower=1))
        result = bootstrap(together, metrics, threshold, groups, True, resamples, seed)
        table = tabulate(result)
        of_few = table["group"].isin(few)
        table.loc[of_few, "note"] = TOO_FEW + "; " + table.loc[of_few, "note"]
        table["note"] = table["note"].str.removesuffix("; ")
        tables.append(table)
    return in_order(pd.concat(tables), studies_by_model)


def in_order(table: pd.DataFrame, models: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the table with its rows in the order of the models."""
    place = {name: index for index, name in enumerate(models)}
    return table.sort_values("model", key=lambda m: m.map(place), kind="stable", ignore_index=True)


def paired_differences(
    studies_by_model: Mapping[str, pd.DataFrame],
    reference: str,
    metrics: Sequence[str] = ("kappa", "auroc"),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return model minus reference under the same resampled patients.

    Args:
        studies_by_model: At least two models of the same studies.
        reference: The one that all others are compared with.
        metrics, resamples, seed: As in ``metric_table``.

    Returns:
        Columns model, reference, group (``"all"``), metric, difference, low, high, p, p_holm
        (adjusted for the number of comparisons of that metric), studies, patients.

    Raises:
        PredictionsError: Fewer than two models, an unknown reference, or different studies.
    """
    others = [name for name in studies_by_model if name != reference]
    if not others or reference not in studies_by_model:
        raise PredictionsError(
            f"cannot compare {', '.join(others) or 'nothing'} with {reference}: expected at least "
            "two models, the reference one of them."
        )
    ordered = {name: studies_by_model[name] for name in (reference, *others)}
    result = bootstrap(ordered, metrics, resamples=resamples, seed=seed)
    point = (result.point[1:] - result.point[0])[:, 0]
    resampled = (result.resampled[1:] - result.resampled[0])[:, 0]
    low, high = np.moveaxis(_intervals(point, resampled), -1, 0)
    p = np.where(np.isnan(point), np.nan, bootstrap_p_value(resampled))
    pairs = pd.MultiIndex.from_product([others, [reference], ["all"], metrics])
    table = pairs.to_frame(index=False, name=["model", "reference", "group", "metric"])
    columns = {"difference": point, "low": low, "high": high, "p": p}
    table = table.assign(**{name: values.ravel() for name, values in columns.items()})
    table["p_holm"] = table.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy()))
    return table.assign(studies=result.studies[0], patients=result.patients[0])


def differences(studies: Studies, base: str, **settings: object) -> pd.DataFrame:
    """Return each model minus the base, on the studies that both predicted.

    Settings and columns are those of ``paired_differences``, with Holm's adjustment over all rows
    of a metric; no rows where no other model shares studies of both labels with the base.
    """
    own = studies[base]
    shared: dict[frozenset, list[str]] = {}
    for name, table in studies.items():
        common = frozenset(table["study"]) & frozenset(own["study"])
        if name != base and own[own["study"].isin(common)]["label"].nunique() == 2:
            shared.setdefault(common, []).append(name)
    tables = []
    for common, names in shared.items():
        those = {n: studies[n][studies[n]["study"].isin(common)] for n in (base, *names)}
        tables.append(paired_differences(those, base, **settings))
    if not tables:
        return pd.DataFrame(columns=["model", "reference", "group", "metric", "difference"])
    joined = pd.concat(tables)
    joined["p_holm"] = joined.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy()))
    return in_order(joined, studies)


def body_part_groups(studies: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return ``"all"`` and each body part that has studies, to bool[studies]."""
    parts = studies["body_part"].astype("category").cat.remove_unused_categories()
    masks = {str(part): (parts == part).to_numpy() for part in parts.cat.categories}
    return {"all": np.ones(len(studies), dtype=bool)} | masks


def tabulate(result: Bootstrap) -> pd.DataFrame:
    """Return a bootstrap as a table: model, then the columns of ``metric_table``."""
    bounds = _intervals(result.point, result.resampled)
    undefined = np.isnan(result.resampled).sum(axis=-1) / max(result.resampled.shape[-1], 1)
    constant = _constant(result.resampled)
    wilson = np.stack(wilson_interval(result.point * result.behind, result.behind), axis=-1)
    bounds = np.where(constant[..., None], wilson.clip(0, 1), bounds)
    rows = []
    for cell in np.ndindex(result.point.shape):
        model, g, m = cell
        group, metric = result.groups[g], result.metrics[m]
        point, behind = result.point[cell], result.behind[cell]
        counts, notes = (result.studies[g], result.abnormal[g], result.patients[g]), []
        if np.isnan(point):
            notes.append(_why_undefined(counts[1], counts[0], group, metric))
        elif undefined[cell] > 0:
            notes.append(
                f"undefined in {undefined[cell]:.1%} of the resamples, which were left out"
            )
        if constant[cell] and behind:
            notes.append(f"the same in all resamples: Wilson, {behind} patients")
        elif constant[cell]:
            notes.append("the same in all resamples, which says nothing of chance: no interval")
        values = (point, *bounds[cell], *counts, "; ".join(notes))
        rows.append((result.models[model], group, metric, *values))
    columns = "model group metric value low high studies abnormal patients note"
    return pd.DataFrame(rows, columns=columns.split())


def _intervals(point: np.ndarray, resampled: np.ndarray) -> np.ndarray:
    """Return float64[..., 2], NaN where the value is undefined or nothing was resampled."""
    if not resampled.shape[-1]:
        return np.full((*point.shape, 2), np.nan)
    return np.where(np.isnan(point)[..., None], np.nan, percentile_interval(resampled))


def _constant(resampled: np.ndarray) -> np.ndarray:
    """Return bool[...]: where all defined resamples [..., R] have one value."""
    if not resampled.shape[-1]:
        return np.zeros(resampled.shape[:-1], dtype=bool)
    # with a margin: under other weights, sums are rounded in another order
    return np.fmax.reduce(resampled, axis=-1) - np.fmin.reduce(resampled, axis=-1) <= 1e-6


def _why_undefined(abnormal: int, studies: int, group: str, metric: str) -> str:
    if group == "macro":
        return "undefined for at least one body part"
    if metric in ("ppv", "npv"):
        return f"no study is called {'abnormal' if metric == 'ppv' else 'normal'}"
    if abnormal == 0:
        return "no abnormal studies"
    return "no normal studies" if abnormal == studies else "labels and answers are one class"
