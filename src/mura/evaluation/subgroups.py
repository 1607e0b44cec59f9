"""Subgroups (number of views, polarity, kind of finding), and the studies worth looking at.

Subgroups of a validation set are small: read the intervals before the values.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES, bootstrap
from mura.evaluation.metrics import METRICS
from mura.evaluation.predictions import PredictionsError, aligned
from mura.evaluation.tables import tabulate

MANY_VIEWS = 4  # studies with this many views or more form one group
TRUTH_COLUMNS = ("path", "finding", "inverted")


def subgroup_tables(
    studies: pd.DataFrame,
    truth: pd.DataFrame | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return every metric by number of views and, on the phantom, by what its truth table says.

    Args:
        studies: One split's studies of one model.
        truth: The phantom's ``truth.csv``: adds polarity (any inverted view), the kind of
            finding, and hardware or not. Only abnormal studies have a finding, so each kind is
            compared with all normal studies.
        resamples, seed, metrics: As in ``metric_table``.

    Returns:
        A column ``subgroup`` (``"views"``, ``"polarity"``, ``"finding"``, ``"hardware"``), then
        the columns of ``metric_table``.

    Raises:
        PredictionsError: Neither the number of views nor the truth is known.
    """
    many = f"{MANY_VIEWS} or more"
    views = studies["views"].map(lambda count: str(count) if count < MANY_VIEWS else many)
    values = {"views": views.mask(studies["views"] == 0)}
    if truth is not None:
        facts = study_facts(truth).reindex(studies["study"]).set_index(studies.index)
        values |= {name: facts[name] for name in facts}
    normal = (studies["label"] == 0).to_numpy()
    tables = []
    for name, by in values.items():
        groups = {value: (by == value).to_numpy() for value in sorted(by.dropna().unique())}
        if name in ("finding", "hardware"):
            groups = {value: chosen | normal for value, chosen in groups.items()}
        if groups:
            result = bootstrap(
                {"": studies}, metrics, groups=groups, resamples=resamples, seed=seed
            )
            tables.append(tabulate(result).assign(model=name).rename(columns={"model": "subgroup"}))
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


def confident_errors(studies: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the wrongly called studies with the probabilities farthest from 0.5, worst first."""
    wrong = (studies["probability"] > 0.5) != (studies["label"] == 1)
    distance = (studies.loc[wrong, "probability"] - 0.5).abs()
    return studies.loc[distance.sort_values(ascending=False, kind="stable").index[:count]]


def disagreements(studies_by_model: Mapping[str, pd.DataFrame], count: int) -> pd.DataFrame:
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
