"""The run folder: everything that one training produced, written whole or not at all."""

from __future__ import annotations

import functools
import shutil
import tempfile
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mura.files import InputError, project_folder, read_json

if TYPE_CHECKING:  # an exported model answers without Keras
    import keras
    import numpy as np
    import pandas as pd

# A run is complete when all of these are there.
RUN_FILES = (
    *("model.keras", "recipe.json", "history.csv", "predictions.csv"),
    *("split.csv", "environment.json", "README.md", "metrics.json"),
)
# What runs of earlier versions lack, and those whose tune studies are of one class.
DECISIONS, NOVELTY = "calibration.json", "novelty.npz"
NOVELTY_ARRAYS = ("centre", "scale", "references", "threshold")
# A reference run in results/ has these alone: no weights and no images.
REFERENCE_FILES = ("recipe.json", "history.csv", "predictions.csv", "environment.json")
# What other modules read from each file.
_RECIPE = {"architecture": str, "head": str, "body_parts": list, "image_size": int}
_METRICS = {"split": str, "table": list}
_ENVIRONMENT = {
    **{"data": dict, "weights": str, "compute": dict, "parameters": int, "epochs": int},
    **{"best_epoch": int, "training_seconds": (int, float), "images_per_second": (int, float)},
}
_DECISIONS = {"temperature": float, "shift": float, "points": dict}
_PREDICTIONS = {
    **dict.fromkeys(("path", "study", "body_part", "patient", "split"), str),
    **{"view": "int64", "label": "Int64", "probability": "float64"},
}


class RunError(InputError):
    """A run folder is missing, incomplete or damaged, or its name is not a folder's."""


def models_folder(models: str | Path | None = None) -> Path:
    """Return the folder of the runs: the checkout's ``models/``, a folder or a grid's name."""
    usual = project_folder() / "models"
    named = usual if models is None else Path(models).expanduser()
    return usual / named if (usual / named).is_dir() and not named.is_dir() else named


@dataclass(frozen=True)
class Run:
    """A complete run folder; each file is read when it is first used."""

    folder: Path
    is_reference: bool = False  # of results/: answers without a model

    @classmethod
    def load(cls, folder: str | Path, models: str | Path | None = None) -> Run:
        """Open a run by its folder, or by its name under ``models`` (``models_folder()``).

        Raises:
            RunError: There is no such run, or it is incomplete; the message lists the runs
                that can be opened.
        """
        models, folder = models_folder(models), Path(folder).expanduser()
        folders = [path for path in (folder, models / folder) if path.is_dir()]
        # a folder of that name in the current folder need not be a run
        found = next((path for path in folders if not _missing(path)), (folders or [None])[0])
        missing = _missing(found) if found else list(RUN_FILES)
        if not found or not is_run_folder(found):  # no folder, or one of images, say
            names = ", ".join(run.name for run in list_runs(models)) or "none yet"
            there = f"complete runs under {models.absolute()}: {names}"
            todo = "Name another folder of runs with --models; `mura train cnn` makes a run."
            raise RunError(f"{folder}: no such run; {there}. {todo}")
        if missing:
            todo = "restore it from a copy, or delete the folder and train the run again."
            raise RunError(f"{found}: not a complete run, {', '.join(missing)} missing; {todo}")
        return cls(found)

    @property
    def name(self) -> str:
        """The folder's name, which is the run's name everywhere; a reference run's says so."""
        return self.folder.resolve().name + (" (reference)" if self.is_reference else "")

    @property
    def card(self) -> str:
        """The model card."""
        return (self.folder / "README.md").read_text(encoding="utf-8")

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe's settings."""
        return self._read_json("recipe.json", _RECIPE)

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """Study-level results on the evaluated split."""
        return self._read_json("metrics.json", _METRICS)

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """Data, weights, device, versions and times of the training."""
        content = self._read_json("environment.json", _ENVIRONMENT)
        images = content["data"].get("images")
        if not isinstance(content["data"].get("name"), str) or not isinstance(images, dict):
            raise self._damaged("environment.json", "no name and images of the data")
        return content

    @property
    def kept_epoch(self) -> int:
        """The epoch, counted from 1, whose weights the run has."""
        return self.environment["best_epoch"]

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch: stage, epoch, losses, learning rate at its end."""
        return self._read_csv("history.csv", {"epoch": "int64"})

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per image of the tune and valid splits.

        Columns: path, study, view, body_part (ordered categorical), patient, split, label
        (Int64, missing where unknown), probability (float64 in 0-1, of *abnormal*).
        """
        from mura.data import in_source_order

        table = self._read_csv("predictions.csv", _PREDICTIONS)
        outside = table["path"][~table["probability"].between(0, 1)]
        if len(outside):
            found = f"{outside.iloc[0]} has a probability outside 0 to 1"
            raise self._damaged("predictions.csv", found)
        order = self.recipe["body_parts"]
        return table.assign(body_part=in_source_order(table["body_part"], order))

    @functools.cached_property
    def split(self) -> pd.DataFrame:
        """Which part each patient was in: columns patient, part ("fit", "tune", "valid").

        Of a reference run those that it predicted.
        """
        if self.is_reference:
            parts = self.predictions[["patient", "split"]].drop_duplicates()
            return parts.rename(columns={"split": "part"})
        return self._read_csv("split.csv", {"patient": str, "part": str})

    @functools.cached_property
    def decisions(self) -> dict[str, Any] | None:
        """What ``evaluation.fit_decisions`` found on the tune studies; None where it did not."""
        there = (self.folder / DECISIONS).is_file()
        return self._read_json(DECISIONS, _DECISIONS) if there else None

    @functools.cached_property
    def novelty(self) -> dict[str, np.ndarray] | None:
        """What ``models.novelty.fit`` found on the fit and tune images; None where it did not."""
        import numpy as np

        file = self.folder / NOVELTY
        if not file.is_file():
            return None
        try:
            with np.load(file) as arrays:
                return {name: arrays[name] for name in NOVELTY_ARRAYS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise self._damaged(NOVELTY, str(error)) from error

    def load_model(self) -> keras.Model:
        """Load the trained model: uint8[B, S, S, 1] to float32[B, 1].

        Raises:
            ModelError: The file is damaged, is no Keras model or takes another input.
        """
        from mura import models

        return models.load(self.folder / "model.keras")

    def _read_csv(self, name: str, dtype: dict[str, Any]) -> pd.DataFrame:
        """Read a table that has at least the columns of ``dtype``, and at least one row."""
        import pandas as pd

        try:
            table = pd.read_csv(self.folder / name, dtype=dtype)
        except ValueError as error:  # of pandas' parser, or of decoding
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            raise self._damaged(name, reason) from error
        if missing := [column for column in dtype if column not in table]:
            raise self._damaged(name, f"no column {', '.join(missing)}")
        if table.empty:
            raise self._damaged(name, "no rows")
        return table

    def _read_json(self, name: str, kinds: dict[str, Any]) -> dict[str, Any]:
        content = read_json(self.folder / name)
        known = content if isinstance(content, dict) else {}
        if wrong := [key for key, kind in kinds.items() if not isinstance(known.get(key), kind)]:
            raise self._damaged(name, f"no usable {', '.join(wrong)}")
        return content

    def _damaged(self, name: str, found: str) -> RunError:
        todo = "restore it from a copy or train the run again."
        return RunError(f"{self.folder / name}: damaged ({found}); {todo}")


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder is a run's, complete or not: a card alone may be anything's."""
    return not set(RUN_FILES) <= {*_missing(folder), "README.md"}


def list_runs(models: str | Path | None = None) -> list[Run]:
    """Return the complete runs under a folder, sorted by name; none if there is no folder."""
    models = models_folder(models)
    folders = sorted(models.iterdir()) if models.is_dir() else []
    return [Run(each) for each in folders if not each.name.startswith(".") and not _missing(each)]


def results_folder(data: str, results: str | Path | None = None) -> Path:
    """Return the folder of a data set's reference runs: in the checkout's ``results/`` if None."""
    return (project_folder() / "results" if results is None else Path(results)) / data.lower()


def list_references(data: str, results: str | Path | None = None) -> list[Run]:
    """Return the tracked reference runs of a data set (``data_name``), sorted by name."""
    folder = results_folder(data, results)
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        Run(each, is_reference=True)
        for each in folders
        if all((each / name).is_file() for name in REFERENCE_FILES)
    ]


def refuse_name(name: str) -> None:
    """Raise RunError if a run's name is not a plain folder name."""
    if not name or name != Path(name).name or name.startswith("."):
        raise RunError(f"run name {name!r}: use a plain folder name without separators.")


def write(folder: str | Path, fill: Callable[[Path], None], replace: bool = False) -> Run:
    """Make a run folder in one step: ``fill(temporary folder)``, then rename it.

    Args:
        folder: The run's final folder.
        fill: Writes all of ``RUN_FILES`` into the folder it is given.
        replace: Whether to delete a run of that name once the new one is complete.

    Raises:
        RunError: The folder exists and ``replace`` is false.
    """
    folder = Path(folder)
    if folder.exists() and not replace:
        raise RunError(f"{folder}: exists already; choose another --name, or delete it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.writing-"))
    try:
        fill(temporary)
        if missing := _missing(temporary):
            raise RuntimeError(f"the run's writer left out {', '.join(missing)}")
        temporary.chmod(0o755)  # mkdtemp makes it private
        if folder.exists():
            folder.rename(_aside(folder))
        temporary.rename(folder)
    finally:
        clear_leftovers(folder)
    return Run(folder)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed ``write`` left beside a run, and put back a run that it moved aside."""
    if _aside(folder).is_dir() and not folder.exists():
        _aside(folder).rename(folder)  # killed between the two renames
    shutil.rmtree(_aside(folder), ignore_errors=True)
    for unfinished in folder.parent.glob(f".{folder.name}.writing-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def _missing(folder: Path) -> list[str]:
    return [name for name in RUN_FILES if not (folder / name).is_file()]
