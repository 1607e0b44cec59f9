"""Train by a recipe, as the notebooks do cell by cell, and write the run folder."""

import contextlib
import dataclasses
import datetime
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import keras
import numpy as np
import pandas as pd

from mura import data, models, runs
from mura.data import Batches, RadiographBatches
from mura.evaluation import (
    PredictionsError,
    fit_decisions,
    labelled,
    run_metrics,
    study_predictions,
)
from mura.files import write_json
from mura.models import novelty
from mura.runs import DECISIONS, NOVELTY, Run, RunError, models_folder
from mura.training import device, devices
from mura.training.checkpoint import Checkpoint, history_row
from mura.training.loop import build, compose, stages, verbose
from mura.training.model_card import model_card
from mura.training.progress import identify
from mura.training.recipes import Recipe
from mura.training.start import TrainingError, refuse_patients_seen_before, weight_file

_PACKAGES = ("xray-classification", "keras", "tensorflow", "jax", "numpy", "pandas", "scikit-learn")


def train(
    recipe: Recipe,
    root: str | Path | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    replace: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    spread_over: str | None = None,
) -> Run:
    """Train by a recipe, keep the best epoch on the tune part, and write the run folder.

    Args:
        recipe: Everything about the training except the data.
        root: The data folder; None: as in ``data.prepare``, which may draw the phantom.
        name: The run's name; ``recipe.run_name`` when None.
        folder: The folder that runs stand in; the checkout's ``models/`` when None.
        resume: Continue an unfinished training of this name, and return a finished one of the
            same recipe, images' names and labels as it is.
        replace: As in ``Checkpoint``.
        callbacks: Further Keras callbacks.
        spread_over: Devices, as in ``devices.spread``. Of several processes all return the run,
            and one writes it.

    Raises:
        InputError: The data, the recipe or the name does not allow it; the message says why.
    """
    with devices.spread(spread_over):
        devices.refuse_ragged(recipe.batch_size)
        # first, so that weights that cannot be had cost no time; a joint head waits for the data
        model = build(recipe, folder) if recipe.head == "binary" or recipe.body_parts else None
        root = data.prepare(root)
        manifest = data.read(root)
        recipe = recipe.replace(body_parts=recipe.body_parts or data.body_parts(manifest))
        model = model or build(recipe, folder)
        batches = data.batches(manifest, root, recipe, devices.count(), devices.process())
        if resume and (finished := finished_run(recipe, batches, name, folder)):
            return finished
        checkpoint = Checkpoint(model, recipe, batches, name, folder, resume, replace)
        trainer = compose(model, recipe)
        print(describe(checkpoint), flush=True)
        for stage in stages(checkpoint):
            trainer.compile(stage.optimizer, stage.loss, weighted_metrics=stage.metrics)
            trainer.fit(
                batches.fit,
                validation_data=batches.tune,
                epochs=stage.epochs,
                shuffle=False,  # the batches are shuffled already
                callbacks=[checkpoint, *callbacks],
                verbose=verbose(),
            )
        keras.distribution.set_distribution(None)  # what is saved computes on one device
        first = devices.process()[0] == 0
        run = save(trainer, checkpoint) if first else Run(checkpoint.folder)
        devices.wait_for_all("the run is written")
        return run


def describe(checkpoint: Checkpoint) -> str:
    """Return one line that says what is trained, from which weights, on how much and with what."""
    recipe, plan = checkpoint.recipe, device.plan(checkpoint.recipe)
    share = f" ({recipe.train_fraction:.0%} of the patients)" if recipe.train_fraction < 1 else ""
    number = f"{checkpoint.devices} x " if checkpoint.devices > 1 else ""
    return (
        f"{recipe.architecture} by {recipe.profile}: "
        f"{checkpoint.model_to_save.count_params():,} parameters, {checkpoint.origin} weights, "
        f"{len(checkpoint.batches.fit.rows):,} images of "
        f"{recipe.image_size} px{share}, {number}{plan.device}, {plan.precision}"
        f"{', XLA' if plan.jit_compile else ''}"
    )


def save(trainer: keras.Model, checkpoint: Checkpoint) -> Run:
    """Write the run folder of a training, with predictions of its tune and valid parts.

    The weights are those of the best epoch, if ``checkpoint`` was among the callbacks of ``fit``;
    else those that the network has now, and the model card says so.

    Args:
        trainer: What was fitted, as ``compose`` returns it.
        checkpoint: Of the training.

    Raises:
        TrainingError: The tune loss was never a number, or nothing was fitted.
        ManifestError: A patient that the network was fitted on is in the tune or valid part.
        WeightsError: The network started from a run that was fitted on such a patient.
    """
    batches, origin = checkpoint.batches, checkpoint.model_to_save.origin
    data.refuse_shared_patients(pd.concat([batches.manifest, _fitted(batches)]))
    refuse_patients_seen_before(origin.path and str(origin.path), batches.manifest)
    watched, history, weights = _outcome(trainer, checkpoint)
    # The saved model computes in float32 whatever it was trained in: it gives the same answers
    # on every machine but for rounding, at full speed on processors without bfloat16.
    recipe = checkpoint.recipe
    final = models.build(
        recipe.architecture,
        recipe.image_size,
        head=recipe.head,
        body_parts=len(recipe.body_parts),
        dropout=recipe.dropout,
    )
    final.set_weights(weights)
    facts = _facts(trainer, checkpoint, watched, history)
    run = _write(checkpoint, final, pd.DataFrame(history), facts)
    checkpoint.remove()
    return run


def finished_run(
    recipe: Recipe, batches: Batches, name: str | None = None, folder: str | Path | None = None
) -> Run | None:
    """Return the complete run of this recipe and data, None where there is none."""
    weights = weight_file(recipe.weights, folder)
    try:
        run = Run.load(models_folder(folder) / (name or recipe.run_name))
        identity = run.environment["data"].get("identity")
    except RunError:  # missing, or damaged
        return None
    return run if identity == identify(recipe, batches.manifest, weights) else None


def predict_parts(
    model: keras.Model, batches: Batches, parts: Sequence[str], batch_size: int
) -> pd.DataFrame:
    """Return the predictions table (``Run.predictions``) of some parts, in manifest order."""
    chosen = batches.manifest[batches.manifest["part"].isin(parts)]
    if chosen.empty:
        raise TrainingError(f"{batches.root}: no images in {' or '.join(parts)}.")
    images = RadiographBatches(batches.pixels, chosen.index.to_numpy(), batch_size=batch_size)
    probability = models.with_depthwise_kernels(model).predict(images, verbose=0)[:, 0]
    columns = ["path", "study", "view", "body_part", "patient", "part", "label"]
    table = chosen[columns].rename(columns={"part": "split"})
    return table.assign(probability=probability.astype(np.float64)).reset_index(drop=True)


def write_answering(
    folder: Path,
    model: keras.Model,
    predictions: pd.DataFrame,
    pixels: np.ndarray,
    fit_rows: np.ndarray,
    tune_rows: np.ndarray,
) -> None:
    """Write what a run's answers need: ``calibration.json`` and ``novelty.npz``.

    Without labelled tune studies of both classes there is no ``calibration.json``. ``predictions``
    are as ``predict_parts`` returns them, the others as for ``novelty.fit``.
    """
    with contextlib.suppress(PredictionsError):
        tune = study_predictions(labelled(predictions), split="tune")
        write_json(folder / DECISIONS, fit_decisions(tune))
    np.savez(folder / NOVELTY, **novelty.fit(model, pixels, fit_rows, tune_rows))


def _fitted(batches: Batches) -> pd.DataFrame:
    """Return the rows that the network was fitted on, whatever part the manifest says."""
    return batches.manifest.iloc[batches.fit.rows].assign(part="fit")


def _outcome(
    trainer: keras.Model, checkpoint: Checkpoint
) -> tuple[bool, list[dict[str, Any]], list[np.ndarray]]:
    """Return whether ``checkpoint`` watched the training, its history and the weights to keep."""
    kept = getattr(trainer, "history", None)
    logs = kept.history if kept else {}  # Keras's own: of the last ``fit``
    rows = [dict(zip(logs, values, strict=True)) for values in zip(*logs.values(), strict=True)]
    rows = [history_row("all", epoch, row) for epoch, row in enumerate(rows, 1)]
    watched = checkpoint.watched or not rows
    history = checkpoint.progress.history if watched else rows
    weights = checkpoint.best if watched else checkpoint.model_to_save.get_weights()
    if not history:
        raise TrainingError(f"{checkpoint.folder.name}: nothing was fitted, so there is no run.")
    if weights is None:
        raise TrainingError(
            f"{checkpoint.folder.name}: the tune loss was never a number, so there is no best "
            "epoch; take a smaller learning_rate (a setting of the recipe)."
        )
    return watched, history, weights


def _facts(
    trainer: keras.Model, checkpoint: Checkpoint, watched: bool, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what environment.json holds."""
    recipe, batches, progress = checkpoint.recipe, checkpoint.batches, checkpoint.progress
    used = batches.manifest[batches.manifest["part"] != "unused"].groupby("part")
    # the first epoch pays for tracing the graph
    speeds = progress.images_per_second[1:] or progress.images_per_second or [0.0]
    optimizer = getattr(trainer, "optimizer", None)  # a training that was over is not compiled
    optimizer = type(optimizer).__name__ if optimizer else progress.optimizer
    installed = {each.metadata["Name"] for each in metadata.distributions()}
    return {
        "data": {
            "name": data.data_name(batches.root),
            "note": data.data_note(batches.root, batches.manifest),
            "body_parts": list(data.body_parts(batches.manifest)),
            "images": used.size().to_dict(),
            "patients": used["patient"].nunique().to_dict(),
            "identity": progress.identity,
        },
        "weights": checkpoint.origin,
        "parameters": int(checkpoint.model_to_save.count_params()),
        "compute": dataclasses.asdict(device.plan(recipe)) | {"devices": checkpoint.devices},
        "optimizer": optimizer.removeprefix("Fused"),
        "epochs": len(history),
        "best_epoch": progress.best_epoch if watched else history[-1]["epoch"],
        "kept": "best epoch" if watched and recipe.keep == "best" else "last epoch",
        "diverged": progress.diverged,
        "best_tune_loss": progress.best_loss if watched else history[-1].get("tune_loss"),
        "training_seconds": round(progress.seconds, 2),
        "images_per_second": round(float(np.median(speeds)), 1),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
            "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
            **{name: metadata.version(name) for name in _PACKAGES if name in installed},
        },
    }


def _write(
    checkpoint: Checkpoint, final: keras.Model, history: pd.DataFrame, facts: dict[str, Any]
) -> Run:
    recipe, batches = checkpoint.recipe, checkpoint.batches
    split = pd.concat([batches.manifest, _fitted(batches)])[["patient", "part"]]
    split = split[split["part"] != "unused"].drop_duplicates().sort_values(["patient", "part"])

    def write(folder: Path) -> None:
        models.abnormal_model(final).save(folder / "model.keras")
        # what predicts is the model as it was saved; a training step holds the maps of all
        # layers, prediction only of two at a time
        saved = models.load(folder / "model.keras")
        batch_size = min(64, 4 * recipe.batch_size)
        predictions = predict_parts(saved, batches, ("tune", "valid"), batch_size)
        metrics = run_metrics(predictions)
        tables = {"history": history, "predictions": predictions, "split": split}
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        tune_rows = np.flatnonzero(batches.manifest["part"] == "tune")
        write_answering(folder, saved, predictions, batches.pixels, batches.fit.rows, tune_rows)
        contents = {"recipe": recipe.to_dict(), "environment": facts, "metrics": metrics}
        for name, content in contents.items():
            write_json(folder / f"{name}.json", content)
        card = model_card(checkpoint.folder.name, recipe.to_dict(), facts, metrics)
        (folder / "README.md").write_text(card, encoding="utf-8")

    return runs.write(checkpoint.folder, write, replace=True)
