"""Choose the data set, and read it. Each layout has a module here; nothing else knows a layout.

A source is a module with matches(root), read(root), image_files(root, paths), name(root),
note(manifest), boxes(root), and for the audit check(root) and against_published(counts). Without a
root it is MURA if that is there, else the phantom, drawn on first use.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pandas as pd

from mura import phantom
from mura.data.manifest import ManifestError
from mura.data.sources import fracatlas, mura, table
from mura.files import InputError, absolute, printable, project_folder, read_json

SOURCES = (mura, fracatlas, table)


def source(root: str | Path) -> ModuleType:
    """Return the module that reads what lies in a folder, or a table.

    Raises:
        FileNotFoundError: There is nothing that a source can read.
    """
    root = absolute(root)
    for each in SOURCES:
        if each.matches(root):
            return each
    found = "no data set that can be read here" if root.is_dir() else "no such data folder or table"
    todo = "name MURA-v1.1, FracAtlas or a CSV table (--root or MURA_ROOT), or draw the phantom"
    raise FileNotFoundError(f"{root}: {found}; {todo} with `mura phantom`.")


def read(root: str | Path, excluded: bool = False) -> pd.DataFrame:
    """Read a data set: MURA's layout, FracAtlas or a CSV table.

    Args:
        root: The data folder, or the table.
        excluded: Whether to keep the images that the source leaves out.

    Returns:
        The manifest (see ``mura.data.manifest``), with its rows numbered from 0.

    Raises:
        FileNotFoundError: The folder, or one of its tables, is missing.
        ManifestError: A table does not describe a data set that can be used.
    """
    root = absolute(root)
    manifest = source(root).read(root)
    if not excluded:
        manifest = manifest[manifest["excluded"] == ""].reset_index(drop=True)
        if manifest.empty:
            raise ManifestError(f"{root}: no usable image; `mura audit` says what is wrong.")
    manifest.attrs["data"] = data_name(root)
    return manifest


def image_file(root: str | Path, path: str) -> Path:
    """Return where an image of the manifest lies (see :func:`image_files`)."""
    return image_files(root, [path])[0]


def image_files(root: str | Path, paths: Iterable[str]) -> list[Path]:
    """Return where images of the manifest lie.

    Raises:
        ManifestError: A path leads out of the data folder.
    """
    root = absolute(root)
    return source(root).image_files(root, paths)


def boxes(root: str | Path) -> pd.DataFrame | None:
    """Return where the findings are: path, finding and x0, y0, x1, y1 in pixels; None if unknown.

    One row per box, of images that show their finding; an image may have several.
    """
    root = absolute(root)
    return source(root).boxes(root)


def data_note(root: str | Path, manifest: pd.DataFrame) -> str:
    """Return what a table of results has to say about the data; "" where all is as published."""
    with contextlib.suppress(FileNotFoundError):
        return source(root).note(manifest)
    return ""


def data_root(root: str | Path | None = None) -> Path:
    """Return the data folder, or the table.

    It is ``root`` itself, else ``MURA_ROOT`` in the environment (a relative one starts at the
    checkout), else ``data/MURA-v1.1`` in the checkout if that exists, else
    ``data/phantom/MURA-v1.1``. A leading ``~`` is the home folder.
    """
    if root is None and os.environ.get("MURA_ROOT"):
        root = project_folder() / Path(os.environ["MURA_ROOT"]).expanduser()
    if root is not None:
        root = Path(root).expanduser()
        # a run records the folder's name, and "." has none
        return absolute(root) if root.name in ("", "..") else root
    mura = project_folder() / "data" / "MURA-v1.1"
    return mura if mura.is_dir() else phantom_folder() / "MURA-v1.1"


def phantom_folder(scale: float = phantom.DEFAULT_SCALE, seed: int = 0) -> Path:
    """Return the folder of a scale and seed in the checkout; the default is ``data/phantom``."""
    name = "phantom" if scale == phantom.DEFAULT_SCALE else f"phantom-scale{scale:g}"
    return project_folder() / "data" / (f"{name}-seed{seed}" if seed else name)


def data_name(root: str | Path) -> str:
    """Return a data set's name in runs and results.

    "phantom" is the default phantom, "phantom-scale0.02-seed1" another one; any other data set
    has the name that its source gives.

    Raises:
        InputError: A phantom's ``phantom.json`` is damaged.
    """
    if not _is_phantom(root):
        with contextlib.suppress(FileNotFoundError):
            return source(root).name(absolute(root))
        undrawn = absolute(root) == absolute(phantom_folder() / "MURA-v1.1")
        return "phantom" if undrawn else Path(root).name
    file, name = Path(root).parent / "phantom.json", ""
    facts = read_json(file)
    with contextlib.suppress(KeyError, TypeError, ValueError):
        name = phantom_folder(facts["scale"], facts["seed"]).name
    if not is_synthetic(name):
        raise InputError(f"{file}: no scale and seed of a phantom in it; restore or delete it.")
    return name


def is_synthetic(data: str) -> bool:
    """Whether the data set of this name (see ``data_name``) is a phantom."""
    return re.fullmatch(r"phantom(-scale[0-9.e+-]+)?(-seed[0-9]+)?", data) is not None


def figures_folder(folder: str | Path, data: str) -> Path:
    """Return where notebooks write the figures of the data set that ``data_name`` calls ``data``.

    The default phantom's go to ``folder`` (``plots/``), where README.md shows some of them. All
    others go to a subfolder that git ignores, so that nobody publishes radiographs by accident.

    Raises:
        InputError: The name, which may come from a stranger's run, is not a plain folder name.
    """
    if data in ("", ".", "..") or data != Path(data).name:
        cause = "the environment.json of the run that names it may be damaged."
        raise InputError(f"data set {printable(data)!r}: not a plain folder name; {cause}")
    return Path(folder) if data == "phantom" else Path(folder) / data


def prepare(root: str | Path | None = None) -> Path:
    """Return the data folder to use, say which it is, and draw the default phantom if need be.

    Raises:
        FileNotFoundError: The folder, or one of its CSV files, is missing.
    """
    root = data_root(root)
    if root == phantom_folder() / "MURA-v1.1" and not root.is_dir():
        print(f"data: {root} (the embedded phantom, drawn now)", flush=True)
        phantom.generate(root.parent)
        return root
    source(root)
    kind = "the embedded phantom: synthetic images" if _is_phantom(root) else "radiographs"
    print(f"data: {root} ({kind})", flush=True)
    if root.parent == phantom_folder() and not phantom.is_current(root.parent):
        drawn = f"mura: another version of this project drew {root.parent}"
        todo = "so results differ from those shown here. Delete the folder to draw it again."
        print(f"{drawn}, {todo}", file=sys.stderr)
    return root


def _is_phantom(root: str | Path) -> bool:
    return (Path(root).parent / "phantom.json").is_file()
