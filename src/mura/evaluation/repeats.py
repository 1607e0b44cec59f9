"""Runs that differ in their seed or fold alone, taken as one."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES
from mura.evaluation.ensembles import ensemble
from mura.evaluation.metrics import metric_values
from mura.evaluation.predictions import PredictionsError, refuse_rows
from mura.evaluation.reports import run_studies
from mura.evaluation.tables import metric_table
from mura.runs import Run


def repeats(runs: Mapping[str, Run], setting: str) -> dict[str, list[str]]:
    """Group runs of one recipe and data set that differ in one setting alone.

    Args:
        runs: Run name to run.
        setting: ``"seed"`` or ``"fold"``.

    Returns:
        A title such as "cnn, 5 seeds" to run names, in the setting's order; two or more each. Of
        runs with an equal setting only the first is taken.
    """
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        rest = {key: value for key, value in run.recipe.items() if key != setting}
        groups.setdefault(repr((rest, run.environment["data"]["name"])), []).append(name)
    titled: dict[str, list[str]] = {}
    for group in groups.values():
        by_value = {runs[name].recipe.get(setting, 0): name for name in reversed(group)}
        names = [by_value[value] for value in sorted(by_value)]
        if len(names) > 1:
            recipe = runs[names[0]].recipe
            title = f"{recipe['architecture']}, {len(names)} {setting}s"
            title += "" if recipe.get("weights") is None else ", pretrained"
            titled[title if title not in titled else f"{title} ({recipe['profile']})"] = names
    return titled


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

    Returns:
        A title of ``repeats`` to the names of its runs and their validation studies.
    """
    sets = {}
    for setting in ("seed", "fold"):
        for title, names in repeats(runs, setting).items():
            tables = {name: run_studies(runs[name]) for name in names}
            if setting == "seed":
                sets[title] = names, ensemble(tables, dict.fromkeys(tables, 1.0))
            else:
                sets[title] = names, out_of_fold(list(tables.values()), title)
    return sets


def repeat_table(
    runs: Mapping[str, Run], metric: str = "auroc", resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return how far a metric depends on the seed or the fold, one row per set of ``together``.

    Returns:
        Columns model (the title), studies, value, low, high (of the set as one, 95 % over
        patients), then of its runs alone: mean, sd (of the sample, n - 1), lowest, highest.
    """
    rows = []
    for title, (names, joined) in together(runs).items():
        one = metric_table(joined, resamples=resamples, seed=seed, metrics=[metric]).iloc[0]
        tables = [run_studies(runs[name]) for name in names]
        each = [
            metric_values(t["label"], t["probability"], metrics=[metric])[metric] for t in tables
        ]
        spread = np.mean(each), np.std(each, ddof=1), min(each), max(each)
        rows.append((title, len(joined), *one[["value", "low", "high"]], *spread))
    columns = "model studies value low high mean sd lowest highest"
    return pd.DataFrame(rows, columns=columns.split())
