"""Write files whole or not at all, and the base class of errors that bad input causes."""

import contextlib
import errno
import glob
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class InputError(ValueError):
    """Something a person handed in is wrong.

    The message names the file, what was found, what was expected and what to do; the command
    line prints it as one line and exits with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: in a notebook, too, the message alone helps."""
        return [f"{type(self).__name__}: {self}"]


_REMEDIES = {
    errno.ENOSPC: "free some space there and repeat; what stood there before still does",
    errno.EDQUOT: "free some space there and repeat; what stood there before still does",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "name a file or folder that you may use",
    errno.EPERM: "name a file or folder that you may use",
    errno.EEXIST: "a file is in the way; choose another name",
    errno.ENOTDIR: "a file stands where a folder is expected; check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system


def one_line(error: Exception) -> str:
    """Return an error as one printable line that names the file.

    The system's own errors get a remedy added.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        text = error.strerror
        if error.filename is not None:
            text = f"{os.fsdecode(error.filename)}: {text}"
        text = f"{text}; {_REMEDIES.get(error.errno, 'check the path and the disk')}."
    return printable(" ".join(text.split()))


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


def absolute(path: str | Path) -> Path:
    """Return an absolute path whose links stay: one named MURA-v1.1 may lead to another name."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def printable(text: str) -> str:
    r"""Return a file's name, or what quotes one, as text that may be shown on one line.

    To the system a name is bytes of any kind. What is no text, and what a terminal would obey
    instead of showing it (line breaks, escape sequences, reversed writing), is spelled out:
    ``\xf6``, ``\n``, ``\u202e``. So a stranger's file names can neither hide nor forge a line.
    """
    return "".join(one if one.isprintable() else _spelled_out(one) for one in text)


def _spelled_out(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python holds a byte that is no text (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def as_named(path: str | Path) -> Path:
    """Return the path that somebody named: from the current folder, else from the checkout.

    So that what a command takes does in a notebook, too. A leading ``~`` is one's home.
    """
    path = Path(path).expanduser()
    from_checkout = project_folder() / path
    return from_checkout if from_checkout.exists() and not path.exists() else path


def make_folder(folder: Path) -> None:
    """Make a folder in one that is there.

    Raises:
        InputError: That one is not: a drive that is not mounted, say, whose place another disk
            would take.
    """
    if not folder.parent.is_dir():
        raise InputError(
            f"{folder}: there is no folder {folder.parent}; mount the drive it is on, or make it."
        )
    folder.mkdir(exist_ok=True)


@contextlib.contextmanager
def only_one(file: Path, busy: str) -> Iterator[None]:
    """Let one process at a time into the block; print ``busy`` where this one has to wait.

    The operating system holds the lock on ``file``, so that it is free when its process is killed.
    The file stays: removing it could let two in.
    """
    import filelock  # here, so that a cold `mura predict` does not wait for it

    try:
        lock = lock_of_process(file)
    except filelock.Timeout:
        print(f"{busy}; waiting for it.", flush=True)
        lock = lock_of_process(file, wait=True)
    with lock:
        yield


def lock_of_process(file: Path, wait: bool = False) -> contextlib.AbstractContextManager:
    """Take the operating system's lock on ``file``; leaving the context that is returned frees it.

    Some file systems keep no locks (Lustre without the mount option, some of NFS): there this says
    so, and nothing is locked, rather than that nothing could be trained.

    Raises:
        filelock.Timeout: Another process holds it, and ``wait`` is False.
        OSError: The file cannot be opened; the error names it.
    """
    import filelock

    # Without a fallback: a marker of its own would outlive its process.
    lock = filelock.FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            error.filename = error.filename or str(file)
            raise
        print(
            f"{file}: this file system keeps no locks; see to it that no other process writes the "
            "same.",
            file=sys.stderr,
        )
        return contextlib.nullcontext()
    return _released(lock)


@contextlib.contextmanager
def _released(lock: Any) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def write_atomically(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    r"""Open a temporary file that replaces ``path`` when the block ends without an error.

    Args:
        path: The final name. Its folder is created when missing; where it is a link, what it
            leads to is replaced. A device or a pipe (``/dev/stdout``) is written to as it is.
        mode: ``"w"`` for UTF-8 text with LF line ends, ``"wb"`` for bytes. What is no text (of a
            file's name) is written as ``\udcf6``, which JSON reads back as it was.

    Raises:
        OSError: The folder cannot be written, or its disk is full; ``path`` is then as it was.
    """
    path = Path(path)
    as_text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
    text = {} if "b" in mode else as_text
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open(mode, **text) as file:
            yield file
        return
    named, path = path, path.resolve()  # errors keep the name that a person gave
    start = f".{path.name}."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=".partial")
    except OSError as error:
        error.filename = str(named)  # not the temporary name, which says nothing to a person
        raise
    try:
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        permit(Path(name), 0o666 & ~umask)  # mkstemp makes 0600, which a shared folder cannot read
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename = str(named)  # a full disk does not say which file it stopped
        raise


def permit(path: Path, mode: int) -> None:
    """Set who may read and write; without effect where the file system keeps no such permissions.

    Some that are mounted refuse it: SMB, S3.
    """
    with contextlib.suppress(OSError):
        path.chmod(mode)


def clear_partial(path: str | Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` have left.

    Only for a file that no other process may be writing.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        left.unlink(missing_ok=True)


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
