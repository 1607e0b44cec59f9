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
from mura.data.manifest import image_files
from mura.files import InputError, absolute, clear_partial, project_folder

# Part of every cache's name: raise it when decoding or fitting changes what is stored.
VERSION = 2


class CacheError(InputError):
    """A pixel cache cannot be built; the message says why and what to do."""


class PixelCache:
    """A data set's images as one read-only memory map.

    ``pixels`` is uint8[N, S, S]; row i is manifest row i, fitted into the square as
    ``images.fit_square`` does. The file's name carries a digest of the images' paths, sizes and
    times, of S and of the version, so a changed image means another file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.pixels: np.memmap = np.lib.format.open_memmap(file, "r")
        except ValueError as error:
            raise CacheError(f"{file}: damaged ({error}); delete it and repeat.") from error

    @classmethod
    def build(
        cls,
        manifest: pd.DataFrame,
        root: str | Path,
        size: int,
        folder: str | Path | None = None,
        progress: bool = True,
    ) -> PixelCache:
        """Open the cache of a manifest; build it first if it is missing.

        A build that is killed leaves no cache, and the next one starts again.

        Args:
            manifest: As ``read_manifest`` returns it.
            root: The data folder that it was read from.
            size: S in pixels.
            folder: Where caches are kept; None: ``MURA_CACHE`` in the environment (a relative one
                starts at the checkout), else ``cache`` beside the data folder.
            progress: Whether to show a progress bar.

        Raises:
            CacheError: The manifest is empty, the size is below 1, or images are missing or
                unreadable (up to ten are named).
            OSError: The folder cannot be written, or its disk has too little space.
        """
        if manifest.empty:
            raise CacheError(f"{root}: no images to decode; the manifest is empty.")
        if size < 1:
            raise CacheError(f"image size {size}: expected at least 1 pixel.")
        files = image_files(root, manifest["path"])
        folder = Path(folder).expanduser() if folder else _usual_folder(root)
        digest = hashlib.sha256(f"{VERSION} {size}".encode())
        for path, file in zip(manifest["path"], files, strict=True):
            digest.update(f"\n{path} {_size_and_time(file)}".encode(errors="surrogateescape"))
        cache = folder / f"{absolute(root).name}-{size}px-{digest.hexdigest()[:16]}.npy"
        if not cache.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _write(cache, files, size, progress)
        return cls(cache)


def _write(cache: Path, files: list[Path], size: int, progress: bool) -> None:
    needed, free = len(files) * size * size, shutil.disk_usage(cache.parent).free
    if needed > free:  # a memory map on a full disk would end the process without a message
        raise CacheError(
            f"{cache.parent}: the pixel cache needs {needed / 1e6:,.0f} MB, and only "
            f"{free / 1e6:,.0f} MB are free; free some space, or name another folder with "
            "MURA_CACHE."
        )
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
            raise CacheError(_name_unreadable(unreadable, len(files)))
        pixels.flush()
        with contextlib.suppress(FileNotFoundError):  # another process has just built this cache
            partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)
    clear_partial(cache)  # what killed builds left


def _usual_folder(root: str | Path) -> Path:
    if named := os.environ.get("MURA_CACHE"):
        return project_folder() / Path(named).expanduser()
    return absolute(root).parent / "cache"


def _size_and_time(file: Path) -> str:
    try:
        facts = file.stat()
    except OSError:
        return "missing"
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _name_unreadable(unreadable: dict[int, str], images: int) -> str:
    shown = [unreadable[row] for row in sorted(unreadable)[:10]]
    more = f"; and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
    return (
        f"{len(unreadable)} of {images} images cannot be read: {'; '.join(shown)}{more}. "
        "`mura audit` lists all that is wrong with the folder."
    )
