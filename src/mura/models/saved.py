"""Load saved models without trusting them."""

import functools
import re
import tempfile
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mura.files import InputError
from mura.models.depthwise import with_depthwise_kernels
from mura.models.settings import settle


class ModelError(InputError):
    """A model file is missing, damaged, unsafe or of another kind than this project's."""


def load(path: str | Path) -> keras.Model:
    """Load a ``.keras`` file in safe mode: nothing in it is executed or unpickled.

    Returns:
        uint8[B, S, S, 1] in 0-255 to float32[B, 1], the probability of *abnormal*.

    Raises:
        ModelError: The file is missing, damaged, no Keras model, or has another input or output.
    """
    settle()
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


def refuse_unloadable(model: keras.Model) -> None:
    """Raise ModelError where a network, saved and loaded again, is not the same network.

    A plain function as an activation, initializer, regularizer or constraint, a ``Lambda`` and an
    unregistered layer are else found out after the training.
    """
    remedy = (
        "use Keras's own layers but Lambda, and register your classes and functions with "
        "keras.saving.register_keras_serializable"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            model.save(file)
            loaded = keras.saving.load_model(file, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises many kinds
            named = re.search(r"Could not locate \w+ '[^']+'", str(error))
            reason = named[0] if named else textwrap.shorten(str(error), 160, placeholder=" ...")
            raise ModelError(
                f"{model.name}: a saved copy could not be loaded again ({reason}); {remedy}."
            ) from error
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, *model.input_shape[1:]), dtype=np.uint8)
    answers = [np.asarray(each(images, training=False)) for each in (model, loaded)]
    if not np.allclose(*answers, rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"{model.name}: a saved copy gives other answers than the network itself; {remedy}."
        )


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
