"""Is the phantom learnable, and is what is learnt real? About ten minutes on two cores.

python benchmarks/learnability.py

Trains the custom CNN by its quick recipe on the default phantom, as its notebook does, and once
more on labels that were shuffled among the training studies. The validation AUROC per study of the
first should be 0.90 or more, and the interval of the second hold 0.5.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd


def shuffled_manifest(root: Path) -> pd.DataFrame:
    """Return the manifest with train's labels permuted among its studies."""
    from mura.data import read as read_manifest

    manifest = read_manifest(root)
    studies = manifest[manifest["split"] == "train"].drop_duplicates("study")
    labels = np.random.default_rng(0).permutation(studies["label"].to_numpy())
    mixed = manifest["study"].map(dict(zip(studies["study"], labels, strict=True)))
    return manifest.assign(label=mixed.fillna(manifest["label"]).astype("Int64"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="the quick recipe's without it")
    parser.add_argument("--scale", type=float, help="a phantom of this share instead")
    options = parser.parse_args()
    from mura import data as datasets
    from mura import phantom
    from mura.evaluation import reports
    from mura.training.recipes import recipe
    from mura.training.train import train

    chosen = recipe("cnn", epochs=options.epochs)
    with tempfile.TemporaryDirectory() as folder:
        if options.scale:
            root = phantom.generate(Path(folder) / "phantom", options.scale)
        else:
            root = datasets.prepare()
        runs = [train(chosen, root, "labels as they are", folder)]
        with mock.patch("mura.data.training_data.read_manifest", shuffled_manifest):
            runs.append(train(chosen, root, "labels shuffled", folder))
        table = reports.leaderboard({run.name: reports.run_studies(run) for run in runs}, ["auroc"])
        print(reports.formatted(table).to_string(index=False))


if __name__ == "__main__":
    main()
