"""Complete run folders without a training: predictions of a chosen skill, a model that looks."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pandas as pd

from mura import data, runs
from mura.evaluation import reports
from mura.files import write_json
from mura.runs import Run
from mura.training.model_card import model_card
from mura.training.recipes import Recipe


def predictions(root: Path, skill: float, seed: int = 0, body_parts=None) -> pd.DataFrame:
    """Return tune and valid predictions; skill is the distance of the labels in log-odds."""
    manifest = data.read(root)
    table = manifest.assign(split=data.split_patients(manifest, 0.3))
    table = table[table["split"].isin(["tune", "valid"])]
    if body_parts:
        table = table[table["body_part"].isin(body_parts)]
    noise = np.random.default_rng(seed).normal(size=len(table))
    odds = skill * (table["label"].astype(float) - 0.5) + noise
    return table.assign(probability=1 / (1 + np.exp(-odds))).reset_index(drop=True)


PHANTOM = "phantom-scale0.01"  # what conftest.py draws is called


def brightness_model() -> keras.Model:
    """Return the smallest model whose maps can be drawn: bright places speak for abnormal."""
    image = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Identity(name="feature_maps")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid", name="abnormal")(x))
    model.get_layer("abnormal").set_weights([np.array([[4.0]]), np.array([-0.5])])
    return model


def facts(**changes) -> dict:
    """Return what ``environment.json`` holds."""
    return {
        "data": {"name": PHANTOM, "images": {"fit": 60}, "identity": ""},
        "weights": "random",
        "parameters": 2,
        "compute": {"device": "cpu", "jit_compile": False, "precision": "float32", "fused": True},
        "optimizer": "FusedAdam",
        "epochs": 3,
        "best_epoch": 2,
        "kept": "best epoch",
        "diverged": 0,
        "best_tune_loss": 0.5,
        "training_seconds": 12.0,
        "images_per_second": 100.0,
        "versions": {},
    } | changes


def make_run(
    models: Path, name: str, table: pd.DataFrame, finished: str = "2026-01-01", **changes
) -> Run:
    """Write a complete run folder of these predictions."""
    recipe = Recipe(image_size=32, **changes).to_dict()
    counts = table["split"].value_counts()
    known = {"name": PHANTOM, "images": {"fit": 60} | counts.to_dict(), "identity": name}
    environment = facts(data=known, finished=finished)

    def write(folder: Path) -> None:
        brightness_model().save(folder / "model.keras")
        write_json(folder / "recipe.json", recipe)
        history = {"epoch": [1, 2], "loss": [0.7, 0.6], "tune_loss": [0.7, 0.5]}
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        table.to_csv(folder / "predictions.csv", index=False)
        split = table[["patient", "split"]].drop_duplicates().rename(columns={"split": "part"})
        split.to_csv(folder / "split.csv", index=False)
        write_json(folder / "environment.json", environment)
        metrics = reports.run_metrics(table)
        (folder / "README.md").write_text(model_card(name, recipe, environment, metrics))
        write_json(folder / "metrics.json", metrics)

    return runs.write(models / name, write)
