"""Choose among runs: which can be compared on a data set, and which one stands for all."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mura import evaluation
from mura.data.folders import data_name
from mura.data.manifest import ManifestError, data_root, read_manifest
from mura.evaluation import reports
from mura.files import InputError
from mura.runs import Run, list_runs, models_folder


def best_run(models: str | Path | None = None, root: str | Path | None = None) -> Run:
    """Return the run that stands for all, as ``Comparison.chosen``, by the predictions alone.

    Args:
        models: The folder of the runs; the checkout's ``models/`` when None or "".
        root: The data folder; as ``manifest.data_root`` when None or "". Runs that were made on
            other data are left out; where there is no such folder, or no run of it, those that
            were made on other data than the last finished run.

    Raises:
        InputError: There is no complete run that can be read.
    """
    models = models_folder(models or None)
    found = list_runs(models)
    if not found:
        raise InputError(f"{models}: no complete runs yet; `mura train cnn` makes one.")
    runs, studies, tune, left_out = judged(found, "valid")
    if not runs:
        raise InputError(f"{models}: {'; '.join(left_out.values())}")
    folder, manifest = data_root(root or None), None
    with contextlib.suppress(FileNotFoundError, ManifestError):  # not at hand, or not whole
        manifest = read_manifest(folder)
    here = data_name(folder) if folder.is_dir() else None
    same = {name for name, run in runs.items() if run.environment["data"]["name"] == here}
    if manifest is not None:  # of the same name they may ask another question
        same -= set(of_other_data(list(runs.values()), folder, manifest))
    same = same or set(runs) - set(of_other_data(list(runs.values()), folder, None))
    return runs[standing_for_all({name: studies[name] for name in runs if name in same}, tune)]


def judged(
    found: Sequence[Run], split: str
) -> tuple[dict[str, Run], dict[str, pd.DataFrame], dict[str, pd.DataFrame], dict[str, str]]:
    """Return the runs that can be evaluated, and what they are judged by.

    Args:
        found: Runs of different names.
        split: Which split's studies are evaluated.

    Returns:
        Run name to run; to its studies of the split; to those of the tune part; and, of the runs
        that cannot be read or have nothing to evaluate there, to why they are left out.
    """
    runs, studies, tune, left_out = {}, {}, {}, {}
    for run in found:
        try:
            both = reports.run_studies(run, split), reports.run_studies(run, "tune")
            reports.run_facts([run])  # whether these can be read, too
            studies[run.name], tune[run.name] = both
            runs[run.name] = run
        except InputError as error:  # a damaged run does not stop the others
            left_out[run.name] = f"cannot be evaluated: {error}"
    return runs, studies, tune, left_out


def standing_for_all(studies: dict[str, pd.DataFrame], tune: dict[str, pd.DataFrame]) -> str:
    """Return which run has the highest AUROC on tune, of those that predicted the most studies.

    Args:
        studies: Run name to its studies of the evaluated split, for the runs to choose from.
        tune: Run name to its studies of the tune part.
    """
    most = max(map(len, studies.values()))
    complete = [name for name, table in studies.items() if len(table) == most]
    return max(complete, key=lambda name: _auroc(tune[name]))


def of_other_data(runs: Sequence[Run], root: Path, manifest: pd.DataFrame | None) -> dict[str, str]:
    """Return run name to why it does not belong to this data.

    Args:
        runs: Runs of different names.
        root: The data folder.
        manifest: Its table; None where it is not at hand, so that the last finished run says what
            data is meant.
    """
    name = {run.name: run.environment["data"]["name"] for run in runs}
    if manifest is None and runs:
        last = max(runs, key=lambda run: run.environment.get("finished") or "")
        return {run: f"was made on {on}" for run, on in name.items() if on != name[last.name]}
    if manifest is None:
        return {}
    here = data_name(root)
    left_out = {run: f"was made on {on}, not {here}" for run, on in name.items() if on != here}
    labels = manifest.set_index("path")["label"]
    for run in runs:
        listed = run.predictions.set_index("path")["label"]
        unknown = int((~listed.index.isin(labels.index)).sum())
        if run.name not in left_out and unknown:
            left_out[run.name] = f"predicted {unknown:,} images that this {here} does not list"
        elif run.name not in left_out and not listed.equals(labels[listed.index]):
            left_out[run.name] = f"was made on a {here} with other labels"
    return left_out


def _auroc(studies: pd.DataFrame) -> float:
    area = evaluation.auroc(studies["label"], studies["probability"])
    return -np.inf if np.isnan(area) else float(area)
