"""Choose a recipe for real radiographs: one factor at a time, judged on tune patients alone.

    python benchmarks/ablation.py data/FracAtlas build/ablation [inception_v3.weights.h5]

Trains the custom CNN by each variant with two seeds (about an hour on two cores), keeps the
tune answers of every epoch, and prints the table of docs/recipes.md. A quarter of train's patients
is the tune part, another quarter for each seed. Run again, it goes on where it stopped. With a
file of pretrained weights, Inception-v3 is trained by `standard` and twice as long, with one seed.

Epochs are chosen and judged on different patients: by half of the tune patients on the other half.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

from mura import data, training
from mura.data.cache import cached
from mura.data.sources.fracatlas import UPPER_EXTREMITY

SEEDS = (0, 1)
BASE = training.recipe(
    "cnn",
    "standard",
    image_size=160,
    batch_size=32,
    epochs=20,
    rotation=10.0,
    tune_fraction=0.25,
).replace(average_momentum=None)
VARIANTS = {
    "base": {},
    "rotation 30": {"rotation": 30.0},
    "dropout 0.5": {"dropout": 0.5},
    "weight decay 0": {"weight_decay": 0.0},
    "decay of kernels only": {"decay_all": False},
    "averaged weights": {"average_momentum": 0.99},
    "brightness and gamma": {"brightness": 0.1, "gamma": 0.3},
    "224 px": {"image_size": 224},
    "40 epochs": {"epochs": 40},
}


class KeepTuneAnswers(keras.callbacks.Callback):
    """Keep the tune part's probabilities of every epoch in one table."""

    def __init__(self, file: Path, root: Path, recipe: training.Recipe) -> None:
        super().__init__()
        self.file = file
        parts = data.assign_parts(
            data.read(root), (), recipe.tune_fraction, recipe.train_fraction, recipe.split_seed
        )
        rows = np.flatnonzero(parts["part"] == "tune")
        pixels = cached(parts, root, recipe.image_size)
        self.images = data.RadiographBatches(pixels, rows, batch_size=64)
        columns = ["path", "body_part", "patient", "label"]
        self.table = pd.read_csv(file) if file.is_file() else parts.iloc[rows][columns]

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Answer with the weights that an evaluation would use."""
        swap = [keras.callbacks.SwapEMAWeights()] if self.model.optimizer.use_ema else []
        answers = self.model.predict(self.images, callbacks=swap, verbose=0)[:, 0]
        self.table = self.table.assign(**{f"epoch {epoch + 1}": answers})
        self.table.to_csv(self.file, index=False)


def by_monitor(table: pd.DataFrame, monitor: str) -> tuple[float, float]:
    """Return the AUROC of all parts and of the upper extremity at the epoch a monitor chooses."""
    epochs = [column for column in table if column.startswith("epoch")]
    half = table["patient"].map({name: i % 2 for i, name in enumerate(table["patient"].unique())})
    areas = []
    for chosen_on in (0, 1):
        choice, judged = table[half == chosen_on], table[half != chosen_on]
        losses = pd.Series({name: log_loss(choice["label"], choice[name]) for name in epochs})
        area = pd.Series({name: roc_auc_score(choice["label"], choice[name]) for name in epochs})
        epoch = {
            "last epoch": epochs[-1],
            "tune loss": losses.idxmin(),
            "tune AUROC": area.idxmax(),
            "tune AUROC, smoothed": area.ewm(alpha=0.3).mean().idxmax(),
        }[monitor]
        upper = judged[judged["body_part"].isin(UPPER_EXTREMITY)]
        areas.append([roc_auc_score(rows["label"], rows[epoch]) for rows in (judged, upper)])
    return tuple(np.mean(areas, axis=0))


def recipes(photographs: str | None) -> Iterator[tuple[str, training.Recipe]]:
    """Yield each variant's name and recipe, seed by seed."""
    for seed in SEEDS:
        for name, changes in VARIANTS.items():
            yield name, BASE.replace(seed=seed, split_seed=seed, **changes)
    if photographs:
        changes = {"weights": photographs, "tune_fraction": BASE.tune_fraction}
        pretrained = training.recipe("inception_v3", "standard", **changes)
        yield "Inception-v3", pretrained
        yield "Inception-v3, 20 epochs", pretrained.replace(epochs=20)


def main(root: Path, folder: Path, photographs: str | None = None) -> None:
    """Train what is missing, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, recipe in recipes(photographs):
        file = folder / f"{name}, seed {recipe.seed}.csv"
        run = f"{name.replace(' ', '-')}-{recipe.seed}"
        if not (file.is_file() and f"epoch {recipe.epochs}" in pd.read_csv(file, nrows=1)):
            keep = KeepTuneAnswers(file, root, recipe)
            training.train(recipe, root, run, folder, resume=True, callbacks=[keep])
        for monitor in ("last epoch", "tune loss", "tune AUROC", "tune AUROC, smoothed"):
            every, upper = by_monitor(pd.read_csv(file), monitor)
            rows.append((name, recipe.seed, monitor, every, upper))
    columns = ["variant", "seed", "monitor", "all parts", "upper extremity"]
    table = pd.DataFrame(rows, columns=columns)
    print(table.pivot_table(index="variant", columns=["monitor", "seed"], sort=False).round(3).T)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
