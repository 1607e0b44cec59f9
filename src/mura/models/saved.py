"""Load saved models without trusting them."""

from __future__ import annotations

import functools
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from mura.files import InputError
from mura.models.depthwise import with_depthwise_kernels


class ModelError(InputError):
    """A model file is missing, damaged, unsafe or of another kind than this project's."""


def load(path: str | Path) -> keras.Model:
    """Load a ``.keras`` file in safe mode: nothing in it is executed or unpickled.

    Returns:
        uint8[B, S, S, 1] in 0-255 to float32[B, 1], the probability of *abnormal*.

    Raises:
        ModelError: The file is missing, damaged, no Keras model, or has another input or output.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such model file; name a run folder or a .keras file.")
    try:
        # by name and content: Keras reads other formats too, and not all of them in safe mode
        if path.suffix != ".keras" or not zipfile.is_zipfile(path):
            raise ValueError("not a whole .keras archive")
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged archive
        reason = textwrap.shorten(str(error), 250, placeholder=" ...")
        raise ModelError(
            f"{path}: Keras {keras.__version__} cannot load it safely ({reason}). Restore it from "
            "a copy, update Keras, or import the module that defines the network's own layers."
        ) from error
    shape, output = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    square = isinstance(shape, tuple) and len(shape) == 4 and shape[1] == shape[2] is not None
    if not square or shape[3] != 1 or output != (None, 1) or model.inputs[0].dtype != "uint8":
        raise ModelError(
            f"{path}: the model maps {shape} to {output}; expected uint8 (None, S, S, 1) to "
            "(None, 1), as every model of this project does."
        )
    model.compile(jit_compile=keras.backend.backend() == "jax")  # by default TensorFlow takes XLA
    return model


def answering(model: keras.Model, few: bool) -> Callable[[Any], Any]:
    """Return a function that answers a batch of images in the least time.

    Args:
        model: The model, compiled.
        few: Whether there are so few images that tracing a graph, which takes seconds, is not
            worth it. JAX compiles whatever it computes, so it always takes the graph.
    """
    model = with_depthwise_kernels(model)
    if few and keras.backend.backend() != "jax":
        return functools.partial(model, training=False)
    return model.predict_on_batch
