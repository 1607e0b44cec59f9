"""Export a run to LiteRT: predictions in a blink, without TensorFlow.

Importing TensorFlow and rebuilding a Keras model takes seconds before the first answer. The
exported file is read by a small interpreter (the package ai-edge-litert) instead.
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

    Probabilities agree with the Keras model's to 1e-3; ``mura predict`` uses the file as long as
    ``model.keras`` is the one it was made from (``DIGESTS`` beside it says so). It takes seconds
    for the custom CNN and some twenty for DenseNet-121 (``benchmarks/prediction.py`` prints how
    long), which is why a training does not export by itself.

    Raises:
        ExportError: The backend is not TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"KERAS_BACKEND is {keras.backend.backend()}: exporting needs tensorflow; the run "
            "itself is the same for every backend."
        )
    before = _digest(run.folder / "model.keras")
    model = run.load_model()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / EXPORTED
        model.export(exported, format="litert", verbose=False)
        content = exported.read_bytes()
    # The digests are there only while both files are what they name: killed in between, the run
    # has no export. Where a stranger's run has links, what they lead to is not written over.
    for name in (DIGESTS, EXPORTED):
        (run.folder / name).unlink(missing_ok=True)
    with write_atomically(run.folder / EXPORTED, "wb") as file:
        file.write(content)
    digests = {"model.keras": before, EXPORTED: hashlib.sha256(content).hexdigest()}
    write_json(run.folder / DIGESTS, digests)
    return run.folder / EXPORTED


def exported_model(run: Run) -> ExportedModel | None:
    """Open a run's export; None where there is none that can stand for its ``model.keras``.

    A stale or damaged export, or one whose interpreter is not installed, is passed over with a
    warning that says what to do.
    """
    if not (run.folder / EXPORTED).is_file():
        return None
    reason = _unusable(run)
    if not reason:
        try:
            return ExportedModel(run.folder / EXPORTED)
        except ExportError as error:
            reason = str(error)
    warnings.warn(f"{reason} The slower model.keras answers instead.", stacklevel=2)
    return None


def _unusable(run: Run) -> str:
    """Say why the exported file may not be used, "" where it may."""
    path, renew = run.folder / EXPORTED, f"`mura export {run.name}` writes it anew."
    try:
        digests = dict(read_json(run.folder / DIGESTS))
    except (OSError, ValueError, TypeError):
        return f"{path}: nothing says which model it was made from ({DIGESTS}); {renew}"
    if digests.get("model.keras") != _digest(run.folder / "model.keras"):
        return f"{path}: made from another model than the model.keras beside it; {renew}"
    # not opened at all: the interpreter may crash on a damaged file
    if digests.get(EXPORTED) != _digest(path):
        return f"{path}: changed or damaged since it was exported; {renew}"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ExportedModel:
    """A ``model.tflite``: called like the Keras model it came from."""

    def __init__(self, path: str | Path) -> None:
        """Open the file.

        Raises:
            ExportError: It is missing, damaged or of another kind than what :func:`export`
                writes, or the interpreter is not installed.
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
            self._interpreter = Interpreter(str(path), num_threads=joblib.cpu_count())
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ExportError(
                f"{path}: not a LiteRT model ({error}); `mura export RUN` writes it anew."
            ) from error
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        takes, gives = _described(inputs), _described(outputs)
        side = takes[0][1][-2] if takes and len(takes[0][1]) == 4 else 0
        if takes != [("uint8", (1, side, side, 1))] or gives != [("float32", (1, 1))]:
            raise ExportError(
                f"{path}: the model maps {_listed(takes)} to {_listed(gives)}; expected uint8 "
                "(1, S, S, 1) to float32 (1, 1); `mura export RUN` writes it anew."
            )
        self._path = path
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self.input_shape = (None, side, side, 1)

    def __call__(self, images: np.ndarray, training: bool = False) -> np.ndarray:
        """Return P(abnormal) float32[B, 1] of uint8[B, S, S, 1], one image at a time.

        Raises:
            ExportError: An answer is no probability.
        """
        if training:
            raise ValueError("an exported model only predicts; train the run's Keras model.")
        answers = np.empty((len(images), 1), np.float32)
        for row, image in enumerate(images):
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            answers[row] = self._interpreter.get_tensor(self._output)[0]
        outside = ~((answers >= 0) & (answers <= 1))  # of NaN, too
        if outside.any():
            raise ExportError(
                f"{self._path}: answers {answers[outside][0]:g}, which is not a probability; "
                "`mura export RUN` writes it anew."
            )
        return answers

    predict_on_batch = __call__


def _described(tensors: list[dict[str, Any]]) -> list[tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of an interpreter's tensors."""
    return [
        (np.dtype(tensor["dtype"]).name, tuple(map(int, tensor["shape"]))) for tensor in tensors
    ]


def _listed(described: list[tuple[str, tuple[int, ...]]]) -> str:
    return " and ".join(f"{dtype} {shape}" for dtype, shape in described) or "nothing"
