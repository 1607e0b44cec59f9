"""Ctrl-C stops `mura train`, and --resume ends with the same bytes as an undisturbed training."""

import signal
import subprocess
import sys

import pytest
from conftest import TRAIN

from mura.cli import main

SAME = ("history.csv", "predictions.csv", "split.csv", "metrics.json")


def names(folder):
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def same_results(one, two):
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in SAME)


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
    assert main([*train, str(tmp_path / "whole"), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "nothing to resume: starting from the beginning\n" in printed
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
