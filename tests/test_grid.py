"""Grids: cells by what varies, done ones skipped, failing ones named, Ctrl-C, Slurm's file."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from made_runs import make_run, predictions

from mura import evaluation, runs
from mura.cli import main
from mura.files import InputError
from mura.training import TrainingError, local
from mura.training.grid import Cell, read_grid

GRID = """
root = "{root}"
[vary]
architecture = ["cnn"]
seed = [0, 1]
[fixed]
profile = "quick"
image_size = 32
{more}
"""


@pytest.fixture
def grid(phantom_root, tmp_path):
    """Write a grid's file and read it."""

    def write(more="epochs = 1", name="tiny"):
        (tmp_path / f"{name}.toml").write_text(GRID.format(root=phantom_root, more=more))
        return read_grid(tmp_path / f"{name}.toml", tmp_path / "models")

    return write


def test_cells_are_named_by_what_varies_and_train_by_the_command_line(grid, tmp_path):
    cells = grid("epochs = 3\nweights = 'none'").cells
    assert [cell.name for cell in cells] == ["cnn-seed0", "cnn-seed1"]
    assert cells[1].folder == tmp_path / "models" / "tiny" / "cnn-seed1"
    assert (cells[1].recipe.seed, cells[1].recipe.epochs) == (1, 3)
    words = cells[1].command[3:]
    assert words[:4] == ["train", "cnn", "--profile", "quick"]
    assert {"--resume", "--set=epochs=3", '--set=weights="none"', "--set=seed=1"} <= set(words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vary", "not a TOML file"),
        ("[vary]\nseed = 3", "seed: give a list of values"),
        ("[vary]\nseed = [1]\n[fixed]\nseed = 2", "none in .fixed."),
        ("[vary]\nseed = [1]", "no architecture"),
        ("[vary]\narchitecture = ['cnn', 'cnn']", "two cells named cnn"),
        ("[vary]\narchitecture = ['cnn']\n[fixed]\nepochs = 'x'", "epochs 'x': expected a whole"),
        ("[very]\nseed = [1]", "very is none of root"),
    ],
)
def test_a_wrong_grid_is_one_sentence(text, said, phantom_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_ROOT", str(phantom_root))
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_grid(tmp_path / "wrong.toml", tmp_path)


def test_done_cells_are_skipped_and_runs_of_another_recipe_refused_by_name(
    grid, phantom_root, tmp_path
):
    table, folder = predictions(phantom_root, 3.0), tmp_path / "models" / "tiny"
    settings = {"seed": 1, **{k: v for k, v in _quick().items() if k not in ("seed", "image_size")}}
    make_run(folder, "cnn-seed1", table, **settings)
    found = grid(f"epochs = {settings['epochs']}")
    assert [cell.name for cell in found.left()] == ["cnn-seed0"]
    status = found.table().set_index("cell")
    assert status["state"].tolist() == ["waiting", "done"]
    assert float(status.loc["cnn-seed1", "AUROC"]) > 0.5
    other = grid("epochs = 7")
    with pytest.raises(TrainingError, match=r"cnn-seed1: .* epochs 12 instead of 7; delete it"):
        other.left()


def _quick():
    from mura.training.recipes import recipe

    return recipe("cnn", image_size=32).to_dict()


def test_a_grids_name_stands_for_its_folder(tmp_path, monkeypatch):
    (tmp_path / "src" / "mura").mkdir(parents=True)
    (tmp_path / "models" / "seeds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert runs.models_folder("seeds") == Path("models/seeds")
    assert runs.models_folder("elsewhere") == Path("elsewhere")
    (tmp_path / "seeds").mkdir()  # a folder of that name here comes first
    assert runs.models_folder("seeds") == Path("seeds")


def pretend(monkeypatch, code):
    """Let cells run some Python instead of a training; ``name`` is the cell's."""
    code = f"import os, sys\nname = sys.argv[1]\n{code}"
    command = property(lambda cell: [sys.executable, "-c", code, cell.name])
    monkeypatch.setattr(Cell, "command", command)


def test_a_cell_that_fails_does_not_stop_the_others(grid, monkeypatch, capsys, tmp_path):
    code = "print('Epoch 1/3'); print('3/3 - 0s - 2ms/step - loss: 0.5'); "
    code += "sys.exit('mura: no luck.' if 'seed0' in name else 0)"
    pretend(monkeypatch, code)
    monkeypatch.setattr(local, "auroc", lambda run: "0.9")
    monkeypatch.setattr(Cell, "run", lambda cell: None)
    found = grid()
    monkeypatch.setattr(Cell, "run", lambda cell: "run" if "seed1" in cell.name else None)
    monkeypatch.setattr(type(found), "left", lambda grid: list(grid.cells))
    with pytest.raises(TrainingError, match=r"1 of 2 cells failed: cnn-seed0 \(no luck\)"):
        local.run_here(found)
    printed = capsys.readouterr().out
    for line in ("cnn-seed0: epoch 1/3: loss: 0.5", "cnn-seed0: failed", "seed1: done, AUROC 0.9"):
        assert line in printed
    assert "no luck" in (tmp_path / "models" / "tiny" / ".logs" / "cnn-seed0.txt").read_text()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="only Linux binds threads to cores"
)
def test_slots_share_the_cores_and_the_gpus(grid, monkeypatch, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be shared out; this needs two")
    pretend(monkeypatch, "print(os.sched_getaffinity(0), os.environ['CUDA_VISIBLE_DEVICES'])")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(TrainingError, match="2 of 2 cells failed"):  # they leave no run
        local.run_here(grid())
    logs = (tmp_path / "models" / "tiny" / ".logs").glob("*.txt")
    cores, gpus = zip(*(log.read_text().strip().rsplit(" ", 1) for log in logs), strict=True)
    assert set(gpus) == {"4", "7"}
    assert not set(eval(cores[0])) & set(eval(cores[1]))


SLEEPING = """
import signal, sys
from mura.training import local
from mura.training.grid import Cell, read_grid
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
Cell.command = property(lambda cell: [sys.executable, "-c", code])
local.run_here(read_grid(sys.argv[1], sys.argv[2]), 2)
"""


def test_ctrl_c_stops_the_children(grid, tmp_path):
    grid()
    command = [sys.executable, "-c", SLEEPING, tmp_path / "tiny.toml", tmp_path / "models"]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    logs, started = tmp_path / "models" / "tiny" / ".logs", time.monotonic()
    while len(pids := [text for log in logs.glob("*") if (text := log.read_text())]) < 2:
        assert time.monotonic() - started < 60
        time.sleep(0.1)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) != 0
    for pid in map(int, pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_slurm_without_submitit_and_without_time_is_one_sentence(grid, refused, tmp_path):
    grid()
    command = ["grid", tmp_path / "tiny.toml", "--models", tmp_path / "models", "--slurm"]
    installed = importlib.util.find_spec("submitit")
    said = "name the minutes that a cell may take" if installed else "submitit, which is missing"
    assert said in refused(*command)


@pytest.mark.slow
def test_seeds_and_folds_of_a_grid_are_one_row_each(phantom_root, tmp_path, capsys):
    def trained(name, vary):
        text = f'root = "{phantom_root}"\n[vary]\narchitecture = ["cnn"]\n{vary}\n[fixed]\n'
        (tmp_path / f"{name}.toml").write_text(f"{text}image_size = 32\nepochs = 1")
        command = ["grid", str(tmp_path / f"{name}.toml"), "--models", str(tmp_path / "models")]
        assert main([*command, "--jobs", "2"]) == 0
        capsys.readouterr()
        assert main(command) == 0  # nothing is left
        assert "cells are done" in capsys.readouterr().out
        return evaluation.compare(tmp_path / "models" / name, phantom_root)

    seeds = trained("seeds", "seed = [0, 1, 2]")
    title = "cnn, 3 seeds"
    table = evaluation.results(seeds, evaluation.model_table(seeds.studies, resamples=20))
    assert list(seeds.sets) == [title] and table.loc[title, "runs alone (AUROC)"]
    folds = trained("folds", "folds = [5]\nfold = [0, 1, 2, 3, 4]")
    predicted = folds.studies["cnn, 5 folds"]
    every = pd.concat([run.predictions for run in (folds.runs | folds.repeated).values()])
    held_out = every[every["split"] == "valid"]
    assert sorted(predicted["study"]) == sorted(held_out["study"].unique())
    assert predicted["study"].is_unique
    assert held_out.groupby("path").size().eq(1).all()
