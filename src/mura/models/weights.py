"""Where a network's first weights come from: ImageNet, a file, or nowhere."""

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import keras

from mura.files import InputError
from mura.models.saved import load

# Keras's builders download from here. Asking first tells a machine without a network in seconds.
_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
_SECONDS = 5.0


class WeightsError(InputError):
    """Weights are missing, damaged or of another architecture."""


class DownloadError(WeightsError):
    """Keras cannot download weights here and now."""


@dataclass(frozen=True)
class Origin:
    """What a network's weights were before training."""

    description: str  # "imagenet", "random", "file:NAME" or "run:NAME"
    path: Path | None = None  # None for random weights and for those that Keras downloads


def find(weights: str | Path | None, file_name: str) -> Origin:
    """Find weights, or say in a few seconds that they cannot be had.

    Args:
        weights: As in ``models.build``.
        file_name: Keras's own name of the architecture's ImageNet file; "" where there is none.

    Raises:
        DownloadError: They would be downloaded, and there is no network.
        WeightsError: There are no such weights.
    """
    if weights in (None, "none"):
        return Origin("random")
    if weights == "imagenet":
        _refuse_unreachable(file_name)
        return Origin("imagenet")
    path = Path(weights).expanduser()
    if path.is_dir() and (path / "model.keras").is_file():
        path /= "model.keras"
    elif path.is_dir():
        path /= file_name or "weights of this architecture"
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights; name a weight file, a folder of Keras's own weight files, "
            "a run, imagenet or none."
        )
    if path.suffix == ".keras":
        name = path.resolve().parent.name if path.name == "model.keras" else path.stem
        return Origin(f"run:{name}", path)
    if path.suffix != ".h5":
        raise WeightsError(f"{path}: expected a file that ends in .h5 or .keras.")
    return Origin(f"file:{path.name}", path)


def fill(model: keras.Model, backbone: keras.Model, origin: Origin) -> None:
    """Load weights into the backbone, and a run's head where it fits.

    Raises:
        WeightsError: The file is damaged or belongs to another architecture.
    """
    if origin.path is None:
        return
    if origin.path.suffix == ".keras":
        _fill_from_run(model, backbone, origin.path)
        return
    try:
        backbone.load_weights(origin.path)
    except Exception as error:  # h5py and Keras raise many kinds for a file that does not fit
        raise WeightsError(
            f"{origin.path}: cannot be loaded into {model.name} "
            f"({' '.join(str(error).split())[:160]}). Take a whole file of the same architecture, "
            "without the ImageNet head (its name ends in notop)."
        ) from error


def download_error(file_name: str, reason: object) -> DownloadError:
    """Return the error that says what to do where a download fails."""
    return DownloadError(
        f"ImageNet weights cannot be downloaded ({' '.join(str(reason).split())[:250]}). Put "
        f"Keras's {file_name} into a folder and name that as weights (--weights FOLDER), or "
        "choose none."
    )


def _fill_from_run(model: keras.Model, backbone: keras.Model, path: Path) -> None:
    donor = load(path)
    names = [layer.name for layer in donor.layers]
    maps = donor.get_layer("feature_maps").output if "feature_maps" in names else donor.output
    # In order, not by name: Keras numbers unnamed layers anew with each network that it builds.
    here, there = _weighted(backbone), _weighted(keras.Model(donor.input, maps))
    if [_shapes(layer) for layer in here] != [_shapes(layer) for layer in there]:
        raise WeightsError(
            f"{path}: a {donor.name}, not a {model.name}; start from a run of that architecture."
        )
    for layer, other in zip(here, there, strict=True):
        layer.set_weights(other.get_weights())
    heads = {(layer.name, *_shapes(layer)): layer for layer in _weighted(donor)}
    for layer in _weighted(model)[len(here) :]:
        other = heads.get((layer.name, *_shapes(layer)))
        if other is not None:  # a head with other classes starts afresh
            layer.set_weights(other.get_weights())


def _weighted(network: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in network.layers if layer.weights]


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _refuse_unreachable(file_name: str) -> None:
    """Raise unless Keras has its own copy of a file already or can reach its server."""
    if not file_name:
        raise WeightsError("this architecture has no ImageNet weights; choose none.")
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if (home / "models" / file_name).is_file():
        return
    try:
        request = urllib.request.Request(_SERVER, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        return  # the server answers, if only that it has no such page
    except (OSError, ValueError) as error:
        raise download_error(file_name, error) from error
