"""Project paths, files that are written whole or not at all, and the errors of bad input."""

import contextlib
import glob
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class InputError(ValueError):
    """The user's input is wrong.

    The message names the file, what was found, what was expected and what to do; the command
    line prints it as one line and exits with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: the message without a traceback."""
        return [f"{type(self).__name__}: {self}"]


def project_folder() -> Path:
    """Return the checkout around the current folder, as a relative path ("" or "..", say).

    Notebooks run in ``notebooks/`` and commands in the checkout itself; both use the same
    ``data/``, ``models/`` and ``plots/``. Outside a checkout it is the current folder.
    """
    here = Path.cwd()
    for depth, folder in enumerate((here, *here.parents)):
        if (folder / "src" / "mura").is_dir():
            return Path(*[".."] * depth)
    return Path()


def absolute(path: str | Path) -> Path:
    """Return an absolute path without resolving links: MURA-v1.1 may link to another name."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def printable(text: str) -> str:
    r"""Return text on one line, with unprintable characters escaped: ``\n``, ``\u202e``.

    File names may hold line breaks and escape sequences, which would hide or forge output.
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def as_named(path: str | Path) -> Path:
    """Return a path that a user named, from the current folder if it is there, else the checkout.

    Commands and notebooks then take the same paths. A leading ``~`` is the home folder.
    """
    path = Path(path).expanduser()
    from_checkout = project_folder() / path
    return from_checkout if from_checkout.exists() and not path.exists() else path


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` when the block ends without an error.

    Args:
        path: The final name. Its folder is created if missing; if it is a link, its target is
            replaced.
        mode: ``"w"`` for UTF-8 text with LF line ends, ``"wb"`` for bytes.

    Raises:
        OSError: The folder cannot be written, or its disk is full; ``path`` is unchanged.
    """
    named, path = Path(path), Path(path).resolve()  # errors name the path that was given
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(".partial", f".{path.name}.", path.parent)
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and (not temporary or error.filename in (None, temporary)):
            error.filename = str(named)  # a full disk does not say which file it stopped
        raise


def clear_partial(path: str | Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote ``path``."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        left.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Let one process at a time into a block by locking a file, which the block's end removes.

    A process that dies holds no lock. Where there are none (Windows, some cluster file systems),
    nobody waits.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or nested beyond reason
        raise InputError(f"{path}: not a JSON file ({error}); restore or delete it.") from error
