"""What a training reads: each image's part, its pixels, its target and its weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mura.files import InputError
from mura.manifest import BODY_PARTS, data_root, read_manifest, split_patients
from mura.pixels import PixelCache, RadiographBatches
from mura.recipes import Recipe


class TrainingError(InputError):
    """A training cannot start: its data or its name does not allow it."""


@dataclass(frozen=True)
class TrainingData:
    """The pixels of a data folder and what each image is for.

    ``manifest`` has one row per image with the column ``part``: "fit", "tune" or the official
    split's name ("valid"); ``pixels[i]`` is row i, uint8[S, S].
    """

    root: Path
    manifest: pd.DataFrame
    pixels: np.ndarray

    def rows(self, part: str) -> np.ndarray:
        """Return the row numbers of a part, in manifest order: int64[n]."""
        return np.flatnonzero(self.manifest["part"].to_numpy() == part)


def load_data(recipe: Recipe, root: str | Path | None = None) -> TrainingData:
    """Read the manifest, split its patients and open (or build) the pixel cache.

    Raises:
        TrainingError: A part is empty, lacks one of the labels, or shares patients with another.
    """
    root = data_root(root)
    return decode(recipe, root, read_parts(recipe, root))


def read_parts(recipe: Recipe, root: Path) -> pd.DataFrame:
    """Return the manifest with the column ``part``; no image is read.

    Raises:
        TrainingError: As in :func:`load_data`.
    """
    manifest = read_manifest(root)
    part = split_patients(manifest, recipe.tune_fraction, recipe.split_seed).astype(object)
    part[~manifest["body_part"].isin(recipe.body_parts)] = "unused"
    part[part.isin(["fit", "tune"]) & manifest["label"].isna()] = "unused"
    if recipe.train_fraction < 1:
        patients = np.sort(manifest.loc[part == "fit", "patient"].unique())
        order = np.random.default_rng(recipe.split_seed).permutation(len(patients))
        dropped = patients[order[max(1, round(recipe.train_fraction * len(patients))) :]]
        part[(part == "fit") & manifest["patient"].isin(dropped)] = "unused"

    manifest = manifest.assign(part=part)
    refuse_shared_patients(manifest)
    for name in ("fit", "tune"):
        labels = manifest.loc[manifest["part"] == name, "label"].unique()
        if len(labels) < 2:
            raise TrainingError(
                f"{root}: the {name} part holds labels {sorted(int(x) for x in labels)} only for "
                f"{', '.join(recipe.body_parts)}; training needs normal and abnormal studies."
            )
    return manifest


def decode(recipe: Recipe, root: Path, manifest: pd.DataFrame) -> TrainingData:
    """Open (or build) the pixel cache of what :func:`read_parts` returned.

    The cache holds every image of the manifest, the unused ones too: a run on all body parts,
    the seven specialists and any share of the patients then read the same file, where caches of
    their own would decode each image again and take the disk space twice.
    """
    cache = PixelCache.build(manifest, root, recipe.image_size)
    return TrainingData(root, manifest, cache.pixels)


def refuse_shared_patients(manifest: pd.DataFrame) -> None:
    """Raise TrainingError when a patient is in two of the parts fit, tune and valid."""
    used = manifest[manifest["part"] != "unused"]
    parts = used.groupby("patient", observed=True)["part"].nunique()
    crossing = list(parts.index[parts > 1])
    if crossing:
        raise TrainingError(
            f"{len(crossing)} patients are in more than one part of the data, for example "
            f"{', '.join(crossing[:5])}: results would be measured on patients that were "
            "trained on. `mura audit` of the data folder lists them."
        )


def loss_weights(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's loss weights: one row per body part, columns 0 and 1 (the labels).

    For body part T with |A_T| abnormal and |N_T| normal fit images, abnormal ones weigh
    |N_T| / (|A_T| + |N_T|) and normal ones |A_T| / (|A_T| + |N_T|) (arXiv 1712.06957,
    section 3.1). Where a small share of the patients leaves a body part without fit images, both
    weigh a half, as in one that is balanced: its held-out images still have a loss.
    """
    fit = manifest[manifest["part"] == "fit"]
    counts = pd.crosstab(fit["body_part"].astype(str), fit["label"].astype(int))
    named = manifest["body_part"].astype(str).unique()
    counts = counts.reindex(index=sorted(named), columns=[0, 1], fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0).fillna(0.5)
    return shares.rename(columns={0: 1, 1: 0})[[0, 1]]


def batches(data: TrainingData, part: str, recipe: Recipe, epoch: int = 0) -> RadiographBatches:
    """Return a part's batches for training ("fit", shuffled) or validation (any other)."""
    rows = data.rows(part)
    table = data.manifest.iloc[rows]
    labels = table["label"].to_numpy(np.int64)
    if recipe.head == "joint":
        body_parts = table["body_part"].astype(str).map(BODY_PARTS.index).to_numpy(np.int64)
        classes = labels * len(BODY_PARTS) + body_parts
        targets = np.eye(2 * len(BODY_PARTS), dtype=np.float32)[classes]
    else:
        targets = labels.astype(np.float32)[:, None]
    weights = None
    if recipe.weighted_loss:
        table_of_weights = loss_weights(data.manifest)
        weights = table_of_weights.stack()[
            list(zip(table["body_part"].astype(str), labels, strict=True))
        ].to_numpy(np.float32)
    return RadiographBatches(
        data.pixels,
        rows,
        targets,
        weights,
        batch_size=recipe.batch_size,
        shuffle_seed=recipe.seed if part == "fit" else None,
        epoch=epoch,
    )
