"""Is the phantom learnable, and is what is learnt real? About ten minutes on two cores.

python benchmarks/learnability.py

Trains the custom CNN by its quick recipe on the default phantom, as its notebook does, and once
more on labels that were shuffled among the training studies. The validation AUROC per study of the
first should be 0.90 or more, and the interval of the second hold 0.5.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from mura import data, evaluation, training


def shuffled(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with train's labels permuted among its studies."""
    studies = manifest[manifest["split"] == "train"].drop_duplicates("study")
    labels = np.random.default_rng(0).permutation(studies["label"].to_numpy())
    mixed = manifest["study"].map(dict(zip(studies["study"], labels, strict=True)))
    return manifest.assign(label=mixed.fillna(manifest["label"]).astype("Int64"))


def measured(root: Path, folder: Path, **changes) -> pd.DataFrame:
    """Train on the labels as they are, and shuffled; return the table of both."""
    recipe = training.recipe("cnn", **changes)
    runs = [training.train(recipe, root, "labels as they are", folder)]
    manifest = shuffled(data.read(root))
    with mock.patch("mura.data.read", lambda _: manifest):
        runs.append(training.train(recipe, root, "labels shuffled", folder))
    studies = {run.name: evaluation.run_studies(run) for run in runs}
    return evaluation.formatted(evaluation.model_table(studies, ["auroc"]))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(measured(data.prepare(data.phantom_folder() / "MURA-v1.1"), Path(folder)).to_string())
