"""The run folder: everything that one training produced, written whole or not at all."""

from __future__ import annotations

import functools
import glob
import re
import shutil
import tempfile
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mura.files import InputError, permit, project_folder, read_json
from mura.run_contract import METRICS, RECIPE, content_fault, environment_fault

if TYPE_CHECKING:  # imported where they are needed: an exported model answers without them
    import keras
    import pandas as pd

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

# What other modules read of predictions.csv.
_PREDICTION_DTYPES = {
    **dict.fromkeys(("path", "study", "body_part", "patient", "split"), str),
    **{"view": "int64", "label": "Int64", "probability": "float64"},
}


def models_folder(models: str | Path | None = None) -> Path:
    """Return the folder that runs stand in: the argument, else the checkout's ``models/``."""
    return project_folder() / "models" if models is None else Path(models).expanduser()


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
        models, folder = models_folder(models), Path(folder).expanduser()
        folders = [path for path in (folder, models / folder) if path.is_dir()]
        # a folder of that name in the current one need not be a run
        found = next((path for path in folders if not _missing(path)), (folders or [None])[0])
        if found is None:
            raise RunError(
                f"{folder}: no such run; complete runs under {models.absolute()}: "
                f"{_names(models)}. Runs of "
                "a checkout are found from inside it, or by --models; `mura train cnn` makes one."
            )
        missing = _missing(found)
        if set(RUN_FILES) <= {*missing, "README.md"}:  # some other folder, of images maybe
            raise RunError(f"{found}: not a run; complete runs: {_names(models)}.")
        if missing:
            raise RunError(
                f"{found}: not a complete run, {', '.join(missing)} missing; "
                "restore it from a copy, or delete the folder and train the run again."
            )
        return cls(found)

    @property
    def name(self) -> str:
        """The folder's name, which is the run's name everywhere."""
        return self.folder.resolve().name

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe's settings."""
        return self._read_json("recipe.json", lambda content: content_fault(content, RECIPE))

    @functools.cached_property
    def metrics(self) -> dict[str, Any]:
        """Study-level results on the evaluated split."""
        return self._read_json("metrics.json", lambda content: content_fault(content, METRICS))

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """Data, weights, device, versions and times of the training."""
        return self._read_json("environment.json", environment_fault)

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row per epoch: stage, epoch, losses, learning rate at its end."""
        return self._read_csv("history.csv", {"epoch": "int64", "tune_loss": "float64"})

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per image of the tune and valid splits.

        Columns: path, study, view, body_part (ordered categorical), patient, split, label
        (Int64, missing where unknown), probability (float64 in 0-1, of *abnormal*).
        """
        from mura.manifest import BODY_PART_DTYPE

        table = self._read_csv("predictions.csv", _PREDICTION_DTYPES)
        outside = ~table["probability"].between(0, 1)
        if outside.any():
            row = table[outside].iloc[0]
            found = f"{row.path} has the probability {row.probability}, which is not from 0 to 1"
            raise self._damaged("predictions.csv", found)
        return table.astype({"body_part": BODY_PART_DTYPE})

    @functools.cached_property
    def split(self) -> pd.DataFrame:
        """Which part each patient was in: columns patient, part ("fit", "tune", "valid")."""
        return self._read_csv("split.csv", {"patient": str, "part": str})

    def _read_csv(self, name: str, dtype: dict[str, Any]) -> pd.DataFrame:
        """Read a table that has at least the columns of ``dtype``, and at least one row."""
        import pandas as pd

        try:
            table = pd.read_csv(self.folder / name, dtype=dtype)
        except ValueError as error:  # pandas' parser errors and those of decoding are such
            reason = textwrap.shorten(str(error), 200, placeholder=" ...")
            raise self._damaged(name, reason) from error
        if missing := [column for column in dtype if column not in table]:
            raise self._damaged(name, f"no column {', '.join(missing)}")
        if table.empty:
            raise self._damaged(name, "no rows")
        return table

    def _read_json(self, name: str, fault: Callable[[Any], str]) -> dict[str, Any]:
        content = read_json(self.folder / name)
        if found := fault(content):
            raise self._damaged(name, found)
        return content

    def _damaged(self, name: str, found: str) -> RunError:
        return RunError(
            f"{self.folder / name}: damaged ({found}); restore it from a copy or train the run "
            "again."
        )

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
    from mura import backend, compute

    backend.start()
    import keras

    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: no such model file; name a run folder or a .keras file.")
    try:
        # by name and content: Keras reads other formats too, and not all of them in safe mode
        if path.suffix != ".keras" or not zipfile.is_zipfile(path):
            raise ValueError("not a whole .keras archive")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged archive
        reason = textwrap.shorten(str(error), 200, placeholder=" ...")
        remedy = "restore it from a copy or train the run again"
        if own := re.search(r"locate class '(\w+)'", str(error)):
            remedy = f"import the module that defines its layer {own[1]} first"
        if newer := backend.saved_by_newer_keras(path):
            remedy = f"it was saved by Keras {newer}, and here is {keras.__version__}: update it"
        raise RunError(
            f"{path}: not a Keras model that can be loaded safely ({reason}); {remedy}."
        ) from error
    shape, output = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    fits = isinstance(shape, tuple) and len(shape) == 4 and shape[3] == 1
    if not fits or shape[1] is None or shape[1] != shape[2] or output != (None, 1):
        raise RunError(
            f"{path}: the model maps {shape} to {output}; expected (None, S, S, 1) to (None, 1), "
            "which every model of this project does."
        )
    if model.inputs[0].dtype != "uint8":
        raise RunError(
            f"{path}: the model takes {model.inputs[0].dtype} pixels; expected uint8 in 0-255, "
            "from a model that carries its own preprocessing."
        )
    model.compile(jit_compile=compute.policy().jit_compile)  # predict() would else choose XLA
    return model


def _names(models: Path) -> str:
    return ", ".join(run.name for run in list_runs(models)) or "none yet"


def _missing(folder: Path) -> list[str]:
    return [name for name in RUN_FILES if not (folder / name).is_file()]


def list_runs(models: str | Path | None = None) -> list[Run]:
    """Return the complete runs under a folder, sorted by name; none where there is no folder."""
    models = models_folder(models)
    if not models.is_dir():
        return []
    return [
        Run(folder)
        for folder in sorted(models.iterdir())
        if folder.is_dir() and not folder.name.startswith(".") and not _missing(folder)
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
        if missing := _missing(temporary):
            raise RuntimeError(f"the run's writer left out {', '.join(missing)}")
        permit(temporary, 0o755)  # mkdtemp makes it private
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old-"))
            folder.rename(aside / folder.name)
        temporary.rename(folder)
    except OSError as error:
        # the run's own name, not that of a temporary folder which is gone by then
        if error.filename is None or str(temporary) in str(error.filename):
            error.filename = str(folder)
        raise
    finally:
        clear_leftovers(folder)
    return Run(folder)


# What mkdtemp ends a name with; what else begins as such a name may be another run's.
_RANDOM = "[a-z0-9_]" * 8


def clear_leftovers(folder: str | Path) -> None:
    """Remove what half-finished writing of a run left beside it, and put back what it moved aside.

    Call it only while no other process writes that run. What cannot be deleted stays until the next
    call, and is no run to put back: on NFS a file that another process has open, and its folder.
    """
    folder = Path(folder)
    name = glob.escape(folder.name)
    for aside in folder.parent.glob(f".{name}.old-{_RANDOM}"):
        old = aside / folder.name
        if old.is_dir() and folder.exists():
            old.rename(aside / f"{folder.name}.replaced")
        elif old.is_dir():
            old.rename(folder)  # stopped between the two renames
        shutil.rmtree(aside, ignore_errors=True)
    for unfinished in folder.parent.glob(f".{name}.writing-{_RANDOM}"):
        shutil.rmtree(unfinished, ignore_errors=True)
