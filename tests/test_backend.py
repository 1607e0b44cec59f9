"""Starting the backend: nothing on stderr unless it is asked for, and no search for garbage."""

import os
import platform
import subprocess
import sys

import keras
import pytest

from mura import backend


def test_nothing_is_printed_before_an_answer():
    code = (
        "from mura import backend; backend.start(); import keras; "
        "print(float(keras.ops.sum(keras.ops.ones(3))))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "3.0\n", "")


def test_an_error_within_still_shows_and_stderr_comes_back(capfd, monkeypatch):
    def fail():
        os.write(2, b"banner")
        raise RuntimeError("no device")

    monkeypatch.setattr("mura.training.train.device.device_kind", fail)
    with pytest.raises(RuntimeError, match="no device"):
        backend.start()
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_banners_are_shown_where_they_are_asked_for(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setattr("mura.training.train.device.device_kind", lambda: os.write(2, b"banner"))
    backend.start()
    assert capfd.readouterr().err == "banner"


@pytest.mark.parametrize(
    ("name", "found"),
    [("torh", "Unable to import backend : torh"), ("tensorflow", "No module named 'tensorflow")],
)
def test_a_backend_that_cannot_be_imported_is_one_line_that_names_what_to_install(
    tmp_path, name, found
):
    hidden = "import sys; sys.modules['tensorflow'] = None; from mura.cli import main; "
    code = hidden + "sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "train", "cnn", "--models", str(tmp_path)],
        env=os.environ | {"KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("mura: Keras's backend cannot be loaded (")
    assert result.stderr.count("\n") == 1
    for said in (found, "`make setup`", "`make jax`"):
        assert said in result.stderr


def test_other_errors_of_values_stay_what_they_are(monkeypatch):
    def fail():
        raise ValueError("another")

    monkeypatch.setattr("mura.training.train.device.device_kind", fail)
    with pytest.raises(ValueError, match="another") as caught:
        backend.start()
    assert type(caught.value) is ValueError


def test_it_starts_where_there_is_no_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    backend.start()


def test_garbage_is_collected_again_but_not_sought_among_what_the_first_start_made():
    code = (
        "import gc; from mura import backend; "
        "backend.start(); kept = gc.get_freeze_count(); "
        "mine = [[] for _ in range(1000)]; backend.start(); "
        "print(kept > 100_000, gc.get_freeze_count() <= kept, gc.isenabled())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["True", "True", "True"], result.stderr


def test_collection_stays_off_where_it_was_off():
    code = (
        "import gc; gc.disable(); from mura import backend; backend.start(); "
        "print(gc.isenabled(), gc.get_freeze_count())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["False", "0"], result.stderr


def test_what_computes_is_named():
    found = backend.versions()
    assert found["backend"] == keras.backend.backend()
    assert found["keras"] == keras.__version__
    assert found["python"] == platform.python_version()
