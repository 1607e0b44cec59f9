"""Choose the data set: MURA if it is there, else the phantom, drawn on first use.

Each layout has a module here that reads it into a manifest; nothing else knows a layout.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from mura import phantom
from mura.data.sources.mura import data_folder, read
from mura.files import InputError, absolute, printable, project_folder, read_json

__all__ = [
    "data_name",
    "data_root",
    "figures_folder",
    "is_synthetic",
    "phantom_folder",
    "prepare",
    "prepare_phantom",
    "read",
]


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder with the four CSV files.

    Args:
        root: The folder itself; None: ``MURA_ROOT`` in the environment, else ``data/MURA-v1.1``
            in the checkout if that exists, else ``data/phantom/MURA-v1.1``. A relative
            ``MURA_ROOT`` starts at the checkout. A leading ``~`` is the home folder.
    """
    if root is None and os.environ.get("MURA_ROOT"):
        root = project_folder() / Path(os.environ["MURA_ROOT"]).expanduser()
    if root is not None:
        root = Path(root).expanduser()
        # a run records the folder's name, and "." has none
        return absolute(root) if root.name in ("", "..") else root
    data = project_folder() / "data"
    return data / "MURA-v1.1" if (data / "MURA-v1.1").is_dir() else data / "phantom" / "MURA-v1.1"


def phantom_folder(scale: float = phantom.DEFAULT_SCALE, seed: int = 0) -> Path:
    """Return a phantom's folder in the checkout: ``data/phantom`` for the default one.

    Each other scale and seed has a folder of its own.
    """
    return project_folder() / "data" / _phantom_name(scale, seed)


def _phantom_name(scale: float = phantom.DEFAULT_SCALE, seed: int = 0) -> str:
    size = "" if scale == phantom.DEFAULT_SCALE else f"-scale{scale:g}"
    return f"phantom{size}" + ("" if seed == 0 else f"-seed{seed}")


def prepare_phantom() -> Path:
    """Return the default phantom's root, drawn if need be, even if MURA is there."""
    return prepare(phantom_folder() / "MURA-v1.1")


def is_phantom(root: str | Path) -> bool:
    """Whether this project drew a data folder, as ``phantom.json`` beside it tells."""
    return (Path(root).parent / "phantom.json").is_file()


def data_name(root: str | Path) -> str:
    """Return a data set's name in runs and results.

    "phantom" is the default phantom, "phantom-scale0.02-seed1" another one; any other data set
    has its folder's name.

    Raises:
        InputError: A phantom's ``phantom.json`` is damaged.
    """
    if not is_phantom(root):
        return Path(root).name
    file = Path(root).parent / "phantom.json"
    facts = read_json(file)
    known = facts if isinstance(facts, dict) else {}
    scale, seed = known.get("scale"), known.get("seed")
    if type(scale) not in (int, float) or type(seed) is not int or not 0 < scale <= 1 or seed < 0:
        raise InputError(f"{file}: no scale and seed of a phantom in it; restore or delete it.")
    return _phantom_name(scale, seed)


def is_synthetic(data: str) -> bool:
    """Whether the data set of this name (see ``data_name``) is a phantom."""
    return re.fullmatch(r"phantom(-scale[0-9.e+-]+)?(-seed[0-9]+)?", data) is not None


def figures_folder(folder: str | Path, data: str) -> Path:
    """Return where notebooks write the figures of a data set.

    The default phantom's figures go to ``folder`` itself, where README.md shows some of them. All
    others go to a subfolder that git ignores, so that nobody publishes radiographs by accident.

    Args:
        folder: ``plots/``, as a notebook's first cell names it.
        data: As ``data_name`` returns it.

    Raises:
        InputError: The name, which may come from a stranger's run, is no plain folder name.
    """
    if data in ("", ".", "..") or data != Path(data).name:
        raise InputError(
            f"data set {printable(data)!r}: no plain folder name; the environment.json of the run "
            "that names it may be damaged."
        )
    return Path(folder) if data == "phantom" else Path(folder) / data


def prepare(root: str | Path | None = None) -> Path:
    """Return the data folder to use, say which it is, and draw the default phantom if need be.

    Args:
        root: The folder that holds the four CSV files; None: ``MURA_ROOT`` in the environment,
            else ``data/MURA-v1.1`` where that exists, else the phantom.

    Raises:
        FileNotFoundError: The folder, or one of its CSV files, is missing.
    """
    from_environment = root is None and bool(os.environ.get("MURA_ROOT"))
    root = data_root(root)
    if root == phantom_folder() / "MURA-v1.1" and not root.is_dir():
        print(f"data: {root} (the embedded phantom, drawn now)", flush=True)
        phantom.generate(root.parent)
    else:
        try:
            data_folder(root)
        except FileNotFoundError as error:
            if from_environment:
                raise FileNotFoundError(f"MURA_ROOT in the environment: {error}") from None
            raise
        kind = "the embedded phantom: synthetic images" if is_phantom(root) else "radiographs"
        print(f"data: {root} ({kind})", flush=True)
        if root.parent == phantom_folder() and not phantom.is_current(root.parent):
            print(
                f"mura: {root.parent} was drawn by another version of this project, so results "
                "differ from those shown here. Delete the folder to draw it again.",
                file=sys.stderr,
            )
    return root
