"""Serve a pixel cache in batches, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import math
import mmap
from typing import Any

import keras
import numpy as np

from mura.pixel_cache import CacheError, PixelCache

__all__ = ["CacheError", "PixelCache", "RadiographBatches"]


class RadiographBatches(keras.utils.PyDataset):
    """Batches of raw pixels.

    Call ``fit`` with ``shuffle=False``: by default Keras shuffles whole batches by Python's global
    random numbers, which a continued training cannot repeat.

    Item i is ``x`` uint8[B, S, S, 1], ``(x, y)`` or ``(x, y, w)``, whichever of targets and
    weights are given; the last batch may be shorter.

    Args:
        pixels: uint8[N, S, S], a cache's memory map.
        rows: int[M], the rows to hand out.
        targets: float32[M, K], aligned with ``rows``.
        weights: float32[M], sample weights aligned with ``rows``.
        batch_size: B.
        shuffle_seed: None keeps the order of ``rows``.
        epoch: The number of epochs done; each ``on_epoch_end`` counts one up. Keras's ``fit``
            calls it once before its first epoch too, so epochs are served from ``epoch + 1`` on,
            and a continued training has the same orders as an uninterrupted one.

    Raises:
        ValueError: Targets or weights are not aligned with the rows, a row is outside the cache,
            or the batch size is not positive.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        rows: np.ndarray,
        targets: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        batch_size: int = 32,
        shuffle_seed: int | None = None,
        epoch: int = 0,
    ) -> None:
        # On TensorFlow, one worker leaves tf.data's autotuning on, whose thread sleeps ever longer;
        # a fit waits for it, up to as long as an epoch. On JAX, with several workers, Keras serves
        # some rows twice and others never.
        super().__init__(workers=2 if keras.backend.backend() == "tensorflow" else 1)
        rows = np.asarray(rows, dtype=np.int64)
        if targets is None and weights is not None:
            raise ValueError("weights without targets: there is no loss to weigh.")
        for name, values in (("targets", targets), ("weights", weights)):
            if values is not None and len(values) != len(rows):
                raise ValueError(f"{len(values)} {name} for {len(rows)} rows.")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(pixels):
            raise ValueError(f"rows {rows.min()} to {rows.max()} of {len(pixels)} images.")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: expected at least 1.")
        self.pixels, self.rows = pixels, rows
        self.targets, self.weights = targets, weights
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.epoch = epoch
        self._order = self._draw_order()

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}.")
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        x = np.asarray(self.pixels[self.rows[chosen]])[..., None]
        _release(self.pixels)
        if self.targets is None:
            return x
        if self.weights is None:
            return x, self.targets[chosen]
        return x, self.targets[chosen], self.weights[chosen]

    def start_epoch(self, epoch: int) -> None:
        """Go to the order of an epoch."""
        self.epoch = epoch
        self._order = self._draw_order()

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self.start_epoch(self.epoch + 1)

    def _draw_order(self) -> np.ndarray:
        if self.shuffle_seed is None:
            return np.arange(len(self.rows))
        return np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(len(self.rows))


def _release(pixels: np.ndarray) -> None:
    """Unmap what was read, so that an epoch does not load the whole cache into this process.

    The pages stay in the system's file cache.
    """
    mapped = getattr(pixels, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
