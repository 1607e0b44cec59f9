"""Start Keras and its backend without their banners, and name them."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

from mura.parallel import available_cores


def start() -> None:
    """Import Keras and look for its devices; what the backend prints meanwhile is left out.

    Set ``TF_CPP_MIN_LOG_LEVEL=0`` to read it, for example when a GPU is not found. TensorFlow
    2.21 itself no longer heeds that setting for its first messages, which would stand before
    every answer and every error of the command line.
    """
    shown = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") == "0"
    with contextlib.nullcontext() if shown else _without_stderr(), _without_collections():
        from mura import compute

        compute.device_kind()


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
        "machine": f"{platform.system()} {platform.machine()}, {available_cores()} cores",
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
