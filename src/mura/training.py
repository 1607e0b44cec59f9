"""Train an architecture by a recipe and write its run folder."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import pandas as pd

from mura import architectures, backend, checkpoints, compute, files, fitting, reports
from mura import weights as weight_files
from mura.checkpoints import Progress
from mura.datasets import data_name, is_synthetic
from mura.files import InputError, clear_partial, write_atomically, write_json
from mura.manifest import data_root
from mura.model_card import model_card
from mura.pixels import RadiographBatches
from mura.recipes import Recipe
from mura.run_contract import naming_fault
from mura.runs import Run, clear_leftovers, load_model, models_folder, write_run
from mura.training_data import TrainingData, TrainingError, decode, read_parts

CHECKPOINT = "checkpoint.npz"  # in a hidden folder beside the run's, until that is complete


def train(
    recipe: Recipe,
    root: str | Path | None = None,
    name: str | None = None,
    models: str | Path | None = None,
    resume: bool = False,
    replace: bool = False,
) -> Run:
    """Train by a recipe, keep the best epoch on the tune part, and write the run folder.

    Args:
        recipe: Everything about the training except the data.
        root: The folder with the four CSV files; None: ``MURA_ROOT``, else what is there.
        name: The run's name; ``recipe.run_name`` when None.
        models: The folder that runs stand in; the checkout's ``models/`` when None.
        resume: Continue an unfinished training of this name (and return a finished one of the
            same recipe, images' names and labels as it is).
        replace: Let a run of this name, or an unfinished training of another recipe, give way
            where it is the phantom's. The old run stays until the new one is complete. What was
            trained on radiographs, for days maybe, never gives way.

    Raises:
        InputError: The data, the recipe or the name does not allow it; the message says why.
    """
    recipe = recipe.replace(weights=weight_files.among(recipe.weights, models))
    name = name or recipe.run_name
    # What cannot be written is else found out at the end, when all is trained.
    if fault := naming_fault(name, recipe.weights):
        raise TrainingError(fault)
    folder = models_folder(models) / name
    files.make_folder(folder.parent)
    try:
        lock = files.lock_of_process(folder.parent / f".{folder.name}.lock")
    except filelock.Timeout:
        raise TrainingError(
            f"{folder}: another process is training this run; wait for it, or choose another "
            "--name."
        ) from None
    with lock:
        return _train(recipe, root, folder, resume, replace)


def _train(
    recipe: Recipe, root: str | Path | None, folder: Path, resume: bool, replace: bool
) -> Run:
    workshop = folder.parent / f".{folder.name}.training"
    clear_leftovers(folder)  # of a killed process: its checkpoint still stands
    clear_partial(workshop / CHECKPOINT)
    root = data_root(root)
    manifest = read_parts(recipe, root)
    identity = checkpoints.identify(recipe, manifest)
    if folder.exists():
        if resume and (finished := _same_run(folder, identity)):
            with contextlib.suppress(checkpoints.CheckpointError, OSError):
                # what a kill just after the run was written left; not another recipe's work
                checkpoints.load(workshop / CHECKPOINT, identity)
                shutil.rmtree(workshop, ignore_errors=True)
            if recipe.weights and finished.environment["weights"] == "random":
                print(
                    f"{folder}: this finished run started from random weights, since "
                    f"{recipe.weights} weights could not be had; delete it to train anew.",
                    flush=True,
                )
            return finished
        if not replace:
            raise TrainingError(f"{folder}: exists already; choose another --name, or delete it.")
        _refuse_loss(folder, recipe)
        print(f"{folder}: an earlier run, which gives way when this one is complete", flush=True)
    path = workshop / CHECKPOINT
    start = Progress(identity, data_name(root), settings=checkpoints.settings_of(recipe))
    progress, arrays = _where_it_stands(path, start, resume, replace)
    plan = compute.policy(recipe.architecture, recipe.precision, recipe.jit_compile, recipe.fused)
    if plan.device == "cpu":
        compute.keep_freed_memory()
    weight_files.refuse_patients_seen_before(recipe.weights, manifest)
    if progress.history:  # the weights stand in the checkpoint
        network, _ = _build(recipe.replace(weights=None), plan.precision)
    else:
        network, progress.weights = _build(recipe, plan.precision)
    # only now: weights that cannot be had are found out in seconds, decoding takes minutes
    data = decode(recipe, root, manifest)
    share = f" ({recipe.train_fraction:.0%} of the patients)" if recipe.train_fraction < 1 else ""
    print(
        f"{recipe.architecture}: {network.count_params():,} parameters, {progress.weights} "
        f"weights, {len(data.rows('fit')):,} images of {recipe.image_size} px{share}, "
        f"{plan.device}, {plan.precision}{', XLA' if plan.jit_compile else ''}",
        flush=True,
    )
    if recipe.profile == "quick" and not is_synthetic(data_name(root)):
        print(
            "the quick profile is made for the phantom, with few images and epochs and little "
            "augmentation: for radiographs take full or modern",
            flush=True,
        )
    compute.warn_of_idle_gpu(plan.device)
    if progress.history:
        print(f"continuing after epoch {len(progress.history)}", flush=True)
    elif resume:
        print("nothing to resume: starting from the beginning", flush=True)
    workshop.mkdir(exist_ok=True)
    pretrained = progress.weights != "random"
    task = fitting.Task(recipe, data, network, pretrained, plan, path)
    with fitting.told_of_memory(recipe.batch_size):
        best = fitting.fit(task, progress, arrays)

    # The saved model computes in float32 whatever it was trained in: it then gives the same
    # answers on every machine but for rounding, at full speed on processors without bfloat16.
    final, _ = _build(recipe.replace(weights=None), "float32")
    final.set_weights(best)
    facts = {
        "data": _data_facts(data, identity),
        "weights": progress.weights,
        "parameters": int(final.count_params()),
        "compute": plan.to_dict(),
        "epochs": len(progress.history),
        "best_epoch": progress.best_epoch,
        "best_tune_loss": progress.best_loss,
        "training_seconds": round(progress.seconds, 2),
        # the first epoch pays for tracing the graph
        "images_per_second": round(
            float(np.median(progress.images_per_second[1:] or progress.images_per_second)), 1
        ),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": backend.versions(),
    }
    history = pd.DataFrame(progress.history)
    run = write_run(
        folder,
        lambda temporary: _write_results(
            temporary, folder.name, final, recipe, history, data, facts
        ),
        replace=replace,
    )
    # on NFS the folder stays while another process has its checkpoint open; the run is written
    shutil.rmtree(workshop, ignore_errors=True)
    return run


def _refuse_loss(folder: Path, recipe: Recipe) -> None:
    """Raise where a run on radiographs would be replaced."""
    made_on = "phantom"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # damaged: not known
        facts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        made_on = str(facts["data"]["name"])  # ill-typed is not known to be a phantom's
    if is_synthetic(made_on):
        return
    other = "data, Keras backend or missing files"
    with contextlib.suppress(InputError):
        old, new = Run.load(folder).recipe, recipe.to_dict()
        other = ", ".join(key for key in new if new[key] != old.get(key)) or other
    raise TrainingError(
        f"{folder}: was trained on {made_on} and does not give way (the new one differs in "
        f"{other}); give the new one a name of its own, or rename or delete that folder."
    )


def _where_it_stands(
    path: Path, start: Progress, resume: bool, replace: bool
) -> tuple[Progress, dict[str, np.ndarray]]:
    """Return the progress and the arrays of a checkpoint, or those of a training's start."""
    if not path.exists():
        return start, {}
    replace = replace and is_synthetic(checkpoints.made_on(path) or "phantom")
    if resume:
        try:
            return checkpoints.load(path, start.identity, start.settings)
        except checkpoints.CheckpointError as error:
            if not replace:
                raise
            print(f"an unfinished training gives way: {error}", flush=True)
    elif not replace:
        raise TrainingError(
            f"{path.parent}: an unfinished training of this name exists; add --resume to continue "
            "it, choose another --name, or delete that folder."
        )
    return start, {}  # the first epoch's checkpoint takes its place


def _write_results(
    folder: Path,
    name: str,
    network: keras.Model,
    recipe: Recipe,
    history: pd.DataFrame,
    data: TrainingData,
    facts: dict[str, Any],
) -> None:
    """Fill a run folder; what is predicted with is the model as it was saved."""
    architectures.abnormal_model(network).save(folder / "model.keras")
    model = load_model(folder / "model.keras")
    # a training step holds the maps of all layers, prediction only of two at a time
    batch_size = min(64, 4 * recipe.batch_size)
    predictions = predict_parts(model, data, ("tune", "valid"), batch_size)
    write_json(folder / "recipe.json", recipe.to_dict())
    split = data.manifest.loc[data.manifest["part"] != "unused", ["patient", "part"]]
    for file_name, table in (
        ("history.csv", history),
        ("predictions.csv", predictions),
        ("split.csv", split.drop_duplicates().sort_values(["patient", "part"])),
    ):
        with write_atomically(folder / file_name) as file:
            table.to_csv(file, index=False)
    write_json(folder / "environment.json", facts)
    metrics = reports.run_metrics(predictions)
    with write_atomically(folder / "README.md") as file:
        file.write(model_card(name, recipe.to_dict(), facts, metrics))
    write_json(folder / "metrics.json", metrics)


def predict_parts(
    model: keras.Model, data: TrainingData, parts: tuple[str, ...], batch_size: int
) -> pd.DataFrame:
    """Return the predictions table (``Run.predictions``) of some parts, in manifest order."""
    chosen = data.manifest[data.manifest["part"].isin(parts)]
    if chosen.empty:
        raise TrainingError(f"{data.root}: no images in {' or '.join(parts)}.")
    images = RadiographBatches(data.pixels, chosen.index.to_numpy(), batch_size=batch_size)
    probability = compute.for_prediction(model).predict(images, verbose=0)[:, 0].astype(np.float64)
    table = chosen[["path", "study", "view", "body_part", "patient", "part", "label"]]
    table = table.rename(columns={"part": "split"})
    return table.assign(probability=probability).reset_index(drop=True)


def _build(recipe: Recipe, precision: str) -> tuple[keras.Model, str]:
    with _dtype_policy(precision):
        return architectures.build_with_weights(
            recipe.architecture,
            recipe.image_size,
            weights=recipe.weights,
            strict=recipe.strict_weights,
            head=recipe.head,
            dropout=recipe.dropout,
            seed=recipe.seed,
        )


def _same_run(folder: Path, identity: str) -> Run | None:
    try:
        run = Run.load(folder)
        return run if run.environment["data"].get("identity") == identity else None
    except InputError:  # damaged: it is in the way, like any other
        return None


def _data_facts(data: TrainingData, identity: str) -> dict[str, Any]:
    counts = data.manifest["part"].value_counts()
    return {
        "name": data_name(data.root),
        "images": {part: int(counts[part]) for part in counts.index if part != "unused"},
        "identity": identity,
    }


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Build layers under a dtype policy and leave the user's own as it was."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
