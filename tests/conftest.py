"""Fixtures that several test files share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.pop("MURA_ROOT", None)  # a developer's own data must not reach the tests
os.environ.pop("MURA_CACHE", None)

import pytest

from mura import phantom


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """A tiny phantom's data folder, shared by all tests: do not write there."""
    folder = tmp_path_factory.mktemp("phantom") / "phantom"
    return phantom.generate(folder, scale=0.01, seed=0, jobs=1, progress=False)
