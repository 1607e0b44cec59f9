"""Export a run to LiteRT, which answers at once: importing TensorFlow and Keras takes seconds."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path

import joblib
import numpy as np

from mura.files import InputError, read_json, write_atomically, write_json
from mura.runs import Run

EXPORTED = "model.tflite"  # beside model.keras in the run folder
DIGESTS = "model.tflite.json"  # SHA-256 of both files: which model the export was made from


class ExportError(InputError):
    """A model cannot be exported, or an exported one cannot be used."""


def export(run: Run) -> Path:
    """Write a run's model as ``model.tflite`` into its folder; return the file.

    Its probabilities agree with the Keras model's to 1e-3. ``mura predict`` uses it until
    ``model.keras`` changes.

    Raises:
        ExportError: The backend is not TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        found = f"KERAS_BACKEND is {keras.backend.backend()}: set it to tensorflow to export"
        raise ExportError(f"{found}; the run is the same for every backend.")
    made_from = _digest(run.folder / "model.keras")
    model = run.load_model()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / EXPORTED
        model.export(exported, format="litert", verbose=False)
        content = exported.read_bytes()
    # If this process is killed in between, no old digests may vouch for the new model; and a
    # stranger's link is removed, not followed.
    for name in (DIGESTS, EXPORTED):
        (run.folder / name).unlink(missing_ok=True)
    with write_atomically(run.folder / EXPORTED, "wb") as file:
        file.write(content)
    digests = {"model.keras": made_from, EXPORTED: hashlib.sha256(content).hexdigest()}
    write_json(run.folder / DIGESTS, digests)
    return run.folder / EXPORTED


def exported_model(run: Run) -> ExportedModel | None:
    """Open a run's export; None if there is none that matches its ``model.keras``.

    A warning says why a stale or damaged export is not used, or that the interpreter is missing.
    """
    path = run.folder / EXPORTED
    if not path.is_file():
        return None
    try:
        digests = dict(read_json(run.folder / DIGESTS))
    except (OSError, ValueError, TypeError):
        digests = {}
    try:
        for name in ("model.keras", EXPORTED):  # first: a damaged file may crash the interpreter
            if digests.get(name) != _digest(run.folder / name):
                raise ExportError(f"{path}: {name} was replaced or damaged after the export.")
        return ExportedModel(path)
    except ExportError as error:
        todo = f"{error} `mura export {run.name}` writes it anew"
        warnings.warn(f"{todo}; until then the slower model.keras answers instead.", stacklevel=2)
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ExportedModel:
    """A ``model.tflite`` that is called like the Keras model it came from.

    Raises:
        ExportError: The interpreter is missing, the file is not what :func:`export` writes, or an
            answer is not a probability.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter = Interpreter(str(path), num_threads=joblib.cpu_count())
            self._interpreter.allocate_tensors()
        except ModuleNotFoundError as error:
            text = "the package ai-edge-litert is missing (`pipenv install`)"
            raise ExportError(f"{path}: {text}.") from error
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"{path}: not a LiteRT model ({error}).") from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        shape = (*inputs[0]["shape"], 0, 0, 0)  # of a float vector, say
        expected = [((1, shape[1], shape[1], 1), np.uint8), ((1, 1), np.float32)]
        found = [(tuple(map(int, each["shape"])), each["dtype"]) for each in inputs + outputs]
        if found != expected:
            text = ", ".join(f"{np.dtype(dtype)} {shape}" for shape, dtype in found)
            raise ExportError(f"{path}: takes and gives {text}; expected an exported run.")
        self._path = path
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_shape = (None, *found[0][0][1:])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return P(abnormal) float32[B, 1] of uint8[B, S, S, 1]."""
        answers = np.empty((len(images), 1), np.float32)
        for row, image in enumerate(images):
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            answers[row] = self._interpreter.get_tensor(self._output)[0]
        outside = ~((answers >= 0) & (answers <= 1))  # NaN, too
        if outside.any():
            wrong = f"answers {answers[outside][0]:g}, which is not a probability"
            raise ExportError(f"{self._path}: {wrong}; `mura export RUN` writes it anew.")
        return answers
