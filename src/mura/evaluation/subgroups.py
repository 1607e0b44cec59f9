"""Subgroups: single views, inverted images, kinds of findings; and the studies to look at.

Subgroups of a validation set are small; read the intervals before the values.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES, bootstrap
from mura.evaluation.metrics import METRICS
from mura.evaluation.predictions import PredictionsError, aligned
from mura.evaluation.tables import needs_jackknife, tabulate

MANY_VIEWS = 4  # studies with this many views or more stand together: each number has few
TRUTH_COLUMNS = ("path", "finding", "inverted")


def subgroup_table(
    studies: pd.DataFrame,
    by: pd.Series,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    interval: str = "percentile",
    metrics: Sequence[str] = METRICS,
    against_normal: bool = False,
) -> pd.DataFrame:
    """Return every metric for each value of ``by``.

    Args:
        studies: One split's studies of one model.
        by: A value per study, indexed like ``studies``, e.g. ``studies["views"]`` or
            ``studies["study"].map(finding_of_study)``; studies without a value are left out.
        threshold, resamples, seed, interval, metrics: As in ``metric_table``.
        against_normal: Compare each value's abnormal studies with *all* normal ones: for values
            that only abnormal studies have, such as the kind of finding.

    Returns:
        The columns of ``metric_table``; groups in the order of the values (of the categories,
        where ``by`` is categorical).
    """
    if not by.index.equals(studies.index):
        raise PredictionsError("subgroups: `by` and `studies` have different rows.")
    normal = studies["label"].to_numpy() == 0
    categorical = isinstance(by.dtype, pd.CategoricalDtype)
    values = by.cat.categories if categorical else sorted(by.dropna().unique())
    groups = {str(value): (by == value).fillna(False).to_numpy(dtype=bool) for value in values}
    if against_normal:
        groups = {
            name: (chosen & ~normal) | normal
            for name, chosen in groups.items()
            if (chosen & ~normal).any()
        }
    groups = {name: chosen for name, chosen in groups.items() if chosen.any()}
    if not groups:
        raise PredictionsError("subgroups: no study has a value to be grouped by.")
    result = bootstrap(
        {"": studies},
        metrics,
        threshold,
        groups,
        None,
        resamples,
        seed,
        needs_jackknife(interval),
    )
    return tabulate(result, interval).drop(columns="model")


def subgroup_tables(
    studies: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
    interval: str = "percentile",
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return every metric for the number of views and, on the phantom, what else is known.

    Args:
        studies: One split's studies of one model.
        truth: The phantom's ``truth.csv``: adds polarity (any inverted view), the kind of
            finding, and hardware or not; findings are compared with all normal studies.
        threshold, resamples, seed, interval, metrics: As in ``metric_table``.

    Returns:
        A column ``subgroup`` (``"views"``, ``"polarity"``, ``"finding"``, ``"hardware"``), then
        the columns of ``metric_table``.
    """
    many = f"{MANY_VIEWS} or more"
    views = studies["views"].map(lambda count: str(count) if count < MANY_VIEWS else many)
    values = {"views": views.mask(studies["views"] == 0)}
    if truth is not None:
        facts = study_facts(truth).reindex(studies["study"]).set_index(studies.index)
        values |= {name: facts[name] for name in facts}
    tables = []
    for name, by in values.items():
        if by.isna().all():
            continue
        table = subgroup_table(
            studies,
            by,
            threshold,
            resamples,
            seed,
            interval,
            metrics,
            against_normal=name in ("finding", "hardware"),
        )
        table.insert(0, "subgroup", name)
        tables.append(table)
    if not tables:
        raise PredictionsError("subgroups: neither the number of views nor the truth is known.")
    return pd.concat(tables, ignore_index=True)


def study_facts(truth: pd.DataFrame) -> pd.DataFrame:
    """Return what the phantom's truth table says about each study.

    Args:
        truth: One row per image: ``path``, ``finding`` (``"none"`` in a normal study),
            ``inverted`` (0 or 1).

    Returns:
        Index study; columns polarity (``"usual"`` or ``"an inverted view"``), finding and
        hardware (both missing for normal studies).

    Raises:
        PredictionsError: A column is missing.
    """
    missing = [column for column in TRUTH_COLUMNS if column not in truth]
    if missing:
        raise PredictionsError(f"truth table: no column {', '.join(missing)}.")
    by_study = truth.groupby(truth["path"].str.rsplit("/", n=1).str[0], sort=False)
    finding = by_study["finding"].agg(lambda kinds: next((k for k in kinds if k != "none"), None))
    names = {True: "hardware", False: "other findings"}
    return pd.DataFrame(
        {
            "polarity": by_study["inverted"].max().map({0: "usual", 1: "an inverted view"}),
            "finding": finding,
            "hardware": (finding == "hardware").map(names).where(finding.notna()),
        }
    ).rename_axis("study")


def confident_errors(studies: pd.DataFrame, count: int = 8, threshold: float = 0.5) -> pd.DataFrame:
    """Return the wrongly called studies whose probability is farthest from the threshold."""
    wrong = (studies["probability"] > threshold) != (studies["label"] == 1)
    errors = studies[wrong]
    distance = (errors["probability"] - threshold).abs()
    return errors.loc[distance.sort_values(ascending=False, kind="stable").index[:count]]


def disagreements(studies_by_model: Mapping[str, pd.DataFrame], count: int = 8) -> pd.DataFrame:
    """Return the studies on which the models' probabilities spread most, the widest first.

    Returns:
        The first model's columns without its probability; ``spread`` (highest - lowest) and one
        column of probabilities per model.
    """
    base, probabilities = aligned(studies_by_model)
    spread = np.ptp(probabilities, axis=0)
    table = base.drop(columns="probability").assign(
        spread=spread, **dict(zip(studies_by_model, probabilities, strict=True))
    )
    return table.sort_values("spread", ascending=False, kind="stable").head(count)
