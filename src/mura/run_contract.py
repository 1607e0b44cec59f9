"""What a run may be called, and what its JSON files must hold for others to rely on them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mura.files import printable

LONGEST = 255  # bytes of a file's name, on nearly every file system
_LARGE = 2**63  # below it a number fits pandas' integers, and a float


def naming_fault(name: str, weights: str | None) -> str:
    """Return why a training's run cannot be written and what to do, "" where it can.

    Args:
        name: What the run is to be called.
        weights: What its recipe names as its start.
    """
    named = f"run name {printable(name)}"
    if name != Path(name).name or name.startswith("."):
        return f"{named}: use a plain folder name without separators."
    if not _is_text(name):
        return f"{named}: its bytes are no UTF-8 text; choose another --name."
    # The longest name beside it: of the folder that `runs.write_run` fills, at a training's end.
    beside = len(os.fsencode(f".{name}.writing-")) + 8
    if beside > LONGEST:
        return f"{named}: {beside - LONGEST} bytes too long; choose a shorter --name."
    if weights and not _is_text(weights):
        return (
            f"weights {printable(weights)}: the bytes of this path are no UTF-8 text; rename what "
            "is called so, or name a link to it."
        )
    return ""


def _is_text(name: str) -> bool:
    """Whether a name, which is bytes of any kind to the system, can be written as UTF-8."""
    return re.search("[\ud800-\udfff]", name) is None  # how Python holds other bytes (PEP 383)


def content_fault(content: Any, kinds: Mapping[str, str]) -> str:
    """Return which of a JSON file's values is missing or of another kind, "" where none is.

    Args:
        content: What the file, or one of its values, holds.
        kinds: Each value's key to its kind, one of those below.
    """
    known = content if isinstance(content, dict) else {}
    missing = [key for key in kinds if key not in known and not _KINDS[kinds[key]](None)]
    if missing:
        return f"no {', '.join(missing)}"
    for key, kind in kinds.items():
        if not _KINDS[kind](known.get(key)):
            return f"{key} is {known[key]!r:.60}, expected {kind}"
    return ""


def environment_fault(content: Any) -> str:
    """Return what is wrong with the content of environment.json, "" where nothing is."""
    if fault := content_fault(content, _ENVIRONMENT):
        return fault
    fault = content_fault(content["data"], {"name": "text", "images": "counts with one of fit"})
    return fault and f"its data: {fault}"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGE  # true and false are no counts


# Whether a value is of a kind, by what messages call that kind. One that may be null may be absent.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "a list": lambda value: isinstance(value, list),
    "a list of text": lambda value: (
        isinstance(value, list) and all(isinstance(each, str) for each in value)
    ),
    "an object": lambda value: isinstance(value, dict),
    "a whole number of 0 or more": _is_count,
    "a number of 0 or more": lambda value: (
        _is_count(value) or (isinstance(value, float) and 0 <= value < _LARGE)
    ),
    "counts with one of fit": lambda value: (
        isinstance(value, dict) and "fit" in value and all(map(_is_count, value.values()))
    ),
}

# What other modules read of these files.
RECIPE = {
    **{"architecture": "text", "head": "text", "body_parts": "a list of text"},
    **{"image_size": "a whole number of 0 or more", "weights": "text or null"},
}
METRICS = {"split": "text", "table": "a list"}
_ENVIRONMENT = {
    **{"data": "an object", "weights": "text", "compute": "an object", "finished": "text or null"},
    **dict.fromkeys(("parameters", "epochs", "best_epoch"), "a whole number of 0 or more"),
    **dict.fromkeys(("training_seconds", "images_per_second"), "a number of 0 or more"),
}
