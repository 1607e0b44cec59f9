"""Export a run to LiteRT: predictions in a blink, without TensorFlow.

Importing TensorFlow and rebuilding a Keras model takes seconds before the first answer. The
exported file is read by a small interpreter (the package ai-edge-litert) instead.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from mura.files import InputError, write_atomically
from mura.runs import Run

EXPORTED = "model.tflite"  # beside model.keras in the run folder


class ExportError(InputError):
    """A model cannot be exported, or an exported one cannot be used."""


def export(run: Run) -> Path:
    """Write a run's model as ``model.tflite`` into its folder; return the file.

    Probabilities agree with the Keras model's to 1e-3; ``mura predict`` uses the file where it
    is there.

    Raises:
        ExportError: The backend is not TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"KERAS_BACKEND is {keras.backend.backend()}: exporting needs tensorflow; the run "
            "itself is the same for every backend."
        )
    model = run.load_model()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / EXPORTED
        model.export(exported, format="litert", verbose=False)
        content = exported.read_bytes()
    with write_atomically(run.folder / EXPORTED, "wb") as file:
        file.write(content)
    return run.folder / EXPORTED


class ExportedModel:
    """A ``model.tflite``: called like the Keras model it came from."""

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            ExportError: It is missing or damaged.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise ExportError(
                f"{path}: reading it needs the package ai-edge-litert (`pipenv install`)."
            ) from error
        if not Path(path).is_file():
            raise ExportError(f"{path}: no such file; `mura export RUN` writes it.")
        try:
            self._interpreter = Interpreter(str(path))
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ExportError(
                f"{path}: not a LiteRT model ({error}); delete it, `mura export RUN` writes it anew."
            ) from error
        [image] = self._interpreter.get_input_details()
        [output] = self._interpreter.get_output_details()
        self._input, self._output = image["index"], output["index"]
        self.input_shape = (None, *(int(side) for side in image["shape"][1:]))

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Return P(abnormal) float32[B, 1] of uint8[B, S, S, 1], one image at a time."""
        answers = np.empty((len(images), 1), np.float32)
        for row, image in enumerate(images):
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            answers[row] = self._interpreter.get_tensor(self._output)[0]
        return answers
