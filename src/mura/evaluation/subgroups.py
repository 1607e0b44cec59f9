"""Subgroups: number of views, and whatever else the data say of a study.

Subgroups of a validation set are small: read the intervals before the values.
"""

from collections.abc import Sequence

import pandas as pd

from mura.data.manifest import COLUMNS
from mura.evaluation.bootstrap import RESAMPLES, bootstrap
from mura.evaluation.metrics import METRICS
from mura.evaluation.predictions import PredictionsError
from mura.evaluation.tables import tabulate

MANY_VALUES = 6  # a column with more is not a way to group studies
MANY_VIEWS = 4  # studies with this many views or more form one group


def subgroup_tables(
    studies: pd.DataFrame,
    facts: pd.DataFrame | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Return every metric by number of views and by each of the facts.

    Args:
        studies: One split's studies of one model.
        facts: What is known of each study (index: the study): a column for each way to group
            them. Where normal studies have no value, such as the kind of a finding, each group is
            compared with all normal studies.
        resamples, seed, metrics: As in ``metric_table``.

    Returns:
        A column ``subgroup`` (``"views"``, or a column of the facts), then
        the columns of ``metric_table``.

    Raises:
        PredictionsError: Neither the number of views nor any fact is known.
    """
    many = f"{MANY_VIEWS} or more"
    views = studies["views"].map(lambda count: str(count) if count < MANY_VIEWS else many)
    values = {"views": views.mask(studies["views"] == 0)}
    if facts is not None:
        values |= dict(facts.reindex(studies["study"]).set_index(studies.index).items())
    normal = (studies["label"] == 0).to_numpy()
    tables = []
    for name, by in values.items():
        groups = {value: (by == value).to_numpy() for value in sorted(by.dropna().unique())}
        if by[normal].isna().all():
            groups = {value: chosen | normal for value, chosen in groups.items()}
        if groups:
            draws = {"resamples": resamples, "seed": seed}
            tables.append(tabulate(bootstrap({name: studies}, metrics, groups=groups, **draws)))
    if not tables:
        raise PredictionsError("subgroups: neither the number of views nor any fact is known.")
    return pd.concat(tables, ignore_index=True).rename(columns={"model": "subgroup"})


def study_facts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that a source adds to the manifest, by study, if they have few values."""
    first = manifest.drop_duplicates("study").set_index("study")
    added = [column for column in first if column not in (*COLUMNS, "part")]
    return first[[name for name in added if 1 < first[name].nunique() <= MANY_VALUES]].astype(str)


def phantom_facts(truth: pd.DataFrame) -> pd.DataFrame:
    """Return a phantom's polarity, finding and hardware (both missing if normal) by study."""
    by_study = truth.groupby(truth["path"].str.rsplit("/", n=1).str[0], sort=False)
    finding = by_study["finding"].agg(lambda kinds: next((k for k in kinds if k != "none"), None))
    names = {True: "hardware", False: "other findings"}
    columns = {
        "polarity": by_study["inverted"].max().map({0: "usual", 1: "an inverted view"}),
        "finding": finding,
        "hardware": (finding == "hardware").map(names).where(finding.notna()),
    }
    return pd.DataFrame(columns).rename_axis("study")
