"""Export a run to LiteRT, which answers without TensorFlow.

Importing TensorFlow and rebuilding a Keras model takes seconds before the first answer. The package
ai-edge-litert reads the exported file at once.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from pathlib import Path
from typing import Any

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

    Its probabilities agree with the Keras model's to 1e-3. ``mura predict`` uses it as long as
    ``model.keras`` does not change.

    Raises:
        ExportError: The backend is not TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"KERAS_BACKEND is {keras.backend.backend()}: set it to tensorflow to export; the run "
            "is the same for every backend."
        )
    made_from = _digest(run.folder / "model.keras")
    model = run.load_model()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / EXPORTED
        model.export(exported, format="litert", verbose=False)
        content = exported.read_bytes()
    # if this process is killed in between, no old digests may vouch for the new model; and a
    # stranger's link is removed, not followed
    for name in (DIGESTS, EXPORTED):
        (run.folder / name).unlink(missing_ok=True)
    with write_atomically(run.folder / EXPORTED, "wb") as file:
        file.write(content)
    digests = {"model.keras": made_from, EXPORTED: hashlib.sha256(content).hexdigest()}
    write_json(run.folder / DIGESTS, digests)
    return run.folder / EXPORTED


def exported_model(run: Run) -> ExportedModel | None:
    """Open a run's export, or return None if there is none that can replace its ``model.keras``.

    A stale or damaged export, or a missing interpreter, is passed over with a warning that says
    what to do.
    """
    path = run.folder / EXPORTED
    if not path.is_file():
        return None
    try:
        _check_digests(run)
        return ExportedModel(path)
    except ExportError as error:
        warnings.warn(f"{error} The slower model.keras answers instead.", stacklevel=2)
        return None


def _check_digests(run: Run) -> None:
    """Raise ExportError unless both files are what the digests name.

    The interpreter may crash on a damaged file, so this comes before opening it.
    """
    path, renew = run.folder / EXPORTED, f"`mura export {run.name}` writes it anew."
    try:
        digests = dict(read_json(run.folder / DIGESTS))
    except (OSError, ValueError, TypeError):
        raise ExportError(f"{path}: {DIGESTS} does not say which model this is; {renew}") from None
    if digests.get("model.keras") != _digest(run.folder / "model.keras"):
        raise ExportError(f"{path}: made from another model than the model.keras here; {renew}")
    if digests.get(EXPORTED) != _digest(path):
        raise ExportError(f"{path}: changed or damaged since it was exported; {renew}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ExportedModel:
    """A ``model.tflite`` that is called like the Keras model it came from."""

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            ExportError: The file is not what :func:`export` writes, or the interpreter is not
                installed.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise ExportError(
                f"{path}: reading it needs the package ai-edge-litert (`pipenv install`)."
            ) from error
        try:
            self._interpreter = Interpreter(str(path), num_threads=joblib.cpu_count())
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"{path}: not a LiteRT model ({error}).") from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        takes, gives = _described(inputs), _described(outputs)
        side = next((int(each["shape"][-2]) for each in inputs if len(each["shape"]) == 4), 0)
        if (takes, gives) != (f"uint8 (1, {side}, {side}, 1)", "float32 (1, 1)"):
            raise ExportError(
                f"{path}: the model maps {takes} to {gives}; expected uint8 (1, S, S, 1) to "
                "float32 (1, 1); `mura export RUN` writes it anew."
            )
        self._path = path
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_shape = (None, side, side, 1)

    def __call__(self, images: np.ndarray, training: bool = False) -> np.ndarray:
        """Return P(abnormal) float32[B, 1] of uint8[B, S, S, 1].

        Raises:
            ExportError: An answer is not a probability.
        """
        answers = np.empty((len(images), 1), np.float32)
        for row, image in enumerate(images):
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            answers[row] = self._interpreter.get_tensor(self._output)[0]
        outside = ~((answers >= 0) & (answers <= 1))  # NaN, too
        if outside.any():
            raise ExportError(
                f"{self._path}: answers {answers[outside][0]:g}, which is not a probability; "
                "`mura export RUN` writes it anew."
            )
        return answers

    predict_on_batch = __call__


def _described(tensors: list[dict[str, Any]]) -> str:
    """Return dtype and shape of an interpreter's tensors."""
    shapes = [(np.dtype(each["dtype"]).name, tuple(map(int, each["shape"]))) for each in tensors]
    return " and ".join(f"{dtype} {shape}" for dtype, shape in shapes)
