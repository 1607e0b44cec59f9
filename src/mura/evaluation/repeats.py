"""Runs that differ in their seed or fold alone, taken as one."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import Studies
from mura.evaluation.ensembles import ensemble
from mura.evaluation.metrics import metric_values
from mura.evaluation.predictions import PredictionsError, refuse_rows
from mura.runs import Run


def repeats(runs: Mapping[str, Run], setting: str) -> dict[str, list[str]]:
    """Group runs of one recipe and data set that differ in one setting alone.

    Args:
        runs: Run name to run.
        setting: ``"seed"`` or ``"fold"``.

    Returns:
        A title such as "cnn, 5 seeds" to run names, in the setting's order; two or more each.
    """
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        rest = {key: value for key, value in run.recipe.items() if key != setting}
        groups.setdefault(repr((rest, run.environment["data"]["name"])), []).append(name)
    titled: dict[str, list[str]] = {}
    for names in groups.values():
        names.sort(key=lambda name: runs[name].recipe.get(setting, 0))
        if len({runs[name].recipe.get(setting, 0) for name in names}) > 1:
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


def over_seeds(studies: Studies, names: Sequence[str], metric: str = "auroc") -> dict[str, float]:
    """Return how far a metric depends on the seed: seeds, mean, sd, lowest, highest, ensemble.

    ``sd`` is the sample's standard deviation (n - 1); ``ensemble`` is the metric of the mean
    probability.
    """
    tables = {name: studies[name] for name in names}
    values = [_value(table, metric) for table in tables.values()]
    mean = ensemble(tables, dict.fromkeys(tables, 1.0))
    return {
        "seeds": len(values),
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "lowest": min(values),
        "highest": max(values),
        "ensemble": _value(mean, metric),
    }


def _value(studies: pd.DataFrame, metric: str) -> float:
    return metric_values(studies["label"], studies["probability"], metrics=[metric])[metric]
