"""Choose among runs: which belong to a data set, and which one is the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data import ManifestError, data_name, data_root
from mura.data import read as read_manifest
from mura.evaluation import reports
from mura.evaluation.metrics import metric_values
from mura.files import InputError
from mura.runs import Run, list_runs, models_folder

Studies = dict[str, pd.DataFrame]  # model name to its studies


def best_run(models: str | Path | None = None, root: str | Path | None = None) -> Run:
    """Return the reference run, as ``Comparison.chosen``, from the predictions alone.

    Args:
        models: The folder of the runs; the checkout's ``models/`` when None or "".
        root: The data folder; as ``manifest.data_root`` when None or "". Runs that were made on
            other data are left out; without such a folder, or a run of it, those made on other
            data than the last finished run.

    Raises:
        InputError: There is no complete run that can be read.
    """
    runs, studies, tune, _ = evaluated(list_runs(models or None), models_folder(models or None))
    folder, manifest = data_root(root or None), None
    with contextlib.suppress(FileNotFoundError, ManifestError):  # missing or damaged lists
        manifest = read_manifest(folder)
    same = set(runs) - set(of_other_data(runs, folder, manifest))
    same = same or set(runs) - set(of_other_data(runs, None, None))
    return runs[reference({name: studies[name] for name in runs if name in same}, tune)]


def evaluated(
    found: Sequence[Run], models: Path
) -> tuple[dict[str, Run], Studies, Studies, dict[str, str]]:
    """Return the runs that can be evaluated, their valid and tune studies, and why others cannot.

    Raises:
        InputError: There is no such run.
    """
    if not found:
        raise InputError(f"{models}: no complete runs yet; `mura train cnn` makes one.")
    runs, studies, tune, left_out = {}, {}, {}, {}
    for run in found:
        try:
            both = reports.run_studies(run), reports.run_studies(run, "tune")
            reports.run_facts([run])  # raises where the facts are damaged
            runs[run.name], (studies[run.name], tune[run.name]) = run, both
        except InputError as error:  # a damaged run does not stop the others
            left_out[run.name] = f"cannot be evaluated: {error}"
    if not runs:
        raise InputError(f"{models}: {'; '.join(left_out.values())}")
    return runs, studies, tune, left_out


def of_other_data(
    runs: Mapping[str, Run], root: Path | None, manifest: pd.DataFrame | None
) -> dict[str, str]:
    """Return run name to why it does not belong to this data.

    The data is that of ``root``, or of the last finished run where there is no such folder.
    """
    if root is not None and root.is_dir():
        here = data_name(root)
    else:
        last = max(runs.values(), key=lambda run: run.environment.get("finished") or "")
        here = last.environment["data"]["name"]
    left_out = {}
    for name, run in runs.items():
        data = run.environment["data"]["name"]
        if data != here:
            left_out[name] = f"was made on {data}, not {here}"
        elif manifest is not None:
            listed = run.predictions.set_index("path")["label"]
            labels = manifest.set_index("path")["label"]
            if unknown := int((~listed.index.isin(labels.index)).sum()):
                left_out[name] = f"predicted {unknown:,} images that this {here} does not list"
            elif not listed.equals(labels[listed.index]):
                left_out[name] = f"was made on a {here} with other labels"
    return left_out


def reference(studies: Studies, tune: Studies) -> str:
    """Return the run with the highest AUROC on tune, of those that predicted the most studies."""
    areas = {
        name: metric_values(tune[name]["label"], tune[name]["probability"])["auroc"]
        for name, table in studies.items()
        if len(table) == max(map(len, studies.values()))
    }
    return max(areas, key=lambda name: np.nan_to_num(areas[name], nan=-np.inf))
