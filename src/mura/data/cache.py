"""Decode every image of a data set once into one memory-mapped file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data.images import load_square
from mura.data.manifest import image_files
from mura.files import InputError, absolute, only_one, project_folder, read_json, write_json
from mura.parallel import map_unordered

# Part of every cache's name: raise it when decoding or fitting changes what is stored.
PREPROCESSING = 1

# What is known about a row: the image file it was decoded from, and the checksum of its pixels.
_ROW = np.dtype([("bytes", "<i8"), ("modified_ns", "<i8"), ("checksum", "<u4"), ("done", "<u4")])


class CacheError(InputError):
    """A pixel cache cannot be built; the message says why and what to do."""


class PixelCache:
    """A data set's images as one read-only memory map.

    ``pixels`` is uint8[N, S, S]; row i is manifest row i, fitted into the square as
    ``images.fit_square`` does. The file's name carries a digest of the image list, the size and
    the preprocessing; ``.rows`` beside it holds the size and time of each image file and the
    checksum of each row, so that rows of changed images, half-written and damaged rows are
    decoded again and never served.
    """

    def __init__(self, file: Path, images: int, size: int) -> None:
        self.file = file
        self.pixels: np.memmap = np.memmap(file, np.uint8, "r", shape=(images, size, size))

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
            folder: Where caches stand; None: ``MURA_CACHE`` in the environment (a relative one
                starts at the checkout), else ``cache`` beside the data folder.
            progress: Whether to show a progress bar.

        Raises:
            CacheError: Images are missing or unreadable (up to ten are named), the folder cannot
                be written or the disk is full; what was decoded is kept for the next try.
                Or one of its files is a symbolic link.
        """
        if manifest.empty:
            raise CacheError(f"{root}: no images to decode; the manifest is empty.")
        if not hasattr(os, "pwrite"):
            raise CacheError("The pixel cache needs Linux or macOS; on Windows work in WSL 2.")
        if size < 1:
            raise CacheError(f"image size {size}: expected at least 1 pixel.")
        files = image_files(root, manifest["path"])
        folder = Path(folder).expanduser() if folder else _usual_folder(root)
        digest = hashlib.sha256("\n".join([f"{PREPROCESSING} {size}", *manifest["path"]]).encode())
        name = f"{absolute(root).name}-{size}px-{digest.hexdigest()[:16]}"
        cache = _CacheFiles(folder / name, _describe(files), size)
        cache.refuse_links()
        if not cache.is_current():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                busy = f"{name}: another process is building this cache"
                with only_one(cache.lock, busy):
                    if not cache.is_current():  # another process may have built it meanwhile
                        cache.write(files, progress)
            except OSError as error:
                raise CacheError(
                    f"{folder}: the pixel cache cannot be written ({error.strerror or error}); it "
                    f"needs {cache.total_bytes / 1e6:,.0f} MB there. What is decoded is kept: "
                    "free some space, or name another folder with MURA_CACHE, and repeat."
                ) from error
        return cls(cache.data, len(files), size)

    def verify(self) -> bool:
        """Whether every row still has the checksum it was written with (reads everything)."""
        rows = _read_rows(self.file.with_suffix(".rows"), len(self.pixels))
        return bool(_sound_rows(self.file, rows, self.pixels.shape[1]).all())


class _CacheFiles:
    """The files of one cache: ``.pixels`` or ``.partial``, ``.rows`` and ``.json``."""

    def __init__(self, stem: Path, expected: np.ndarray, size: int) -> None:
        self.data = stem.with_name(f"{stem.name}.pixels")
        self.partial = stem.with_name(f"{stem.name}.partial")
        self.rows = stem.with_name(f"{stem.name}.rows")
        self.facts = stem.with_name(f"{stem.name}.json")
        self.lock = stem.with_name(f"{stem.name}.lock")
        self.expected, self.size = expected, size
        self.row_bytes = size * size
        self.total_bytes = len(expected) * self.row_bytes

    def refuse_links(self) -> None:
        """Raise where a file is a link: what it leads to would be written over.

        A stranger's archive of data may bring a cache along.
        """
        for file in (self.data, self.partial, self.rows, self.facts, self.lock):
            if file.is_symlink():
                raise CacheError(
                    f"{file}: a symbolic link, and a pixel cache writes through none; delete it, "
                    "or name another folder with MURA_CACHE."
                )

    def is_current(self) -> bool:
        """Whether the cache is whole and of these images: by size and times, else by checksums."""
        if not self.data.is_file() or self.data.stat().st_size != self.total_bytes:
            return False
        rows = _read_rows(self.rows, len(self.expected))
        if not _decoded_from(rows, self.expected).all():
            return False
        with contextlib.suppress(OSError, InputError):
            if read_json(self.facts) == self._facts():
                return True
        # Moved, copied or tampered with; or the process was killed just before it wrote the facts.
        if not _sound_rows(self.data, rows, self.size).all():
            return False
        with contextlib.suppress(OSError):  # a read-only folder: checked again next time
            write_json(self.facts, self._facts())
        return True

    def write(self, files: list[Path], progress: bool) -> None:
        """Decode what is not there yet into the partial file, and rename it when it is whole.

        A row counts as done when its checksum was written after its pixels; a continued build
        compares the two, so what a kill or a power cut left half-written is decoded again.
        """
        if not self.partial.is_file() and self.data.is_file():
            # Not in place: another process may have the old one mapped.
            self._refuse_full_disk(self.total_bytes)
            shutil.copyfile(self.data, self.partial)
        rows = _read_rows(self.rows, len(files))
        keep = _decoded_from(rows, self.expected)
        keep &= _sound_rows(self.partial, rows, self.size, np.flatnonzero(keep))
        rows[~keep] = 0
        write_rows = np.flatnonzero(~keep)
        unreadable: dict[int, str] = {}
        flags = os.O_RDWR | os.O_CREAT
        with _opened(self.partial, flags) as data, _opened(self.rows, flags) as journal:
            on_disk = os.fstat(data).st_blocks * 512
            self._refuse_full_disk(self.total_bytes - on_disk)
            os.truncate(data, self.total_bytes)
            _write_all(journal, rows.tobytes(), 0)
            os.truncate(journal, rows.nbytes)

            def decode(row: int) -> None:
                try:
                    pixels = load_square(files[row], self.size)
                except (InputError, OSError) as error:
                    unreadable[row] = str(error)
                    return
                _write_all(data, pixels, row * self.row_bytes)
                known = self.expected[row].copy()
                known["checksum"], known["done"] = zlib.crc32(pixels), 1
                _write_all(journal, known.tobytes(), row * _ROW.itemsize)
                rows[row] = known

            label = f"decoding to {self.size} px"
            done = len(files) - len(write_rows)
            blocks = map_unordered(decode, write_rows.tolist(), label, progress, done=done)
            with contextlib.closing(blocks):  # no thread may write once the files are closed
                for _ in blocks:
                    continue
            with ThreadPoolExecutor() as pool:
                synced = [pool.submit(os.fsync, file) for file in (data, journal)]
                sound = _sound_rows(self.partial, rows, self.size)  # from memory, beside the disk
            for each in synced:
                each.result()
        if unreadable:
            raise CacheError(_name_unreadable(unreadable, len(files)))
        if not sound.all():
            raise CacheError(
                f"{self.partial}: reads back differently from what was written; the disk may be "
                "failing: name a folder on another one with MURA_CACHE."
            )
        self.partial.replace(self.data)
        write_json(self.facts, self._facts())

    def _refuse_full_disk(self, needed: int) -> None:
        # Before the work, not after minutes of it.
        free = shutil.disk_usage(self.data.parent).free
        if needed > free:
            raise OSError(f"{free / 1e6:,.0f} MB free on that disk")

    def _facts(self) -> dict[str, int]:
        now = self.data.stat()
        return {
            "images": len(self.expected),
            "size": self.size,
            "modified_ns": now.st_mtime_ns,
            "changed_ns": now.st_ctime_ns,  # which nobody can set back
            "rows_checksum": zlib.crc32(self.rows.read_bytes()),
        }


def _usual_folder(root: str | Path) -> Path:
    if named := os.environ.get("MURA_CACHE"):
        return project_folder() / Path(named).expanduser()
    return absolute(root).parent / "cache"


def _describe(files: list[Path]) -> np.ndarray:
    """Return size and time of every file (-1 where it is missing), as _ROW without checksums."""
    rows = np.zeros(len(files), _ROW)
    for row, file in enumerate(files):
        try:
            facts = os.stat(file)  # noqa: PTH116 (a third faster, for 40,005 files)
            rows[row] = (facts.st_size, facts.st_mtime_ns, 0, 0)
        except OSError:
            rows[row] = (-1, 0, 0, 0)
    return rows


def _read_rows(file: Path, count: int) -> np.ndarray:
    """Return the row records, or blank ones where they are missing or of another length."""
    with contextlib.suppress(OSError):
        content = file.read_bytes()
        if len(content) == count * _ROW.itemsize:
            return np.frombuffer(content, _ROW).copy()
    return np.zeros(count, _ROW)


def _decoded_from(rows: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return bool[N]: which rows were decoded from the image files as they are now."""
    same = (rows["bytes"] == expected["bytes"]) & (rows["modified_ns"] == expected["modified_ns"])
    return same & (rows["done"] == 1)


def _sound_rows(
    file: Path, rows: np.ndarray, size: int, only: np.ndarray | None = None
) -> np.ndarray:
    """Return bool[N]: which rows of a data file have their checksum (of ``only``, when given)."""
    sound = np.zeros(len(rows), bool)
    only = np.arange(len(rows)) if only is None else only
    if not len(only) or not file.is_file():
        return sound
    with _opened(file, os.O_RDONLY) as data:

        def check(row: int) -> None:
            # read, not mapped: a file cut off meanwhile is then a wrong checksum and no crash
            pixels = os.pread(data, size * size, row * size * size)
            sound[row] = len(pixels) == size * size and zlib.crc32(pixels) == rows[row]["checksum"]

        for _ in map_unordered(check, only.tolist(), "", progress=False, block=256):
            continue
    return sound


def _write_all(descriptor: int, content: bytes | np.ndarray, offset: int) -> None:
    # pwrite, not a memory map: a full disk is then an error and no bus error
    view = memoryview(content).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


@contextlib.contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    # a link that was not there when they were looked for is not followed either
    descriptor = os.open(file, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _name_unreadable(unreadable: dict[int, str], images: int) -> str:
    shown = [unreadable[row].rstrip(".") for row in sorted(unreadable)[:10]]
    more = f"; and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
    return (
        f"{len(unreadable)} of {images} images cannot be read: {'; '.join(shown)}{more}. The "
        "others are decoded and kept; `mura audit` lists all that is wrong with the folder."
    )
