"""Write files whole or not at all, and the base class of errors that bad input causes."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class InputError(ValueError):
    """Something a person handed in is wrong.

    The message names the file, what was found, what was expected and what to do; the command
    line prints it as one line and exits with status 2.
    """


def project_folder() -> Path:
    """Return the checkout around the current folder, as a relative path ("" or "..", say).

    Notebooks run in ``notebooks/`` and commands in the checkout itself; both mean the same
    ``data/``, ``models/`` and ``plots/``. Outside a checkout it is the current folder.
    """
    here = Path.cwd()
    for depth, folder in enumerate((here, *here.parents)):
        if (folder / "src" / "mura").is_dir():
            return Path(*[".."] * depth)
    return Path()


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    Args:
        path: The final name. Its folder is created when missing.
        mode: ``"w"`` for UTF-8 text with LF line ends, ``"wb"`` for bytes.

    Raises:
        OSError: The folder cannot be written; ``path`` is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # mkstemp makes 0600, which a shared folder cannot read
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON (keys in their order, NaN refused), atomically."""
    with write_atomically(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is not JSON; the message names it.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a JSON file ({error}); restore or delete it.") from error
