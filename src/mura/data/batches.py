"""Hand out cached pixels in batches, in an order that only seed and epoch decide."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from mura.data.cache import cached
from mura.data.manifest import FEWEST, assign_parts, body_parts, few_images


class RadiographBatches(keras.utils.PyDataset):
    """Batches of raw pixels.

    Call ``fit`` with ``shuffle=False``: by default Keras mixes whole batches by Python's global
    random numbers, which a continued training cannot repeat. These are shuffled already.

    Item i is ``x`` uint8[B, S, S, 1], ``(x, y)`` or ``(x, y, w)``, whichever of targets and
    weights are given; the last batch may be shorter. Several devices share each batch evenly: of
    shuffled images the few that are left over wait for the next shuffle, and those in fixed order
    are filled up with images of weight 0, the others weighing as much more.

    Args:
        pixels: uint8[N, S, S], a cache's memory map.
        rows: int[M], the rows to hand out.
        targets: float32[M, K], aligned with ``rows``.
        weights: float32[M], sample weights aligned with ``rows``.
        batch_size: B.
        shuffle_seed: None keeps the order of ``rows``.
        devices: How many share a batch.
        shard: (i, n): hand out the i-th of n parts of each batch.

    Raises:
        ValueError: Targets or weights are not aligned with the rows.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        rows: np.ndarray,
        targets: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        batch_size: int = 32,
        shuffle_seed: int | None = None,
        devices: int = 1,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        # With one worker TensorFlow's autotuning makes the end of an epoch wait for its thread; on
        # JAX several workers serve batches that were read before the epoch began.
        super().__init__(workers=2 if keras.backend.backend() == "tensorflow" else 1)
        for name, values in (("targets", targets), ("weights", weights)):
            if values is not None and len(values) != len(rows):
                raise ValueError(f"{len(values)} {name} for {len(rows)} rows.")
        padding = -len(rows) % devices
        if padding and shuffle_seed is None and targets is not None:
            weights = np.ones(len(rows), np.float32) if weights is None else weights
            # a batch's loss is divided by its images, those of weight 0 included
            weights = np.pad(weights * (1 + padding / len(rows)), (0, padding))
            rows, targets = (np.resize(v, (len(weights), *v.shape[1:])) for v in (rows, targets))
        self.pixels, self.rows = pixels, np.asarray(rows, dtype=np.int64)
        self.targets, self.weights = targets, weights
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.devices, self.shard = devices, shard
        self.start_epoch(0)

    def __len__(self) -> int:
        return math.ceil(len(self._order) / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        part, parts = self.shard
        chosen = chosen[part * len(chosen) // parts : (part + 1) * len(chosen) // parts]
        x = np.asarray(self.pixels[self.rows[chosen]])[..., None]
        _release(self.pixels)
        if self.targets is None:
            return x
        if self.weights is None:
            return x, self.targets[chosen]
        return x, self.targets[chosen], self.weights[chosen]

    def start_epoch(self, epoch: int) -> None:
        """Take the order of an epoch, counted from 0."""
        self.epoch, self._order = epoch, np.arange(len(self.rows))
        if self.shuffle_seed is not None:
            random = np.random.default_rng([self.shuffle_seed, epoch])
            kept = len(self.rows) - len(self.rows) % self.devices
            self._order = random.permutation(len(self.rows))[:kept]

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order; Keras calls this."""
        self.start_epoch(self.epoch + 1)


@dataclass(frozen=True)
class Batches:
    """A data set as a training reads it.

    ``manifest`` has one row per image with the column ``part``: "fit", "tune", the official
    split's name ("valid") or "unused"; ``pixels[i]`` is row i, uint8[S, S].
    """

    root: Path
    manifest: pd.DataFrame
    pixels: np.ndarray
    fit: RadiographBatches
    tune: RadiographBatches


def batches(
    manifest: pd.DataFrame,
    root: str | Path,
    recipe: Any,
    devices: int = 1,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Split a manifest into parts, decode its images once, and return the batches of a training.

    The cache holds every image of the manifest, so that all runs on this data share it.

    Args:
        manifest: As ``data.read`` returns it.
        root: The data folder that it was read from.
        recipe: A ``training.Recipe``.
        devices, shard: As in ``RadiographBatches``.

    Raises:
        ManifestError: A part is empty or lacks one of the labels, or a patient is in two parts.
        CacheError: An image cannot be read.
    """
    manifest = assign_parts(
        manifest,
        recipe.body_parts,
        recipe.tune_fraction,
        recipe.train_fraction,
        recipe.split_seed,
        recipe.folds,
        recipe.fold,
    )
    pixels = cached(manifest, root, recipe.image_size)
    weights = loss_weights(manifest)
    order = list(recipe.body_parts or body_parts(manifest))
    if recipe.weighted_loss and (few := few_to_fit(manifest)):
        print(
            f"{', '.join(few)}: fewer than {FEWEST} normal or abnormal images to fit, so they "
            "share their loss weights",
            flush=True,
        )

    def of(part: str) -> RadiographBatches:
        rows = np.flatnonzero(manifest["part"] == part)
        table = manifest.iloc[rows]
        labels = table["label"].to_numpy(np.int64)
        parts = table["body_part"].astype(str)
        targets = labels.astype(np.float32)[:, None]
        if recipe.head == "joint":
            classes = labels * len(order) + parts.map(order.index).to_numpy(np.int64)
            targets = np.eye(2 * len(order), dtype=np.float32)[classes]
        weighed = weights.stack()[list(zip(parts, labels, strict=True))].to_numpy(np.float32)
        return RadiographBatches(
            pixels,
            rows,
            targets,
            weighed if recipe.weighted_loss else None,
            recipe.batch_size,
            recipe.seed if part == "fit" else None,
            devices,
            shard,
        )

    return Batches(Path(root), manifest, pixels, of("fit"), of("tune"))


def loss_weights(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the loss weights: one row per body part, columns 0 and 1 (the labels).

    For body part T with |A_T| abnormal and |N_T| normal fit images, abnormal ones weigh
    |N_T| / (|A_T| + |N_T|) and normal ones |A_T| / (|A_T| + |N_T|) (arXiv 1712.06957,
    section 3.1). Body parts with fewer than ten images of either label share the weights of all
    such parts together, or of the whole set if these are as few: with one label alone the paper's
    weights are 0, and the part would not be learned. No weight exceeds ten times the mean over
    the fit images.
    """
    fit = manifest[manifest["part"] == "fit"]
    counts = pd.crosstab(fit["body_part"].astype(str), fit["label"].astype(int))
    named = sorted(manifest["body_part"].astype(str).unique())
    counts = counts.reindex(index=named, columns=[0, 1], fill_value=0).astype(float)
    images = counts.copy()
    few = few_to_fit(manifest)
    pooled = counts.loc[few].sum()
    counts.loc[few] = (pooled if pooled.min() >= FEWEST else counts.sum()).to_numpy()
    weights = counts.div(counts.sum(axis=1), axis=0).rename(columns={0: 1, 1: 0})[[0, 1]]
    for _ in range(100):  # a lower limit lowers the mean, and so the limit
        limit = 10 * (weights * images).to_numpy().sum() / images.to_numpy().sum()
        if weights.to_numpy().max() <= limit * (1 + 1e-9):
            break
        weights = weights.clip(upper=limit)
    return weights


def few_to_fit(manifest: pd.DataFrame) -> list[str]:
    """Return the body parts with fewer than ten fit images of either label."""
    used = manifest[manifest["part"] != "unused"]
    return few_images(used, (used["part"] == "fit").astype(int))


def _release(pixels: np.ndarray) -> None:
    """Unmap what was read of a memory map, so that an epoch does not add up to the whole cache.

    The pages stay in the system's file cache; only this process's share of them is given back.
    """
    mapped = getattr(pixels, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
