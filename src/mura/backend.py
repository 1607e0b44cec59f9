"""Start Keras and its backend without their banners, and name them."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import joblib

from mura.files import InputError


class BackendError(InputError):
    """The backend that Keras is to compute with is not installed, or there is none of its name."""


def start() -> None:
    """Import Keras and look for its devices; what the backend prints meanwhile is left out.

    Set ``TF_CPP_MIN_LOG_LEVEL=0`` to read it, for example when a GPU is not found. TensorFlow
    2.21 itself no longer heeds that setting for its first messages, which would stand before
    every answer and every error of the command line.

    Raises:
        BackendError: The backend cannot be imported; the message says what installs one.
    """
    shown = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") == "0" or sys.stderr is None
    try:
        with contextlib.nullcontext() if shown else _without_stderr(), _without_collections():
            from mura import compute

            compute.device_kind()
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "import backend" not in str(error):
            raise
        raise BackendError(
            f"Keras's backend cannot be loaded ({error}); in the checkout `make setup` or `pipenv "
            "install` installs TensorFlow and `make jax` adds JAX, elsewhere `pip install "
            "tensorflow` does. KERAS_BACKEND chooses: tensorflow or jax."
        ) from error


def versions() -> dict[str, str]:
    """Return what computes here: Python, backend, machine and the packages that decide results."""
    import keras

    names = ("xray-classification", "keras", "tensorflow", "jax", "numpy", "pandas", "scikit-learn")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):  # only one backend is installed
            found[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
    } | found


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    # by its descriptor: the messages come from C++
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Do not look for garbage among what the first import makes, nor later: nearly all stays.

    A cold `mura predict` took 4.0 instead of 5.3 seconds on two cores of an AMD EPYC: more than
    half of that is saved when the process ends.
    """
    if "keras" in sys.modules:  # what has been made since is not all to stay
        yield
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.freeze()
            gc.enable()


def saved_by_newer_keras(model: Path) -> str:
    """Return the release of Keras that saved a .keras file, "" where it is not newer than here."""
    import keras

    try:
        with zipfile.ZipFile(model) as archive:
            saved_by = json.loads(archive.read("metadata.json"))["keras_version"]
        newer = _release(saved_by) > _release(keras.__version__)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return ""  # damaged: not known
    return saved_by if newer else ""


def _release(version: str) -> list[int]:
    return [int(number) for number in version.split(".")[:2]]
