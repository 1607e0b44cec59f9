"""Export a run to LiteRT, which answers at once: importing TensorFlow and Keras takes seconds.

The file is one that LiteRT reads, with a zip archive behind it, as LiteRT's own metadata are
(ai.google.dev/edge/litert/models/metadata): ``export.json`` tells what the answers mean,
``README.md`` is the model card.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
import threading
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np

from mura.files import InputError, write_atomically
from mura.runs import Run

if TYPE_CHECKING:  # an exported model answers without Keras
    import keras

EXPORTED = "model.tflite"  # beside model.keras in the run folder
ONNX = "model.onnx"
FACTS, CARD = "export.json", "README.md"


class ExportError(InputError):
    """A model cannot be exported, or an exported one cannot be used."""


def answering_model(
    model: keras.Model, novelty: dict[str, np.ndarray] | None = None, maps: bool = True
) -> keras.Model:
    """Return a model of the same layers that tells all about an image: uint8[B, S, S, 1] to a dict.

    ``probability`` float32[B, 1]; ``map`` float32[B, S, S] in 0-1, where ``maps`` are wanted and
    the network has them (``explain.cam``); ``distance`` float32[B, 1], where ``novelty``
    (``Run.novelty``) is given.
    """
    import keras

    from mura.explain.cam import LocalizationError, map_of
    from mura.models import novelty as novelty_module

    outputs = {"probability": model.outputs[0]}
    if maps:
        with contextlib.suppress(LocalizationError):
            outputs["map"] = map_of(model)
    if novelty:
        outputs["distance"] = novelty_module.distance(model, novelty)
    # named anew, because Keras names the exported tensors by these layers
    outputs = {name: keras.layers.Identity(name=name)(each) for name, each in outputs.items()}
    asked = keras.Model(model.inputs[0], outputs, name=model.name)
    asked.compile(jit_compile=keras.backend.backend() == "jax")  # as in ``models.load``
    return asked


def export(run: Run, format: str = "litert", half: bool = False) -> Path:
    """Write a run's ``answering_model`` into its folder; return the file.

    Args:
        run: Its probabilities and maps agree with the Keras model's to 1e-3.
        format: ``"litert"``: ``model.tflite``, which ``mura predict`` uses until ``model.keras``
            changes; ``"onnx"``: ``model.onnx``, for other software.
        half: Whether LiteRT's weights have 16 bits: half the size, maps agree to 0.05.

    Raises:
        ExportError: The backend is not TensorFlow, or the packages that write ONNX are missing.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        found = f"KERAS_BACKEND is {keras.backend.backend()}: set it to tensorflow to export"
        raise ExportError(f"{found}; the run is the same for every backend.")
    made_from = _digest(run.folder / "model.keras")
    model = answering_model(run.load_model(), run.novelty)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / (ONNX if format == "onnx" else EXPORTED)
        if format == "onnx":
            model = _for_onnx(model)
            try:
                model.export(file, format="onnx", verbose=False)
            except ImportError as error:
                todo = "`pip install tf2onnx onnx` into this environment"
                raise ExportError(
                    f"ONNX needs packages that are missing ({error}); {todo}."
                ) from error
            content = file.read_bytes()
        else:
            import tensorflow as tf

            bits = {"target_spec": {"supported_types": [tf.float16]}}
            bits["optimizations"] = [tf.lite.Optimize.DEFAULT]
            model.export(file, format="litert", verbose=False, **(bits if half else {}))
            content = _with_facts(file.read_bytes(), run, made_from)
    path = run.folder / file.name
    path.unlink(missing_ok=True)  # a stranger's link is removed, not followed
    with write_atomically(path, "wb") as writing:
        writing.write(content)
    return path


def exported_model(run: Run) -> ExportedModel | None:
    """Open a run's export; None if there is none that matches its ``model.keras``.

    A warning says why a stale or damaged export is not used, or that the interpreter is missing.
    """
    path = run.folder / EXPORTED
    if not path.is_file():
        return None
    try:
        exported = ExportedModel(path)
        if exported.facts["model.keras"] != _digest(run.folder / "model.keras"):
            raise ExportError(f"{path}: model.keras was replaced or damaged after the export.")
        return exported
    except ExportError as error:
        todo = f"{error} `mura export {run.name}` writes it anew"
        warnings.warn(f"{todo}; until then the slower model.keras answers instead.", stacklevel=2)
        return None


def _for_onnx(model: keras.Model) -> keras.Model:
    """Return a model of the same layers in operations that tf2onnx can convert."""
    import keras
    import tensorflow as tf

    from mura.models import with_depthwise_kernels

    def call(layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if getattr(layer, "activation", None) is keras.activations.gelu:
            [x] = arguments  # Keras's takes erfc, which tf2onnx lacks
            return x * (0.5 + 0.5 * keras.ops.erf(x * 0.5**0.5))
        # a tensor that a graph only holds would become a further input
        constants = [np.asarray(each) if tf.is_tensor(each) else each for each in arguments]
        return layer(*constants, **keywords)

    def same(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Normalization):
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
        return layer

    copy = with_depthwise_kernels(model)
    copy = keras.models.clone_model(copy, clone_function=same, call_function=call)
    copy(np.zeros((1, *copy.input_shape[1:]), np.uint8))  # Keras asks for a first call
    return copy


def _with_facts(network: bytes, run: Run, made_from: str) -> bytes:
    """Return a LiteRT file's bytes with the zip archive behind them."""
    facts = {
        "name": run.name,
        "data": run.environment["data"]["name"],
        "model.keras": made_from,
        "bytes": len(network),
        "sha256": hashlib.sha256(network).hexdigest(),
        "decisions": run.decisions,
        "threshold": float(run.novelty["threshold"]) if run.novelty else None,
    }
    whole = io.BytesIO(network)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FACTS, json.dumps(facts, indent=2))
        archive.write(run.folder / CARD, CARD)
    return whole.getvalue()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LoadedModel:
    """A Keras model, of a run or alone, that is called like an :class:`ExportedModel`.

    ``few`` is as in ``models.answering``, ``maps`` as in ``answering_model``.
    """

    def __init__(
        self, model: keras.Model, run: Run | None = None, few: bool = True, maps: bool = False
    ) -> None:
        from mura import models

        novelty = run.novelty if run else None
        self.data = run.environment["data"]["name"] if run else ""
        self.decisions = run.decisions if run else None
        self.threshold = float(novelty["threshold"]) if novelty else None
        self.input_shape = model.input_shape
        self._answer = models.answering(answering_model(model, novelty, maps), few)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what ``answering_model`` returns for uint8[B, S, S, 1]."""
        return {name: np.asarray(each) for name, each in self._answer(images).items()}


class ExportedModel:
    """A ``model.tflite`` that is called like the ``answering_model`` it came from.

    Threads may share it. ``name`` is the run's, ``data`` its data set's, ``card`` its model card,
    ``decisions`` what ``evaluation.fit_decisions`` returned, ``threshold`` the largest usual
    distance (these two None if the run has none).

    Raises:
        ExportError: The interpreter is missing, the file is damaged or not what :func:`export`
            writes, or an answer is not a probability.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        content = self.path.read_bytes()
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                self.facts: dict[str, Any] = json.loads(archive.read(FACTS))
                self.card = archive.read(CARD).decode()
            network = content[: self.facts["bytes"]]
            # first: a damaged file may crash the interpreter
            whole = hashlib.sha256(network).hexdigest() == self.facts["sha256"]
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            found = "damaged, or not by this version's `mura export`"
            raise ExportError(f"{self.path}: {found}; `mura export RUN` writes it anew.")
        try:
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(model_content=network, num_threads=joblib.cpu_count())
            self._answer = interpreter.get_signature_runner()
        except ModuleNotFoundError as error:
            text = "the package ai-edge-litert is missing (`pipenv install`)"
            raise ExportError(f"{self.path}: {text}.") from error
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"{self.path}: not a LiteRT model ({error}).") from error
        inputs = self._answer.get_input_details()
        found = [(each["dtype"], *map(int, each["shape"])) for each in inputs.values()]
        outputs = set(self._answer.get_output_details())
        square = [(np.uint8, 1, found[0][-2], found[0][-2], 1)]
        if found != square or not {"probability"} <= outputs <= {"probability", "map", "distance"}:
            text = f"takes {found} and gives {sorted(outputs)}; expected an exported run"
            raise ExportError(f"{self.path}: {text}.")
        [self._input] = inputs
        self.input_shape = (None, *found[0][2:])
        self.name, self.data = self.facts["name"], self.facts["data"]
        self.decisions, self.threshold = self.facts["decisions"], self.facts["threshold"]
        self._lock = threading.Lock()  # the interpreter answers one at a time

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return what ``answering_model`` returns for uint8[B, S, S, 1]."""
        with self._lock:
            answers = [self._answer(**{self._input: image[None]}) for image in images]
        found = {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}
        probability = found["probability"]
        outside = ~((probability >= 0) & (probability <= 1))  # NaN, too
        if outside.any():
            wrong = f"answers {probability[outside][0]:g}, which is not a probability"
            raise ExportError(f"{self.path}: {wrong}; `mura export RUN` writes it anew.")
        return found
