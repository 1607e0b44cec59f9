"""A grid of trainings: every cell is one resumable ``mura train``, here or in a Slurm array.

A grid is a TOML file. Its name is the grid's, and its runs stand in ``models/GRID/``:

    root = "data/FracAtlas"             # as --root
    [vary]                              # every combination is a cell
    architecture = ["cnn", "resnet50"]
    seed = [0, 1, 2]
    fold = [0, 1, 2, 3, 4]
    [fixed]                             # of all cells: the profile, and any setting of a recipe
    profile = "standard"
    folds = 5
    [slurm]                             # parameters of submitit, such as sbatch's options
    time = 240                          # minutes
    gpus_per_node = 1
"""

import itertools
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mura import data
from mura.files import InputError, absolute
from mura.runs import RUN_FILES, Run, models_folder
from mura.training.progress import differences, peek
from mura.training.recipes import Recipe, recipe, usual_profile
from mura.training.start import TrainingError

_TABLES = {"root": str, "vary": dict, "fixed": dict, "slurm": dict}


@dataclass(frozen=True)
class Cell:
    """One training of a grid: the run ``folder``, by a recipe, on the data in ``root``."""

    folder: Path
    root: Path
    recipe: Recipe
    settings: dict[str, Any]  # what the recipe changes in its profile

    @property
    def name(self) -> str:
        """What varies: "cnn-seed0-fold1"."""
        return self.folder.name

    @property
    def command(self) -> list[str]:
        """The command that trains it, goes on with it, or finds it done."""
        chosen = [self.recipe.architecture, "--profile", self.recipe.profile]
        places = ["--root", self.root, "--models", self.folder.parent, "--name", self.name]
        changes = [f"--set={name}={json.dumps(value)}" for name, value in self.settings.items()]
        arguments = ["train", *chosen, *map(str, places), "--resume", *changes]
        return [sys.executable, "-m", "mura.cli", *arguments]

    def run(self) -> Run | None:
        """Return the complete run, None where there is none.

        Raises:
            TrainingError: A run of another recipe or of other data has this cell's name.
        """
        if not all((self.folder / name).is_file() for name in RUN_FILES):
            return None
        run, asked = Run(self.folder), json.loads(json.dumps(self.recipe.to_dict()))
        asked["body_parts"] = asked["body_parts"] or run.recipe["body_parts"]
        other = differences(run.recipe, asked)
        trained_on, here = run.environment["data"]["name"], data.data_name(self.root)
        if trained_on != here:
            other = f"data {trained_on!r} instead of {here!r}, {other}".rstrip(", ")
        if other:
            todo = "delete it, or rename the grid's file."
            raise TrainingError(f"{self.folder}: this run is done, with {other}; {todo}")
        return run


@dataclass(frozen=True)
class Grid:
    """The cells of a grid, and what Slurm is asked for; runs stand in ``folder``."""

    folder: Path
    cells: tuple[Cell, ...]
    slurm: dict[str, Any]

    def left(self) -> list[Cell]:
        """Return the cells that are not done (raises as ``Cell.run``)."""
        return [cell for cell in self.cells if cell.run() is None]

    def table(self) -> pd.DataFrame:
        """Return one row per cell: cell, state (done, unfinished, waiting), epochs, AUROC."""
        rows = []
        for cell in self.cells:
            run = cell.run()
            unfinished = peek(cell.folder.parent / f".{cell.name}.training" / "checkpoint.npz")
            if run:
                rows.append((cell.name, "done", f"{run.environment['epochs']}", auroc(run)))
            elif unfinished:
                epochs = cell.recipe.epochs + (
                    cell.recipe.head_epochs if unfinished.origin != "random" else 0
                )
                state = f"{len(unfinished.history)} of {epochs}"
                rows.append((cell.name, "unfinished", state, ""))
            else:
                rows.append((cell.name, "waiting", "", ""))
        return pd.DataFrame(rows, columns=["cell", "state", "epochs", "AUROC"])


def read_grid(path: str | Path, models: str | Path | None = None) -> Grid:
    """Read a grid's file.

    Args:
        path: The TOML file.
        models: The folder that the grid's folder stands in; the checkout's ``models/`` when None.

    Raises:
        FileNotFoundError: There is no such file, or no such data.
        InputError: The file is no grid, or a cell's recipe is impossible.
    """
    path = Path(path).expanduser()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not a TOML file ({error}).") from error
    for name, value in content.items():
        if not isinstance(value, _TABLES.get(name, ())):
            raise InputError(f"{path}: {name} is none of root, [vary], [fixed] and [slurm].")
    vary, fixed = content.get("vary", {}), content.get("fixed", {})
    for name, values in vary.items():
        if not isinstance(values, list) or not values or name in fixed:
            todo = "give a list of values in [vary], and none in [fixed]."
            raise InputError(f"{path}: {name}: {todo}")
    root = absolute(data.prepare(content.get("root")))
    folder = absolute(models_folder(models)) / path.stem
    cells: dict[str, Cell] = {}
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values, strict=True))
        settings = {"profile": usual_profile(root)} | fixed | varied
        name = "-".join(_part(*each) for each in varied.items())
        if "architecture" not in settings or not name or name in cells:
            found = f"two cells named {name}" if name in cells else "no architecture, or no [vary]"
            raise InputError(f"{path}: {found}; name each combination once.")
        chosen = recipe(settings.pop("architecture"), settings.pop("profile"), **settings)
        cells[name] = Cell(folder / name, root, chosen, settings)
    return Grid(folder, tuple(cells.values()), content.get("slurm", {}))


def auroc(run: Run) -> str:
    """Return a run's AUROC on its validation studies, "" where it has none."""
    rows = [
        row for row in run.metrics["table"] if (row["group"], row["metric"]) == ("all", "auroc")
    ]
    return f"{rows[0]['value']:.3f}" if rows and rows[0]["value"] is not None else ""


def _part(name: str, value: Any) -> str:
    """Return a part of a cell's name: "cnn", "seed0"."""
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return ("" if name in ("architecture", "profile") else name) + re.sub(r"[^\w.+]+", "_", words)
