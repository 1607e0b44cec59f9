"""Where a backbone's weights come from, and what to say when they cannot be had."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keras

from mura.files import InputError, absolute, printable, project_folder
from mura.runs import Run, RunError, load_model, models_folder

if TYPE_CHECKING:
    import pandas as pd

# Where Keras's builders download from. Whether it answers is asked before a download is tried:
# a machine without a network is then told what to do in seconds.
_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
_SECONDS = 5.0


class WeightsError(InputError):
    """Weights cannot be had, are damaged or belong to another architecture."""


class DownloadError(WeightsError):
    """Keras cannot download weights here and now."""


@dataclass(frozen=True)
class WeightSource:
    """A resolved source; ``path`` is None for random weights and for those Keras downloads."""

    description: str  # "imagenet", "random", "file:NAME" or "run:NAME"
    path: Path | None = None


def among(weights: str | Path | None, models: str | Path | None) -> str | None:
    """Return the folder of the run of that name in another folder of runs, else ``weights``.

    As text, which is what a recipe's file can hold.

    Args:
        weights: As in ``architectures.build_with_weights``.
        models: The folder of the runs; None: that of the checkout, where ``resolve`` looks too.
    """
    weights = None if weights is None else str(weights)
    if weights in (None, "imagenet") or models is None:
        return weights
    folder = models_folder(models) / weights
    return str(folder) if (folder / "model.keras").is_file() else weights


def resolve(weights: str | Path | None, file_name: str = "") -> WeightSource:
    """Find out where weights come from, and whether they can be had, in a few seconds.

    Args:
        weights: As in ``architectures.build_with_weights``.
        file_name: Keras's own name of the architecture's ImageNet file; "" where none exists.

    Raises:
        DownloadError: They would be downloaded, and there is no network.
        WeightsError: There are no such weights.
    """
    if weights in (None, "none"):
        return WeightSource("random")
    if weights == "imagenet":
        _refuse_unreachable(file_name)
        return WeightSource("imagenet")
    return _local(Path(weights).expanduser(), file_name)


def lineage(weights: str | Path | None) -> list[Run]:
    """Return the run that weights come from, the run that one started from, and so on.

    It ends at weights that come from elsewhere, and at a run that is gone or incomplete.

    Raises:
        InputError: The recipe of one of them cannot be read.
    """
    runs: dict[Path, Run] = {}
    places = [weights]
    while places:
        run = None
        with contextlib.suppress(WeightsError, RunError):
            file = resolve(places.pop(0)).path
            run = Run.load(file.parent) if file and file.name == "model.keras" else None
        if run is None or run.folder.resolve() in runs:
            continue
        runs[run.folder.resolve()] = run
        if before := run.recipe.get("weights"):
            # A path is of where that training was started, and may lead elsewhere from here; runs
            # are mostly beside each other. Better one too many than one left out.
            path = Path(before)
            name = path.parent.name if path.name == "model.keras" else path.name
            places += [before, run.folder.parent / name]
    return list(runs.values())


def located(weights: str | Path | None) -> str | None:
    """Return weights with the whole path to them, the same from wherever they are named."""
    if weights in (None, "imagenet"):
        return weights
    with contextlib.suppress(WeightsError):
        file = resolve(weights).path
        return str(absolute(file.parent if file.name == "model.keras" else file))
    return str(absolute(Path(weights).expanduser()))


def refuse_patients_seen_before(weights: str | Path | None, manifest: pd.DataFrame) -> None:
    """Raise where a run that weights come from was fitted on patients that are held out now.

    Args:
        weights: As in ``architectures.build_with_weights``.
        manifest: As ``training_data.read_parts`` returns it.

    Raises:
        WeightsError: The results would look too good.
    """
    held_out = set(manifest.loc[manifest["part"].isin(["tune", "valid"]), "patient"])
    for run in lineage(weights):
        # Most are shared with a run of this data, whose lists may have changed since. Patients of
        # other data may have the same names.
        if run.predictions["path"].isin(manifest["path"]).mean() < 0.5:
            continue
        if seen := held_out.intersection(run.split.loc[run.split["part"] == "fit", "patient"]):
            raise WeightsError(
                f"{run.folder}: was fitted on {len(seen)} of the patients that this training "
                "holds out, so its results would look too good; take other weights, or the "
                "split_seed and tune_fraction of that run's recipe, and its lists and labels: "
                "these decide who is held out."
            )


@contextlib.contextmanager
def downloading(file_name: str) -> Iterator[None]:
    """Turn whatever goes wrong while Keras downloads a file into a DownloadError."""
    try:
        yield
    except (TypeError, AttributeError):  # a builder that takes other settings
        raise
    except Exception as error:  # Keras raises a bare Exception
        raise _download_error(file_name, str(error)) from error


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
    donor = load_model(path)
    if "feature_maps" not in [layer.name for layer in donor.layers]:
        raise WeightsError(
            f"{path}: a network that this project did not build; fine-tuning needs a run of the "
            "same architecture."
        )
    maps = donor.get_layer("feature_maps").output
    # In order, not by name: Keras numbers unnamed layers anew with each network it builds.
    here, there = _weighted(backbone), _weighted(keras.Model(donor.input, maps))
    if [_shapes(layer) for layer in here] != [_shapes(layer) for layer in there]:
        raise WeightsError(
            f"{path}: a {donor.name}, not a {model.name}; fine-tuning needs a run of the same "
            "architecture."
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


def _local(path: Path, file_name: str) -> WeightSource:
    if not path.exists():  # a notebook runs in its own folder, and a run has a name alone
        elsewhere = (project_folder() / path, project_folder() / "models" / path)
        path = next((place for place in elsewhere if place.exists()), path)
    if (path / "model.keras").is_file():
        return WeightSource(f"run:{printable(path.resolve().name)}", path / "model.keras")
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
        name = path.resolve().parent.name if path.name == "model.keras" else path.stem
        return WeightSource(f"run:{printable(name)}", path)
    if path.suffix != ".h5":
        raise WeightsError(f"{path}: expected a file that ends in .h5, .weights.h5 or .keras.")
    return WeightSource(f"file:{path.name}", path)


def _refuse_unreachable(file_name: str) -> None:
    """Raise unless Keras has its own copy of a file already or can reach its server."""
    if not file_name:
        raise WeightsError('this architecture has no ImageNet weights; set weights to "none".')
    # the second is where Keras keeps them when the first cannot be written
    folders = [
        Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser(),
        Path("/", "tmp", ".keras"),
    ]
    if any((folder / "models" / file_name).is_file() for folder in folders):
        return
    reasons: queue.Queue[str] = queue.Queue()
    # In a thread, because a time limit of urlopen covers neither the look-up of the server's name
    # nor the sum over its addresses.
    threading.Thread(target=lambda: reasons.put(_reach(_SERVER)), daemon=True).start()
    try:
        reason = reasons.get(timeout=_SECONDS)
    except queue.Empty:
        reason = f"no answer within {_SECONDS:.0f} seconds"
    if reason:
        raise _download_error(file_name, reason)


def _reach(address: str) -> str:
    """Return why a server cannot be reached, or "" when it can."""
    try:
        request = urllib.request.Request(address, method="HEAD")
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        return ""  # it answers, if only that this page is not there
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def _download_error(file_name: str, reason: str) -> DownloadError:
    return DownloadError(
        f"ImageNet weights cannot be downloaded ({' '.join(reason.split())[:250]}): put "
        f"Keras's {file_name} into a folder and set weights to that (--weights FOLDER), or to none."
    )
