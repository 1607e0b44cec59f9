"""The smallest trainings that are still trainings: seconds on a laptop."""

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from mura import training
from mura.data import Batches, RadiographBatches
from mura.runs import Run

SIZE = 32


def tiny_recipe(**changes) -> training.Recipe:
    settings = {"image_size": SIZE, "epochs": 2, "batch_size": 16, "precision": "float32"}
    return training.recipe("cnn", **(settings | changes))


def tiny_run(root: Path, folder: Path, name: str = "tiny", **changes) -> Run:
    return training.train(tiny_recipe(**changes), root, name, folder)


def noise_batches(folder: Path, recipe: training.Recipe, synthetic: bool = True) -> Batches:
    """Return 24 images to fit, 8 of tune and 4 of valid: noise, brighter where the label is 1."""
    random, labels = np.random.default_rng(0), np.arange(36) % 2
    pixels = random.integers(0, 200, (36, SIZE, SIZE), dtype=np.uint8)
    pixels[labels == 1, 8:24, 8:24] += 50
    names = [f"patient{index:05d}" for index in range(36)]
    manifest = pd.DataFrame(
        {
            "path": [f"MURA-v1.1/{name}/image1.png" for name in names],
            "body_part": ["XR_WRIST", "XR_HAND", "XR_WRIST"] * 12,
            "patient": names,
            "study": names,
            "view": 1,
            "label": pd.array(labels, dtype="Int64"),
            "part": ["fit"] * 24 + ["tune"] * 8 + ["valid"] * 4,
        }
    )
    (folder / "phantom.json").unlink(missing_ok=True)
    if synthetic:
        (folder / "phantom.json").write_text(json.dumps({"scale": 0.01, "seed": 0}))

    def of(rows: np.ndarray, seed: int | None) -> RadiographBatches:
        targets = labels[rows].astype(np.float32)[:, None]
        return RadiographBatches(pixels, rows, targets, None, recipe.batch_size, seed)

    fit, tune = of(np.arange(24), recipe.seed), of(np.arange(24, 32), None)
    return Batches(folder / "MURA-v1.1", manifest, pixels, fit, tune)


def fit(
    recipe: training.Recipe,
    batches: Batches,
    folder: Path,
    name: str = "tiny",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    optimizer: type[keras.Optimizer] | None = None,
    watched: bool = True,
    forget: bool = False,
) -> tuple[keras.Model, training.Checkpoint]:
    """Fit as the notebooks do, cell by cell; ``forget`` spoils the weights that were built."""
    model = training.build(recipe, folder)
    if forget:
        model.set_weights([np.full(weight.shape, 0.5) for weight in model.get_weights()])
    trainer = training.compose(model, recipe)
    checkpoint = training.Checkpoint(model, recipe, batches, name, folder)
    for stage in training.stages(checkpoint):
        trainer.compile(optimizer(1e-3) if optimizer else stage.optimizer, stage.loss)
        trainer.fit(
            batches.fit,
            validation_data=batches.tune,
            epochs=stage.epochs,
            shuffle=False,
            callbacks=[checkpoint] * watched + list(callbacks),
            verbose=0,
        )
    return trainer, checkpoint
