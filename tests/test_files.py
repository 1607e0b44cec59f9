"""Files are written whole or not at all, and an error becomes one line that names the file."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mura.files import (
    InputError,
    absolute,
    as_named,
    clear_partial,
    locked,
    printable,
    project_folder,
    read_json,
    write_atomically,
    write_json,
)


def test_a_file_appears_when_the_block_ends_and_others_may_read_it(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    before = os.umask(0o027)
    try:
        with write_atomically(path) as file:
            file.write("größe\n")
            assert not path.exists()
    finally:
        os.umask(before)
    assert path.read_bytes() == "größe\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "")])
def test_a_failed_write_leaves_the_earlier_file(tmp_path, error):
    path = tmp_path / "results.json"
    path.write_text("earlier")
    with pytest.raises(type(error)), write_atomically(path, "wb") as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_lock_lets_one_process_in_at_a_time(tmp_path):
    lock = tmp_path / "lock"
    code = "import sys; from mura.files import locked; print('asks', flush=True)\n"
    code += "with locked(sys.argv[1]): print('in')"
    with locked(lock):
        command = [sys.executable, "-c", code, lock]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "asks\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
    assert other.communicate(timeout=60)[0] == "in\n"
    assert not any(tmp_path.iterdir())


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "shared.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "shared.json")
    write_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "shared.json").read_text() == "1\n"


def test_an_error_names_the_given_path_and_not_the_temporary_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as caught, write_atomically("here.txt"):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == "here.txt"
    (tmp_path / "results.json").mkdir()
    with pytest.raises(OSError) as caught:
        write_json(tmp_path / "results.json", {})
    assert caught.value.filename == str(tmp_path / "results.json")


def test_json_is_read_back_and_not_a_number_is_refused(tmp_path):
    content = {"b": 1, "a": [1.5, None, "µ"]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b"9" * 5000])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("größe/手.png", "größe/手.png"),
        ("a\033[2J\033[H", r"a\x1b[2J\x1b[H"),
        ("z: in no list\n\nno findings\n", r"z: in no list\n\nno findings\n"),
        ("\r\t\x07\x7f\x9b\0", r"\r\t\x07\x7f\x9b\x00"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),  # shown from right to left: "aexe.png"
        ("a\u2028b\ud800\U000e0001", r"a\u2028b\ud800\U000e0001"),
    ],
)
def test_names_are_printed_on_one_line_without_control_characters(name, shown):
    assert printable(name) == printable(shown) == shown


def test_named_files_are_looked_for_here_and_then_in_the_checkout(tmp_path, monkeypatch, home):
    (tmp_path / "src" / "mura").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "x-ray.png").touch()
    (home / "hand.png").touch()
    for folder, expected in (("", "."), ("notebooks", ".."), ("src/mura", "../.."), ("..", ".")):
        monkeypatch.chdir(tmp_path / folder)
        assert project_folder().as_posix() == expected
    monkeypatch.chdir(tmp_path / "notebooks")
    assert as_named("x-ray.png") == Path("..") / "x-ray.png"
    (tmp_path / "notebooks" / "x-ray.png").touch()
    assert as_named("x-ray.png") == Path("x-ray.png")
    assert as_named("none.png") == Path("none.png")
    assert as_named("~/hand.png") == home / "hand.png"


def test_temporary_files_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    for name in (".[1].npz.abc.partial", ".1.npz.abc.partial", ".[1].npz.abc", "[1].npz"):
        (tmp_path / name).touch()
    clear_partial(tmp_path / "[1].npz")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".1.npz.abc.partial", ".[1].npz.abc", "[1].npz"}


def test_an_absolute_path_keeps_its_links(tmp_path, monkeypatch):
    (tmp_path / "kept elsewhere").mkdir()
    (tmp_path / "MURA-v1.1").symlink_to("kept elsewhere")
    monkeypatch.chdir(tmp_path)
    assert absolute("MURA-v1.1/../MURA-v1.1") == tmp_path / "MURA-v1.1"
