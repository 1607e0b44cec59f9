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
    """Take runs of one recipe and data set as one: seeds as their ensemble, folds out of fold.

    Where each seed has each fold, all are one set: the ensemble of seeds that are out of fold. Of
    runs with equal seed and fold only the first is taken.

    Returns:
        A title, such as "cnn, 5 seeds" or "cnn, 3 seeds x 5 folds", to the names of its runs, in
        order of seed and fold, and their validation studies.
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
            metric_values(t["label"], t["probability"], metrics=[metric])[metric] for t in parts
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


def _sets(
    runs: Mapping[str, Run],
) -> dict[str, tuple[list[str], pd.DataFrame, list[pd.DataFrame]]]:
    """Return title to the names of a set's runs, the set as one, and what its spread is over."""
    blocks = [block for block in _blocks(runs) if len(block[1]) > 1]
    sets = {}
    for title, (_, names) in zip(_titles(blocks), blocks, strict=True):
        seeds: dict[int, list[pd.DataFrame]] = {}
        for (seed, _), name in names.items():
            seeds.setdefault(seed, []).append(run_studies(runs[name]))
        folds = [out_of_fold(tables, title) for tables in seeds.values()]
        if len(folds) == 1:
            sets[title] = list(names.values()), folds[0], seeds.popitem()[1]
        else:
            parts = {str(seed): table for seed, table in zip(seeds, folds, strict=True)}
            sets[title] = list(names.values()), ensemble(parts, dict.fromkeys(parts, 1.0)), folds
    return sets


def _blocks(runs: Mapping[str, Run]) -> list[tuple[dict[str, Any], dict[tuple[int, int], str]]]:
    """Return what the runs of a set share, and seed and fold to their names."""
    groups: dict[str, tuple[dict[str, Any], dict[tuple[int, int], str]]] = {}
    for name, run in runs.items():
        shared = {key: value for key, value in run.recipe.items() if key not in ("seed", "fold")}
        shared["data"] = run.environment["data"]["name"]
        place = run.recipe["seed"], run.recipe.get("fold", 0)
        groups.setdefault(repr(shared), (shared, {}))[1].setdefault(place, name)
    blocks = []
    for shared, names in groups.values():
        seeds, folds = ({place[axis] for place in names} for axis in (0, 1))
        names = dict(sorted(names.items()))
        if len(names) == len(seeds) * len(folds):
            blocks.append((shared, names))
            continue
        for axis, setting, values in ((1, "fold", folds), (0, "seed", seeds)):
            for value in sorted(values):
                some = {place: name for place, name in names.items() if place[axis] == value}
                blocks.append((shared | {setting: value}, some))
    return blocks


def _titles(blocks: Sequence[tuple[dict[str, Any], dict[tuple[int, int], str]]]) -> list[str]:
    """Title sets by architecture and number; of equal titles, also by what they differ in."""
    titles = []
    for shared, names in blocks:
        numbers = [len({place[axis] for place in names}) for axis in (0, 1)]
        counts = [f"{n} {of}" for n, of in zip(numbers, ("seeds", "folds"), strict=True) if n > 1]
        start = "" if shared.get("weights") is None else ", pretrained"
        titles.append(f"{shared['architecture']}, {' x '.join(counts)}{start}")
    for key in dict.fromkeys(key for shared, _ in blocks for key in shared):
        values = [repr(shared.get(key)) for shared, _ in blocks]
        alike = [{v for v, t in zip(values, titles, strict=True) if t == title} for title in titles]
        titles = [
            title if len(others) == 1 else f"{title}, {key} {shared.get(key)}"
            for title, others, (shared, _) in zip(titles, alike, blocks, strict=True)
        ]
    return titles
