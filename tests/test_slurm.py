"""A real Slurm, started here: a grid as an array, a cancelled cell, one training of two tasks."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mura.runs import list_runs

HERE = Path(__file__).parent / "slurm"
NEEDED = ("slurmctld", "slurmd", "munged", "srun")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not all(map(shutil.which, NEEDED)) or os.getuid() != 0,
        reason="needs a Slurm to start: root, and Debian's slurm-wlm and munge",
    ),
]
GRID = """
root = "{root}"
[vary]
architecture = ["cnn"]
seed = [0, 1]
batch_size = [16, 32]
[fixed]
image_size = 32
epochs = 12
train_fraction = 0.3
[slurm]
time = 10
cpus_per_task = 1
"""


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    """Slurm's own commands find it by SLURM_CONF."""
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        subprocess.run([HERE / "start.sh", folder], check=True, timeout=60)
        yield
        subprocess.run([HERE / "stop.sh", folder], check=True, timeout=60)


def mura(*arguments: object, launcher: tuple[str, ...] = (), **environment: str) -> str:
    command = [*launcher, sys.executable, "-m", "mura.cli", *map(str, arguments)]
    environment = os.environ | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def queue(*fields: str) -> list[str]:
    command = ["squeue", "--noheader", "--array", "--format=" + " ".join(fields)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def wait(until, seconds: int = 400) -> None:
    started = time.monotonic()
    while not until():
        assert time.monotonic() - started < seconds
        time.sleep(0.2)


def test_an_array_trains_a_grid_and_goes_on_with_a_cancelled_cell(phantom_root, tmp_path):
    pytest.importorskip("submitit", reason="needs submitit: `make cluster` installs it")
    file, models = tmp_path / "four.toml", tmp_path / "models"
    file.write_text(GRID.format(root=phantom_root))
    command = ("grid", file, "--models", models)
    shown = mura(*command, "--slurm", "--print")
    for line in ("#SBATCH --array=0-3%4", "#SBATCH --time=10", "#SBATCH --job-name=four"):
        assert line in shown
    assert "submitted: " in mura(*command, "--slurm")
    victim = models / "four" / ".cnn-seed0-batch_size16.training" / "checkpoint.npz"
    wait(victim.exists)
    job = next(line.split()[0] for line in queue("%i", "%t") if line.split()[0].endswith("_0"))
    subprocess.run(["scancel", job], check=True)
    wait(lambda: not queue("%i"))
    assert [run.name for run in list_runs(models / "four")] == [
        f"cnn-seed{seed}-batch_size{size}" for seed, size in ((0, 32), (1, 16), (1, 32))
    ]
    assert "unfinished" in mura(*command, "--status")
    mura(*command, "--slurm")
    wait(lambda: not queue("%i"))
    assert len(list_runs(models / "four")) == 4
    assert "all 4 cells are done" in mura(*command, "--slurm")


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: `make jax` installs it"
)
def test_two_tasks_of_srun_are_one_training(phantom_root, tmp_path):
    asked = ["train", "cnn", "--image-size", 32, "--epochs", 1, "--devices", "all"]
    asked += ["--root", phantom_root, "--models", tmp_path, "--set", "train_fraction=0.3"]
    printed = mura(*asked, launcher=("srun", "-n2"), KERAS_BACKEND="jax")
    assert ", 2 x cpu, " in printed and printed.count(": complete") == 1
    [run] = list_runs(tmp_path)
    assert run.environment["compute"]["devices"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["cnn"]
