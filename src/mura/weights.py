"""Where a backbone's weights come from, and what to say when they cannot be had."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path

import keras

from mura.files import InputError

# Where Keras's builders download from; asked whether it answers before a download is tried, so
# that a machine without a network is told what to do in seconds.
_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
_SECONDS = 5.0


class WeightsError(InputError):
    """Weights cannot be had, are damaged or belong to another architecture."""


@dataclass(frozen=True)
class WeightSource:
    """A resolved source; ``path`` is None for random weights and for those Keras downloads."""

    description: str  # "imagenet", "random", "file:NAME" or "run:NAME"
    path: Path | None = None


def resolve(weights: str | Path | None, file_name: str, strict: bool = True) -> WeightSource:
    """Find out where weights come from, and whether they can be had.

    Args:
        weights: As in ``architectures.build_with_weights``.
        file_name: Keras's own name of the architecture's ImageNet file; "" where none exists.
        strict: Whether weights that cannot be had are an error; otherwise one warning, and
            random initialisation.

    Raises:
        WeightsError: They cannot be had and ``strict`` is true.
    """
    if weights is None:
        return WeightSource("random")
    try:
        if weights == "imagenet":
            return _downloadable(file_name)
        return _local(Path(weights), file_name)
    except WeightsError as error:
        if strict:
            raise
        warnings.warn(f"{error} Training starts from random weights.", stacklevel=2)
        return WeightSource("random")


def load(model: keras.Model, backbone: keras.Model, source: WeightSource) -> None:
    """Put a source's weights into a model: the backbone, and a run's head where it fits.

    Raises:
        WeightsError: The file is damaged or belongs to another architecture.
    """
    if source.path is None:
        return
    if source.path.suffix == ".keras":
        _load_run(model, backbone, source.path)
        return
    try:
        backbone.load_weights(source.path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        raise WeightsError(
            f"{source.path}: these weights cannot be loaded into {model.name} "
            f"({' '.join(str(error).split())[:160]}); is it the right architecture, whole, and "
            "without the ImageNet head (its name ends in notop)?"
        ) from error


def _load_run(model: keras.Model, backbone: keras.Model, path: Path) -> None:
    from mura.runs import load_model

    donor = load_model(path)
    here = {layer.name: layer for layer in backbone.layers if layer.weights}
    there = {layer.name: layer for layer in donor.layers if layer.weights}
    shapes = [
        (name, [tuple(w.shape) for w in layer.weights])
        for name, layer in here.items()
        if name not in there
        or [tuple(w.shape) for w in layer.weights] != [tuple(w.shape) for w in there[name].weights]
    ]
    if shapes:
        raise WeightsError(
            f"{path}: a {donor.name}, not a {model.name} (its layer {shapes[0][0]} differs); "
            "fine-tuning needs a run of the same architecture."
        )
    for layer in model.layers:
        other = there.get(layer.name)
        fits = other is not None and [w.shape for w in layer.weights] == [
            w.shape for w in other.weights
        ]
        if layer.weights and fits:  # a head with other classes starts afresh
            layer.set_weights(other.get_weights())


def _local(path: Path, file_name: str) -> WeightSource:
    if (path / "model.keras").is_file():
        return WeightSource(f"run:{path.name}", path / "model.keras")
    if path.is_dir():
        file = path / file_name
        if not file_name or not file.is_file():
            raise WeightsError(
                f"{path}: holds no {file_name or 'weights for this architecture'}; put Keras's "
                "own file of that name there."
            )
        return WeightSource(f"file:{file.name}", file)
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights; name a weights file, a folder of Keras's weight files, a "
            "run, imagenet or none."
        )
    if path.suffix == ".keras":
        name = path.parent.name if path.name == "model.keras" else path.stem
        return WeightSource(f"run:{name}", path)
    if path.suffix != ".h5":
        raise WeightsError(f"{path}: expected a file that ends in .h5, .weights.h5 or .keras.")
    return WeightSource(f"file:{path.name}", path)


def _downloadable(file_name: str) -> WeightSource:
    """Return the source that Keras downloads from (once; then it has its own copy)."""
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    if not file_name:
        raise WeightsError("this architecture has no ImageNet weights; choose --weights none.")
    if not (folder / file_name).is_file():
        try:
            request = urllib.request.Request(_SERVER, method="HEAD")
            urllib.request.urlopen(request, timeout=_SECONDS).close()
        except urllib.error.HTTPError:
            return WeightSource("imagenet")  # it answers, if only that this page is not there
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"ImageNet weights cannot be downloaded ({' '.join(str(error).split())[:120]}): "
                f"put {file_name} into a folder and name it with --weights FOLDER, or choose "
                "--weights none."
            ) from error
    return WeightSource("imagenet")
