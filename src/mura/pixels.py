"""Decode every image once into a uint8 memory map, and hand it out in batches."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mura.files import InputError, project_folder, read_json, write_json
from mura.images import ImageError, load_square
from mura.manifest import image_file

# Part of every cache's name: raise it when decoding or fitting changes what is stored.
PREPROCESSING = 1
BLOCK = 64  # images that are written, checked and journalled together


class CacheError(InputError):
    """A pixel cache cannot be built; the message says why and what to do."""


class PixelCache:
    """A data set's images as one read-only memory map.

    ``pixels`` is uint8[N, S, S]; row i is manifest row i, fitted into the square as
    ``images.fit_square`` does. The file's name carries a digest of the image list, of each file's
    size and time, and of the preprocessing, so a stale cache is never read.
    """

    def __init__(self, file: Path, rows: int, size: int) -> None:
        self.file = file
        self.pixels: np.ndarray = np.memmap(file, np.uint8, "r", shape=(rows, size, size))

    @classmethod
    def build(
        cls,
        manifest: pd.DataFrame,
        root: str | Path,
        size: int,
        folder: str | Path | None = None,
        progress: bool = True,
    ) -> PixelCache:
        """Open the cache of a manifest, building it first where it is not there.

        A build that was interrupted continues; of two processes that want the same cache one
        builds and the other waits. Every image is decoded before unreadable ones are reported.

        Args:
            manifest: As ``read_manifest`` returns it.
            root: The data folder that it was read from.
            size: S in pixels.
            folder: Where caches stand; ``data/cache`` in the checkout when None.
            progress: Whether to show a progress bar.

        Raises:
            CacheError: Images are missing or unreadable (up to ten are named), or the disk is
                full; what was decoded is kept for the next try.
        """
        root = Path(root)
        folder = project_folder() / "data" / "cache" if folder is None else Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = _files(manifest, root)
        file = folder / f"{root.resolve().name}-{size}px-{_digest(manifest, paths, size)}.pixels"
        rows = len(paths)
        if not _intact(file, rows, size):
            with _only_one(file):
                if not _intact(file, rows, size):  # another process may have built it meanwhile
                    _build(file, paths, size, progress)
        return cls(file, rows, size)

    def verify(self) -> bool:
        """Whether every block still has the checksum it was written with (reads everything)."""
        return _checksums(self.pixels) == read_json(_facts_file(self.file))["checksums"]


class RadiographBatches(keras.utils.PyDataset):
    """Batches of raw pixels, in an order that is a function of seed and epoch alone.

    Item i is ``x`` uint8[B, S, S, 1], ``(x, y)`` or ``(x, y, w)``, whichever of targets and
    weights are given; the last batch may be shorter.

    Args:
        pixels: uint8[N, S, S], a cache's memory map.
        rows: int[M], the rows to hand out.
        targets: float32[M, K], aligned with ``rows``.
        weights: float32[M], sample weights aligned with ``rows``.
        batch_size: B.
        shuffle_seed: None keeps the order of ``rows``.
        epoch: The epoch that the order starts with; each ``on_epoch_end`` counts one up.
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
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if targets is None and weights is not None:
            raise ValueError("weights without targets: there is no loss to weigh.")
        for name, values in (("targets", targets), ("weights", weights)):
            if values is not None and len(values) != len(rows):
                raise ValueError(f"{len(values)} {name} for {len(rows)} rows.")
        self.pixels, self.rows = pixels, np.asarray(rows)
        self.targets, self.weights = targets, weights
        self.batch_size, self.shuffle_seed = batch_size, shuffle_seed
        self.epoch = epoch
        self._order = self._draw_order()

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> Any:
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        x = self.pixels[self.rows[chosen]][..., None]
        if self.targets is None:
            return x
        if self.weights is None:
            return x, self.targets[chosen]
        return x, self.targets[chosen], self.weights[chosen]

    def on_epoch_end(self) -> None:
        """Go on to the next epoch's order."""
        self.epoch += 1
        self._order = self._draw_order()

    def _draw_order(self) -> np.ndarray:
        if self.shuffle_seed is None:
            return np.arange(len(self.rows))
        return np.random.default_rng([self.shuffle_seed, self.epoch]).permutation(len(self.rows))


def _files(manifest: pd.DataFrame, root: Path) -> list[Path]:
    paths = [image_file(root, path) for path in manifest["path"]]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise CacheError(
            f"{root}: {len(missing)} listed images are missing, {missing[0]} for one; "
            "`mura audit` lists them all; restore them from the original archive."
        )
    return paths


def _digest(manifest: pd.DataFrame, paths: list[Path], size: int) -> str:
    digest = hashlib.sha256(f"{PREPROCESSING} {size}\n".encode())
    for name, path in zip(manifest["path"], paths, strict=True):
        facts = path.stat()
        digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _facts_file(file: Path) -> Path:
    return file.with_suffix(".json")


def _intact(file: Path, rows: int, size: int) -> bool:
    """Whether a cache stands and is what was written: by size and time, else by checksums."""
    if not file.is_file() or not _facts_file(file).is_file():
        return False
    facts, now = read_json(_facts_file(file)), file.stat()
    if now.st_size != rows * size * size:
        return False
    if facts["modified"] == now.st_mtime_ns:
        return True
    same = PixelCache(file, rows, size).verify()
    if same:
        write_json(_facts_file(file), facts | {"modified": now.st_mtime_ns})
    return same


@contextlib.contextmanager
def _only_one(file: Path) -> Iterator[None]:
    lock = filelock.FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"{file.name}: another process is building this cache; waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(file: Path, paths: list[Path], size: int, progress: bool) -> None:
    """Decode into ``.partial``, journalling each finished block, then rename it."""
    partial, journal = file.with_suffix(".partial"), file.with_suffix(".journal")
    blocks = range(math.ceil(len(paths) / BLOCK))
    done = _finished_blocks(partial, journal, size)
    unreadable: list[str] = []
    bar = tqdm(
        total=len(paths),
        initial=sum(len(paths[b * BLOCK : (b + 1) * BLOCK]) for b in done),
        desc=f"decoding to {size} px",
        unit="image",
        disable=not progress,
    )

    def decode(block: int) -> np.ndarray:
        chosen = paths[block * BLOCK : (block + 1) * BLOCK]
        pixels = np.zeros((len(chosen), size, size), np.uint8)
        for row, path in enumerate(chosen):
            if stopped.is_set():
                break
            try:
                pixels[row] = load_square(path, size)
            except ImageError as error:
                unreadable.append(str(error))
            bar.update()
        return pixels

    # Threads, not processes: Pillow decodes and scales without holding the interpreter's lock,
    # and threads neither import TensorFlow anew nor outlive a killed parent.
    stopped = threading.Event()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with (
            bar,
            partial.open("r+b" if done else "w+b") as data,
            journal.open("a" if done else "w", encoding="utf-8") as finished,
            ThreadPoolExecutor(workers) as pool,
        ):
            try:
                todo = (block for block in blocks if block not in done)
                for block, pixels in _in_order(pool, decode, todo, ahead=2 * (workers or 1)):
                    data.seek(block * BLOCK * size * size)
                    data.write(pixels.tobytes())
                    data.flush()
                    done[block] = zlib.crc32(pixels)
                    finished.write(f"{block} {done[block]}\n")
                    finished.flush()
            except BaseException:
                stopped.set()
                raise
            os.fsync(data.fileno())
    except OSError as error:
        raise CacheError(
            f"{partial}: cannot be written ({error.strerror or error}); the cache needs "
            f"{len(paths) * size * size / 1e6:,.0f} MB there. What is decoded is kept: free some "
            "space and repeat the command."
        ) from error
    if unreadable:
        journal.unlink()
        partial.unlink()
        shown = "; ".join(sorted(unreadable)[:10])
        raise CacheError(f"{len(unreadable)} images cannot be read: {shown}")
    facts = {
        "images": len(paths),
        "size": size,
        "modified": partial.stat().st_mtime_ns,
        "checksums": [done[block] for block in blocks],
    }
    write_json(_facts_file(file), facts)
    partial.replace(file)
    journal.unlink()


def _in_order(
    pool: ThreadPoolExecutor, work: Any, items: Iterator[int], ahead: int
) -> Iterator[tuple[int, Any]]:
    """Map in the pool with a bounded number of results waiting."""
    waiting: list[tuple[int, Any]] = []
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > ahead:
            first, result = waiting.pop(0)
            yield first, result.result()
    for item, result in waiting:
        yield item, result.result()


def _finished_blocks(partial: Path, journal: Path, size: int) -> dict[int, int]:
    """Return the blocks of an interrupted build whose bytes have the journalled checksum."""
    if not partial.is_file() or not journal.is_file():
        return {}
    done = {}
    with partial.open("rb") as data:
        for line in journal.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the line that the kill cut off
                block, checksum = map(int, line.split())
                data.seek(block * BLOCK * size * size)
                content = data.read(BLOCK * size * size)
                if content and zlib.crc32(content) == checksum:
                    done[block] = checksum
    return done


def _checksums(pixels: np.ndarray) -> list[int]:
    return [
        zlib.crc32(np.ascontiguousarray(pixels[start : start + BLOCK]))
        for start in range(0, len(pixels), BLOCK)
    ]
