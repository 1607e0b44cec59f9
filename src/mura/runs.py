"""The run folder: everything that one training produced, written whole or not at all."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mura.files import InputError, project_folder, read_json
from mura.manifest import BODY_PART_DTYPE

if TYPE_CHECKING:
    import keras

# A run is complete when the last of these is there: it is written last.
RUN_FILES = (
    "model.keras",
    "recipe.json",
    "history.csv",
    "predictions.csv",
    "split.csv",
    "environment.json",
    "README.md",
    "metrics.json",
)


def models_folder(models: str | Path | None = None) -> Path:
    """Return the folder that runs stand in: the argument, else the checkout's ``models/``."""
    return project_folder() / "models" if models is None else Path(models)


class RunError(InputError):
    """A run folder is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Run:
    """A complete run folder; its files are read when they are asked for."""

    folder: Path

    @classmethod
    def load(cls, folder: str | Path, models: str | Path | None = None) -> Run:
        """Open a run by its folder, or by its name under ``models`` (``models_folder()``).

        Raises:
            RunError: There is no such run, or it is incomplete; the message lists the runs
                that can be opened.
        """
        models = models_folder(models)
        candidates = [Path(folder), models / folder]
        found = next((path for path in candidates if path.is_dir()), None)
        if found is None:
            names = ", ".join(run.name for run in list_runs(models)) or "none yet"
            raise RunError(
                f"{folder}: no such run; complete runs under {models}: {names}. "
                "`mura train cnn` makes one."
            )
        missing = [name for name in RUN_FILES if not (found / name).is_file()]
        if missing:
            raise RunError(
                f"{found}: not a complete run, {', '.join(missing)} missing; "
                "train it again, or continue an interrupted training with --resume."
            )
        return cls(found)

    @property
    def name(self) -> str:
        """The folder's name, which is the run's name everywhere."""
        return self.folder.resolve().name

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe's settings."""
        return read_json(self.folder / "recipe.json")

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """Study-level results on the evaluated split."""
        return read_json(self.folder / "metrics.json")

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """Data, weights, device, versions and times of the training."""
        return read_json(self.folder / "environment.json")

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch: stage, epoch, losses, learning rate."""
        return self._read_csv("history.csv")

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per image of the tune and valid splits.

        Columns: path, study, view, body_part (ordered categorical), patient, split, label
        (Int64, missing where unknown), probability (float64 in 0-1, of *abnormal*).
        """
        table = self._read_csv("predictions.csv", {"patient": str, "label": "Int64"})
        return table.astype({"body_part": BODY_PART_DTYPE})

    @functools.cached_property
    def split(self) -> pd.DataFrame:
        """Which part each patient was in: columns patient, part ("fit", "tune", "valid")."""
        return self._read_csv("split.csv", {"patient": str})

    def _read_csv(self, name: str, dtype: dict[str, Any] | None = None) -> pd.DataFrame:
        try:
            return pd.read_csv(self.folder / name, dtype=dtype)
        except (ValueError, KeyError) as error:
            raise RunError(
                f"{self.folder / name}: cannot be read ({error}); "
                "restore it from a copy or train the run again."
            ) from error

    def load_model(self) -> keras.Model:
        """Load the trained model: uint8[B, S, S, 1] to float32[B, 1].

        Raises:
            RunError: The file is damaged, is no Keras model or takes another input.
        """
        return load_model(self.folder / "model.keras")


def load_model(path: str | Path) -> keras.Model:
    """Load a ``.keras`` file in safe mode: nothing in it is executed or unpickled.

    Raises:
        RunError: The file is missing, damaged, no Keras model, or has another input or output
            than uint8[B, S, S, 1] to [B, 1].
    """
    import keras

    from mura import compute

    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: no such model file; name a run folder or a .keras file.")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged archive
        reason = " ".join(str(error).split())[:160]
        raise RunError(
            f"{path}: not a Keras model that can be loaded safely ({reason}); "
            "restore it from a copy or train the run again."
        ) from error
    shape, output = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if (
        not isinstance(shape, tuple)
        or len(shape) != 4
        or shape[3] != 1
        or shape[1] is None
        or shape[1] != shape[2]
        or output != (None, 1)
    ):
        raise RunError(
            f"{path}: the model maps {shape} to {output}; expected (None, S, S, 1) to (None, 1), "
            "which every model of this project does."
        )
    model.compile(jit_compile=compute.policy().jit_compile)  # predict() would else choose XLA
    return model


def list_runs(models: str | Path | None = None) -> list[Run]:
    """Return the complete runs under a folder, sorted by name; none where there is no folder."""
    models = models_folder(models)
    if not models.is_dir():
        return []
    return [
        Run(folder)
        for folder in sorted(models.iterdir())
        if folder.is_dir()
        and not folder.name.startswith(".")
        and all((folder / name).is_file() for name in RUN_FILES)
    ]


def write_run(folder: str | Path, write: Callable[[Path], None], replace: bool = False) -> Run:
    """Make a run folder in one step: ``write(temporary folder)``, then rename it.

    Args:
        folder: The run's final folder.
        write: Writes all of ``RUN_FILES`` into the folder it is given.
        replace: Whether a folder of that name gives way; it is moved aside first and only
            deleted when the new one stands.

    Raises:
        RunError: The folder exists and ``replace`` is false.
        OSError: Nothing could be written; what stood there before still does.
    """
    folder = Path(folder)
    if folder.exists() and not replace:
        raise RunError(f"{folder}: exists already; choose another --name, or delete it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.writing-"))
    try:
        write(temporary)
        missing = [name for name in RUN_FILES if not (temporary / name).is_file()]
        if missing:
            raise RuntimeError(f"the run's writer left out {', '.join(missing)}")
        temporary.chmod(0o755)  # mkdtemp makes it private
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old-"))
            folder.rename(aside / folder.name)
            temporary.rename(folder)
            shutil.rmtree(aside)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Run(folder)
