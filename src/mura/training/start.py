"""What a training starts from: a run's weights, and whether that run saw the held-out patients."""

import contextlib
from pathlib import Path

import pandas as pd

from mura.files import InputError, absolute, project_folder
from mura.models import WeightsError
from mura.runs import Run, RunError, models_folder


def weight_file(weights: str | Path | None, models: str | Path | None = None) -> str | None:
    """Return where weights are: the file of a run's model, or what was named.

    ``weights`` is as in ``models.build``, or the name of a run in ``models`` (``models_folder``).
    """
    if weights in (None, "none", "imagenet"):
        return None if weights == "none" else weights
    named = Path(weights).expanduser()
    # a notebook runs in its own folder, and a run has a name alone
    for path in (models_folder(models) / named, named, project_folder() / named):
        if path.exists():
            model = path / "model.keras"
            return str(absolute(model if model.is_file() else path))
    return str(named)


def lineage(weights: str | None) -> list[Run]:
    """Return the run that weights come from, the run that one started from, and so on.

    It ends at weights that come from elsewhere, and at a run that is gone or incomplete.
    """
    runs: dict[Path, Run] = {}
    places = [] if weights is None else [Path(weights)]
    while places:
        place = places.pop(0)
        folder = place.parent if place.name == "model.keras" else place
        with contextlib.suppress(RunError):
            run = Run.load(folder)
            if run.folder.resolve() in runs:
                continue
            runs[run.folder.resolve()] = run
            if before := run.recipe.get("weights"):
                # its path may lead elsewhere from here; runs are mostly beside each other
                path = Path(before)
                name = path.parent.name if path.name == "model.keras" else path.name
                places += [path, project_folder() / path, run.folder.parent / name]
    return list(runs.values())


def refuse_patients_seen_before(weights: str | None, manifest: pd.DataFrame) -> None:
    """Raise where a run that weights come from was fitted on patients that are held out now.

    ``weights`` is as ``weight_file`` returns it; the manifest has the column ``part``.

    Raises:
        WeightsError: The results would look too good.
    """
    held_out = set(manifest.loc[manifest["part"].isin(["tune", "valid"]), "patient"])
    for run in lineage(weights):
        # Most images are shared with a run of this data, whose lists may have changed since.
        # Patients of other data may have the same names.
        if run.predictions["path"].isin(manifest["path"]).mean() < 0.5:
            continue
        if seen := held_out.intersection(run.split.loc[run.split["part"] == "fit", "patient"]):
            raise WeightsError(
                f"{run.folder}: was fitted on {len(seen)} of the patients that this training "
                "holds out, so its results would look too good. Take other weights, or that "
                "run's split_seed, tune_fraction, lists and labels."
            )


class TrainingError(InputError):
    """A training cannot start or go on: its data or its name does not allow it."""
