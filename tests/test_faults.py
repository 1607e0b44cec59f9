"""Training that is killed, interrupted, or runs out of disk: nothing lost, nothing half-written."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TRAIN
from disks import remount, small_disk
from layout import write_layout

from mura import checkpoints, pixel_cache, training
from mura.cli import main
from mura.runs import RUN_FILES, Run, list_runs

ROOT = Path(__file__).parents[1]
SAME = ("history.csv", "predictions.csv", "split.csv", "metrics.json")


def names(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def same_results(one, two):
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in SAME)


def test_killed_at_any_point_a_training_ends_with_the_same_bytes():
    """In an epoch, in a checkpoint, in the run; the benchmark kills at many more points."""
    script = ROOT / "benchmarks" / "fault_injection.py"
    kinds = ["--kinds", "step", "checkpoint-bytes", "run-bytes"]
    command = [sys.executable, script, "--kills", "3", *kinds]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "3 kills survived of 3" in result.stdout


INTERRUPTED = """
import signal, sys, time
import keras
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs in the back
from mura.cli import main
ends, steps = keras.callbacks.CallbackList.on_train_batch_end, []
def slowly(self, *arguments, **named):
    ends(self, *arguments, **named)
    steps.append(1)
    if len(steps) > int(sys.argv[1]):  # in the second epoch
        print("step", flush=True)
        time.sleep(0.5)
keras.callbacks.CallbackList.on_train_batch_end = slowly
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_ctrl_c_in_the_middle_of_an_epoch_stops_and_resume_ends_the_same(
    phantom_root, tmp_path, capsys
):
    train = [*TRAIN[:-1], "2", "--root", str(phantom_root), "--models"]
    assert main([*train, str(tmp_path / "whole")]) == 0
    printed = capsys.readouterr().out
    steps = int(printed.split("Epoch 2/2\n")[1].split("/")[0])
    models = tmp_path / "models"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(steps + 2), *train, str(models)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line == "step\n":
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)  # a hang ends, a slow machine does not matter
    last = [line for line in errors.splitlines() if line.startswith("mura: ")]
    assert process.returncode == 130, errors
    assert len(last) == 1
    assert "--resume" in last[0]
    assert "Traceback" not in errors
    assert names(models) == {".cnn.training"}
    assert main([*train, str(models), "--resume"]) == 0
    assert "continuing after epoch 1\n" in capsys.readouterr().out
    assert same_results(models / "cnn", tmp_path / "whole" / "cnn")
    assert names(models) == {"cnn"}


def test_resume_with_nothing_to_resume_starts_from_the_beginning(
    trained, phantom_root, tmp_path, capsys
):
    models = tmp_path / "models"
    arguments = [*TRAIN, "--root", str(phantom_root), "--models", str(models), "--resume"]
    assert main(arguments) == 0
    assert "nothing to resume: starting from the beginning\n" in capsys.readouterr().out
    assert same_results(models / "cnn", trained[0] / "cnn")


def test_a_disk_too_small_for_a_checkpoint(trained, phantom_root, tmp_path, refused):
    with small_disk(tmp_path / "disk", "7m") as disk:
        shutil.copytree(trained[0] / "cnn", disk / "models" / "earlier")
        arguments = [*TRAIN, "--root", phantom_root, "--models", disk / "models"]
        line = refused(*arguments)
        assert str(disk / "models" / ".cnn.training" / "checkpoint.npz") in line
        assert "free space" in line
        assert [run.name for run in list_runs(disk / "models")] == ["earlier"]
        assert not list((disk / "models" / ".cnn.training").iterdir())
        remount(disk, "size=64m")
        assert main([str(argument) for argument in arguments]) == 0
        assert same_results(disk / "models" / "cnn", trained[0] / "cnn")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["write_run", "predict_parts"])
def test_a_disk_that_is_full_when_the_run_is_written(
    trained, phantom_root, tmp_path, refused, monkeypatch, capsys, moment
):
    """The model does not fit, or what comes after it does not; the checkpoint stays."""
    go_on = getattr(training, moment)

    def filled(*arguments, **settings):
        disk = tmp_path / "disk"
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        return go_on(*arguments, **settings)

    with small_disk(tmp_path / "disk", "40m") as disk:
        models = disk / "models"
        arguments = [*TRAIN, "--root", str(phantom_root), "--models", str(models)]
        with monkeypatch.context() as patch:
            patch.setattr(training, moment, filled)
            line = refused(*arguments)
        assert os.strerror(errno.ENOSPC) in line
        assert str(models / "cnn") in line
        assert names(models) == {".cnn.training"}
        (disk / "filler").unlink()
        assert main([*arguments, "--resume"]) == 0
        assert "continuing after epoch 1\n" in capsys.readouterr().out
        assert names(models) == {"cnn"}
        assert same_results(models / "cnn", trained[0] / "cnn")


def test_a_read_only_disk_is_named_and_its_runs_are_evaluated(
    trained, phantom_root, tmp_path, refused
):
    with small_disk(tmp_path / "disk", "20m") as disk:
        shutil.copytree(trained[0] / "cnn", disk / "models" / "earlier")
        remount(disk, "ro")
        line = refused(*TRAIN, "--root", phantom_root, "--models", disk / "models")
        assert str(disk / "models") in line
        assert "can be written" in line
        assert "can be written" in refused("export", "earlier", "--models", disk / "models")
        results = tmp_path / "results.json"
        evaluate = ["evaluate", "--models", str(disk / "models"), "--json", str(results)]
        assert main(evaluate) == 0
        assert results.is_file()
        assert "can be written" in refused(*evaluate[:-1], disk / "results.json")


def test_a_data_folder_that_vanishes_while_it_is_decoded(tmp_path, refused, monkeypatch):
    studies = [
        (split, "XR_WRIST", number + 100 * (split == "valid"), 1, number % 2, 2)
        for split in ("train", "valid")
        for number in range(20)
    ]
    root = write_layout(tmp_path, studies)
    load = pixel_cache.load_square

    def vanish(*arguments):
        shutil.rmtree(root, ignore_errors=True)
        return load(*arguments)

    monkeypatch.setattr(pixel_cache, "load_square", vanish)
    line = refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert "images cannot be read" in line
    assert "no such file" in line
    assert str(root) in refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert list_runs(tmp_path / "models") == []


@pytest.mark.slow
def test_a_models_folder_that_vanishes_is_made_again(trained, phantom_root, tmp_path, monkeypatch):
    models, save = tmp_path / "models", checkpoints.save

    def vanish(*arguments):
        shutil.rmtree(models)
        save(*arguments)

    monkeypatch.setattr(checkpoints, "save", vanish)
    assert main([*TRAIN, "--root", str(phantom_root), "--models", str(models)]) == 0
    assert names(Run.load("cnn", models).folder) == set(RUN_FILES)
    assert same_results(models / "cnn", trained[0] / "cnn")
