"""Tables of metrics with intervals: per body part, per model, and differences of models."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from mura.data.manifest import BODY_PARTS
from mura.evaluation.bootstrap import RESAMPLES, Bootstrap, bootstrap
from mura.evaluation.intervals import (
    INTERVALS,
    bca_interval,
    bootstrap_p_value,
    holm,
    percentile_interval,
    wilson_interval,
)
from mura.evaluation.metrics import METRICS
from mura.evaluation.predictions import PredictionsError, aligned


def metric_table(
    studies: pd.DataFrame,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    interval: str = "percentile",
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return every metric overall, per body part, and as the mean over body parts.

    Args:
        studies: One split's studies of one model.
        threshold: Studies with a probability above it are called abnormal.
        resamples: Bootstrap draws of the patients; 0 for no intervals.
        seed: Of the draws.
        interval: ``"percentile"`` or ``"bca"``, 95 %.
        metrics: Names out of ``METRICS``.

    Returns:
        Columns group (``"all"``, body parts, ``"macro"``), metric, value, low, high, studies,
        abnormal (how many of them), patients, note. A metric that a group leaves undefined is
        NaN, and its note says why. Where every resample has one value, as when all of few studies
        are called rightly, a bootstrap says nothing of chance: a proportion then has the Wilson
        interval over the patients it is of, and other metrics have none.
    """
    table = model_table({"": studies}, threshold, resamples, seed, interval, metrics)
    return table.drop(columns="model")


def model_table(
    studies_by_model: Mapping[str, pd.DataFrame],
    threshold: float | Mapping[str, float] = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    interval: str = "percentile",
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return ``metric_table`` of each model, the model's name in the first column.

    Models may have predicted different studies (one body part, say): the counts tell. Those
    with the same studies share their resamples.
    """
    by_studies: dict[frozenset, dict[str, pd.DataFrame]] = {}
    for name, studies in studies_by_model.items():
        by_studies.setdefault(frozenset(studies["study"]), {})[name] = studies
    tables = []
    for together in by_studies.values():
        base, _ = aligned(together)
        groups = body_part_groups(base)
        result = bootstrap(
            together,
            metrics,
            threshold,
            groups,
            "macro",
            resamples,
            seed,
            needs_jackknife(interval),
        )
        tables.append(tabulate(result, interval))
    table = pd.concat(tables, ignore_index=True)
    order = {name: index for index, name in enumerate(studies_by_model)}
    return table.sort_values("model", key=lambda m: m.map(order), kind="stable", ignore_index=True)


def paired_differences(
    studies_by_model: Mapping[str, pd.DataFrame],
    reference: str | None = None,
    metrics: Sequence[str] = ("kappa", "auroc"),
    threshold: float | Mapping[str, float] = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    interval: str = "percentile",
    by_body_part: bool = False,
) -> pd.DataFrame:
    """Return model minus reference under the same resampled patients.

    Args:
        studies_by_model: At least two models of the same studies.
        reference: Compare every other model with this one; every pair when ``None``.
        metrics, threshold, resamples, seed, interval: As in ``metric_table``.
        by_body_part: Also per body part and macro, not just overall.

    Returns:
        Columns model, reference, group, metric, difference, low, high, p, p_holm (adjusted for
        the number of comparisons within that group and metric), studies, patients. Of two models
        that answer alike the difference is 0, and so are its bounds.

    Raises:
        PredictionsError: Fewer than two models, an unknown reference, or different studies.
    """
    names = list(studies_by_model)
    if len(names) < 2 or (reference is not None and reference not in names):
        raise PredictionsError(
            f"cannot compare {', '.join(names) or 'nothing'}"
            + (f" with {reference}" if reference is not None else "")
            + ": expected at least two models, the reference one of them."
        )
    base, _ = aligned(studies_by_model)
    groups = body_part_groups(base) if by_body_part else None
    result = bootstrap(
        studies_by_model,
        metrics,
        threshold,
        groups,
        "macro" if by_body_part else None,
        resamples,
        seed,
        needs_jackknife(interval),
    )
    if reference is None:
        pairs = [(two, one) for one, two in combinations(range(len(names)), 2)]
    else:
        pairs = [(i, names.index(reference)) for i in range(len(names)) if names[i] != reference]
    left, right = np.array(pairs).T
    point = result.point[left] - result.point[right]
    resampled = result.resampled[left] - result.resampled[right]
    jackknife = result.jackknife[left] - result.jackknife[right]
    bounds = _intervals(point, resampled, jackknife, interval)
    p = np.where(np.isnan(point), np.nan, bootstrap_p_value(resampled))
    adjusted = np.apply_along_axis(holm, 0, p)
    rows = [
        (
            *(names[left[pair]], names[right[pair]], group, metric),
            *(point[cell], *bounds[cell], p[cell], adjusted[cell]),
            *(result.studies[g], result.patients[g]),
        )
        for pair in range(len(pairs))
        for g, group in enumerate(result.groups)
        for m, metric in enumerate(metrics)
        for cell in [(pair, g, m)]
    ]
    columns = "model reference group metric difference low high p p_holm studies patients"
    return pd.DataFrame(rows, columns=columns.split())


def body_part_groups(studies: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return ``"all"`` and each body part that has studies, to bool[studies]."""
    parts = studies["body_part"].to_numpy()
    groups = {"all": np.ones(len(studies), dtype=bool)}
    return groups | {part: parts == part for part in BODY_PARTS if (parts == part).any()}


def tabulate(result: Bootstrap, interval: str = "percentile") -> pd.DataFrame:
    """Return a bootstrap as a table: model, then the columns of ``metric_table``."""
    bounds = _intervals(result.point, result.resampled, result.jackknife, interval)
    undefined = np.isnan(result.resampled).mean(axis=-1) if result.resampled.size else None
    constant = _constant(result.resampled)
    low, high = wilson_interval(result.point * result.behind, result.behind)
    wilson = np.clip(np.stack([low, high], axis=-1), 0, 1)
    bounds = np.where(constant[..., None], wilson, bounds)
    rows = []
    for cell in np.ndindex(result.point.shape):
        _, g, m = cell
        notes = []
        if np.isnan(result.point[cell]):
            counts = result.abnormal[g], result.studies[g]
            notes.append(_why_undefined(*counts, result.groups[g], result.metrics[m]))
        elif undefined is not None and undefined[cell] > 0:
            left_out = f"undefined in {undefined[cell]:.1%} of the resamples, which were left out"
            notes.append(left_out)
        if constant[cell] and result.behind[cell]:
            notes.append(f"the same in all resamples: Wilson, {result.behind[cell]} patients")
        elif constant[cell]:
            notes.append("the same in all resamples, which says nothing of chance: no interval")
        rows.append(
            (
                *(result.models[cell[0]], result.groups[g], result.metrics[m]),
                *(result.point[cell], *bounds[cell]),
                *(result.studies[g], result.abnormal[g], result.patients[g], "; ".join(notes)),
            )
        )
    columns = "model group metric value low high studies abnormal patients note"
    return pd.DataFrame(rows, columns=columns.split())


def needs_jackknife(interval: str) -> bool:
    """Return whether this kind of interval needs each patient left out; refuse unknown kinds."""
    if interval not in INTERVALS:
        raise ValueError(f"interval {interval!r}: expected one of {', '.join(INTERVALS)}.")
    return interval == "bca"


def _intervals(
    point: np.ndarray, resampled: np.ndarray, jackknife: np.ndarray, interval: str
) -> np.ndarray:
    if not resampled.shape[-1]:
        return np.full((*point.shape, 2), np.nan)
    if needs_jackknife(interval):
        bounds = bca_interval(point, resampled, jackknife)
    else:
        bounds = percentile_interval(resampled)
    return np.where(np.isnan(point)[..., None], np.nan, bounds)


def _constant(resampled: np.ndarray) -> np.ndarray:
    """Return bool[...]: where all resamples [..., R] that are defined have one value."""
    if not resampled.shape[-1]:
        return np.zeros(resampled.shape[:-1], dtype=bool)
    # not the same to the last bit: sums are rounded in another order under other weights
    return np.fmax.reduce(resampled, axis=-1) - np.fmin.reduce(resampled, axis=-1) <= 1e-6


def _why_undefined(abnormal: int, studies: int, group: str, metric: str) -> str:
    if group == "macro":
        return "undefined for at least one body part"
    if metric in ("ppv", "npv"):
        return f"no study is called {'abnormal' if metric == 'ppv' else 'normal'}"
    if abnormal == 0:
        return "no abnormal studies"
    return "no normal studies" if abnormal == studies else "labels and answers are one class"
