"""Fixtures that several test files share."""

import contextlib
import io
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.pop("MURA_ROOT", None)  # a developer's own data must not reach the tests
os.environ.pop("MURA_CACHE", None)

import pytest
from hypothesis import HealthCheck, settings

from mura import phantom

# The same cases every time, whatever the machine's speed: a test that fails on some days only
# helps nobody.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """A tiny phantom's data folder, shared by all tests: do not write there."""
    folder = tmp_path_factory.mktemp("phantom") / "phantom"
    return phantom.generate(folder, scale=0.01, seed=0, jobs=1, progress=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that ``~`` stands for: an empty one."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):  # Linux and macOS, Windows
        monkeypatch.setenv(name, str(folder))
    return folder


TRAIN = ("train", "cnn", "--image-size", "32", "--epochs", "1")


@pytest.fixture(scope="session")
def trained(phantom_root, tmp_path_factory):
    """The folder of a run that ``mura train`` made, what it returned and what it printed."""
    from mura.cli import main

    models = tmp_path_factory.mktemp("models")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([*TRAIN, "--root", str(phantom_root), "--models", str(models)])
    return models, status, printed.getvalue()


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; return its one line on stderr."""
    from mura.cli import main

    def run(*arguments, status=2):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        lines = capsys.readouterr().err.splitlines()
        lines = [line for line in lines if line and "image/s]" not in line]  # a progress bar
        assert len(lines) == 1, lines
        assert lines[0].startswith("mura: ")
        assert "Traceback" not in lines[0]
        return lines[0]

    return run
