"""Runs that differ in their seed or fold alone, taken as one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES
from mura.evaluation.ensembles import ensemble
from mura.evaluation.metrics import metric_values
from mura.evaluation.predictions import PredictionsError, refuse_rows
from mura.evaluation.reports import run_studies
from mura.evaluation.tables import metric_table
from mura.runs import Run

_Parts = dict[str, pd.DataFrame]  # what a spread is over: a title to validation studies


def repeats(runs: Mapping[str, Run], setting: str) -> dict[str, list[str]]:
    """Group runs of one recipe and data set that differ in one setting alone.

    Args:
        runs: Run name to run.
        setting: ``"seed"`` or ``"fold"``.

    Returns:
        A title such as "cnn, 5 seeds" to run names, in the setting's order; two or more each. Of
        runs with an equal setting only the first is taken.
    """
    titled = []
    for rest, group in _groups(runs, (setting,)):
        names = [group[value] for value in sorted(group)]
        if len(names) > 1:
            titled.append((f"{len(names)} {setting}s", rest, names))
    return _titled(titled)


def out_of_fold(folds: Sequence[pd.DataFrame], name: str = "folds") -> pd.DataFrame:
    """Join the validation studies of the runs of a set of folds.

    Each study is predicted once, by the run that held its patient out.

    Raises:
        PredictionsError: A patient was held out by two of them.
    """
    joined = pd.concat(folds, ignore_index=True)
    refuse_rows(joined, joined.duplicated("study", keep=False), "held out twice", name)
    patients = [set(fold["patient"]) for fold in folds]
    if sum(map(len, patients)) > len(set().union(*patients)):
        raise PredictionsError(
            f"{name}: a patient was held out by two folds; take runs of one set."
        )
    return joined


def together(runs: Mapping[str, Run]) -> dict[str, tuple[list[str], pd.DataFrame]]:
    """Take seeds as their ensemble, and folds as one run that predicted all of them.

    Where each seed has each fold, all are one set: the ensemble of seeds that are out of fold.

    Returns:
        A title, such as ``repeats``' or "cnn, 3 seeds x 5 folds", to the names of its runs and
        their validation studies.
    """
    return {title: (names, joined) for title, (names, joined, _) in _sets(runs).items()}


def repeat_table(
    runs: Mapping[str, Run], metric: str = "auroc", resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return how far a metric depends on the seed or the fold, one row per set of ``together``.

    Returns:
        Columns model (the title), studies, value, low, high (of the set as one, 95 % over
        patients), then of its runs alone, or of its seeds out of fold: mean, sd (of the sample,
        n - 1), lowest, highest.
    """
    rows = []
    for title, (_, joined, parts) in _sets(runs).items():
        one = metric_table(joined, resamples=resamples, seed=seed, metrics=[metric]).iloc[0]
        each = [
            metric_values(t["label"], t["probability"], metrics=[metric])[metric]
            for t in parts.values()
        ]
        spread = np.mean(each), np.std(each, ddof=1), min(each), max(each)
        rows.append((title, len(joined), *one[["value", "low", "high"]], *spread))
    columns = "model studies value low high mean sd lowest highest"
    return pd.DataFrame(rows, columns=columns.split())


def runs_alone(runs: Mapping[str, Run]) -> dict[str, str]:
    """Return the AUROC of each set's runs alone, "0.912 (0.905 to 0.920)": mean and extremes."""
    return {
        row.model: f"{row.mean:.3f} ({row.lowest:.3f} to {row.highest:.3f})"
        for row in repeat_table(runs, resamples=0).itertuples()
    }


def _sets(runs: Mapping[str, Run]) -> dict[str, tuple[list[str], pd.DataFrame, _Parts]]:
    """Return title to the names of a set's runs, the set as one, and its parts."""
    sets, left = {}, dict(runs)
    for title, names in _products(runs).items():
        left = {name: run for name, run in left.items() if name not in names}
        folds: dict[int, list[pd.DataFrame]] = {}
        for name in names:
            folds.setdefault(runs[name].recipe["seed"], []).append(run_studies(runs[name]))
        parts = {str(seed): out_of_fold(tables, title) for seed, tables in folds.items()}
        sets[title] = names, ensemble(parts, dict.fromkeys(parts, 1.0)), parts
    for setting in ("seed", "fold"):
        for title, names in repeats(left, setting).items():
            parts = {name: run_studies(runs[name]) for name in names}
            if setting == "seed":
                sets[title] = names, ensemble(parts, dict.fromkeys(parts, 1.0)), parts
            else:
                sets[title] = names, out_of_fold(list(parts.values()), title), parts
    return sets


def _products(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """Return title to the names of runs of one recipe of which each seed has each fold."""
    titled = []
    for rest, group in _groups(runs, ("seed", "fold")):
        seeds, folds = ({value[axis] for value in group} for axis in (0, 1))
        if min(len(seeds), len(folds)) > 1 and len(group) == len(seeds) * len(folds):
            names = [group[value] for value in sorted(group)]
            titled.append((f"{len(seeds)} seeds x {len(folds)} folds", rest, names))
    return _titled(titled)


def _groups(
    runs: Mapping[str, Run], settings: Sequence[str]
) -> list[tuple[dict[str, Any], dict[tuple, str]]]:
    """Group runs by everything else than some settings: each group's rest, and value to name."""
    groups: dict[str, tuple[dict[str, Any], dict[tuple, str]]] = {}
    for name, run in runs.items():
        rest = {key: value for key, value in run.recipe.items() if key not in settings}
        rest["data"] = run.environment["data"]["name"]
        values = tuple(run.recipe.get(setting, 0) for setting in settings)
        groups.setdefault(repr(rest), (rest, {}))[1].setdefault(values, name)
    return list(groups.values())


def _titled(groups: Sequence[tuple[str, dict[str, Any], list[str]]]) -> dict[str, list[str]]:
    """Title groups by architecture and number; of equal titles, also by what they differ in."""
    titles = []
    for count, rest, _ in groups:
        start = "" if rest.get("weights") is None else ", pretrained"
        titles.append(f"{rest['architecture']}, {count}{start}")
    for key in dict.fromkeys(key for _, rest, _ in groups for key in rest):
        values = [repr(rest.get(key)) for _, rest, _ in groups]
        alike = [{v for v, t in zip(values, titles, strict=True) if t == title} for title in titles]
        titles = [
            title if len(others) == 1 else f"{title}, {key} {rest.get(key)}"
            for title, others, (_, rest, _) in zip(titles, alike, groups, strict=True)
        ]
    return {title: names for title, (_, _, names) in zip(titles, groups, strict=True)}
