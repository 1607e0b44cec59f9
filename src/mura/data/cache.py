"""Decode every image of a data set once into one memory-mapped file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from mura.data.images import load_square
from mura.data.sources import image_files
from mura.files import InputError, absolute, clear_partial, locked, project_folder

# Part of every cache's name: raise it when decoding or fitting changes what is stored.
VERSION = 3


class CacheError(InputError):
    """A pixel cache cannot be built; the message says why and what to do."""


def cached(
    manifest: pd.DataFrame,
    root: str | Path,
    size: int,
    folder: str | Path | None = None,
    progress: bool = True,
) -> np.memmap:
    """Return a data set's images as a read-only memory map; decode them first if need be.

    The file's name carries a digest of the images' paths, sizes and times, of S and of
    ``VERSION``, so a changed image means another file. A killed build leaves no cache.

    Args:
        manifest: As ``data.read`` returns it from ``root``.
        root: The data folder.
        size: S in pixels.
        folder: Where caches are kept; None: ``MURA_CACHE`` in the environment (a relative one
            starts at the checkout), else ``cache`` beside the data folder.
        progress: Whether to show a progress bar.

    Returns:
        uint8[N, S, S]; row i is manifest row i, as ``images.load_square`` returns it.

    Raises:
        CacheError: The manifest is empty, the size is below 1, images are missing or unreadable
            (up to ten are named), the disk has too little space, or the cache is damaged.
    """
    if manifest.empty:
        raise CacheError(f"{root}: no images to decode; the manifest is empty.")
    if size < 1:
        raise CacheError(f"image size {size}: expected at least 1 pixel.")
    if folder is None:
        usual = absolute(root).parent / "cache"
        folder = project_folder() / Path(os.environ.get("MURA_CACHE") or usual).expanduser()
    files = image_files(root, manifest["path"])
    digest = hashlib.sha256(f"{VERSION} {size}".encode())
    for path, file in zip(manifest["path"], files, strict=True):
        with contextlib.suppress(OSError):  # decoding will say that it is missing
            facts = file.stat()
            path += f" {facts.st_size} {facts.st_mtime_ns}"
        digest.update(f"\n{path}".encode(errors="surrogateescape"))
    cache = Path(folder) / f"{absolute(root).name}-{size}px-{digest.hexdigest()[:16]}.npy"
    if not cache.is_file():
        with locked(cache.with_name(f".{cache.name}.lock")):  # one process builds, others wait
            if not cache.is_file():
                _write(cache, files, size, progress)
    try:
        return np.lib.format.open_memmap(cache, "r")
    except ValueError as error:
        raise CacheError(f"{cache}: damaged ({error}); delete it and repeat.") from error


def _write(cache: Path, files: list[Path], size: int, progress: bool) -> None:
    # a memory map on a full disk would end the process without a message
    if len(files) * size * size > shutil.disk_usage(cache.parent).free:
        raise CacheError(f"{cache.parent}: disk full; free some space, or set MURA_CACHE.")
    partial = cache.with_name(f".{cache.name}.{os.getpid()}.partial")
    unreadable: dict[int, str] = {}

    def decode(row: int) -> None:
        try:
            pixels[row] = load_square(files[row], size)
        except InputError as error:
            unreadable[row] = str(error).rstrip(".")

    try:
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(files), size, size))
        decoding = joblib.Parallel(-1, prefer="threads", return_as="generator_unordered")(
            joblib.delayed(decode)(row) for row in range(len(files))
        )
        label = f"decoding to {size} px"
        for _ in tqdm(decoding, label, len(files), unit="image", disable=not progress):
            pass
        if unreadable:
            shown = "; ".join(unreadable[row] for row in sorted(unreadable)[:10])
            more = f"; and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
            todo = "`mura audit` lists everything that is wrong with the folder."
            found = f"{len(unreadable)} of {len(files)} images cannot be read"
            raise CacheError(f"{found}: {shown}{more}. {todo}")
        pixels.flush()
        with contextlib.suppress(FileNotFoundError):  # another process has just built this cache
            partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)
    clear_partial(cache)  # of builds that were killed
