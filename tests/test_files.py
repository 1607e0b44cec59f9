"""Files are written whole or not at all, and an error becomes one line that names the file."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from disks import refuse_permissions

from mura.files import (
    InputError,
    absolute,
    as_named,
    clear_partial,
    one_line,
    project_folder,
    read_json,
    write_atomically,
    write_json,
)


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    with write_atomically(path) as file:
        file.write("größe\n")
        assert not path.exists()
    assert path.read_bytes() == "größe\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["table.csv"]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "")])
def test_what_stood_there_stays_when_writing_fails(tmp_path, error):
    path = tmp_path / "results.json"
    path.write_text("earlier")
    with pytest.raises(type(error)), write_atomically(path, "wb") as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "shared.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "shared.json")
    write_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "shared.json").read_text() == "1\n"


def test_an_error_keeps_the_name_that_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as caught, write_atomically("here.txt"):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == "here.txt"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes: Linux or macOS")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # else opening it to write waits for one
    try:
        write_json(pipe, 1)
        assert os.read(reader, 10) == b"1\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_an_error_of_the_disk_names_the_file(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(OSError) as caught, write_atomically(path) as file:
        file.write("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    line = one_line(caught.value)
    assert line.startswith(f"{path}: {os.strerror(errno.ENOSPC)}")
    assert "free some space" in line


def test_a_file_system_without_permissions_is_written_to(tmp_path, monkeypatch):
    refuse_permissions(monkeypatch)
    write_json(tmp_path / "results.json", 1)
    assert read_json(tmp_path / "results.json") == 1


def test_a_folder_that_is_in_the_way_is_named_and_not_the_temporary_file(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(OSError) as caught:
        write_json(tmp_path / "results.json", {})
    assert one_line(caught.value).startswith(f"{tmp_path / 'results.json'}: ")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        write_json(tmp_path / "file" / "results.json", {})
    assert "partial" not in one_line(caught.value)


def test_other_errors_keep_their_words_on_one_line():
    assert one_line(InputError("a.csv: bad\n row;  correct it.")) == "a.csv: bad row; correct it."
    assert one_line(FileNotFoundError("a.csv: no such file.")) == "a.csv: no such file."
    assert one_line(OSError(errno.EIO, "I/O error", "x.png")).startswith("x.png: I/O error; check")


def test_json_is_read_back_and_not_a_number_is_refused(tmp_path):
    content = {"b": 1, "a": [1.5, None, "µ"]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b"9" * 5000])
def test_what_is_no_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")


def test_the_checkout_is_found_from_its_folders_and_not_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "checkout" / "src" / "mura").mkdir(parents=True)
    (tmp_path / "checkout" / "notebooks").mkdir()
    for folder, expected in (
        ("checkout", ""),
        ("checkout/notebooks", ".."),
        ("checkout/src/mura", "../.."),
        (".", ""),
    ):
        monkeypatch.chdir(tmp_path / folder)
        assert project_folder().as_posix() == (expected or ".")


def test_what_is_named_is_looked_for_here_then_in_the_checkout(tmp_path, monkeypatch, home):
    (tmp_path / "src" / "mura").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "x-ray.png").touch()
    (home / "hand.png").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert as_named("x-ray.png") == Path("..") / "x-ray.png"
    (tmp_path / "notebooks" / "x-ray.png").touch()
    assert as_named("x-ray.png") == Path("x-ray.png")
    assert as_named("none.png") == Path("none.png")
    assert as_named("~/hand.png") == home / "hand.png"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    file = tmp_path / "[1].npz"
    for name in (".[1].npz.abc.partial", ".1.npz.abc.partial", ".[1].npz.abc", "[1].npz"):
        (tmp_path / name).touch()
    clear_partial(file)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".1.npz.abc.partial", ".[1].npz.abc", "[1].npz"}


def test_an_absolute_path_keeps_its_links(tmp_path, monkeypatch):
    (tmp_path / "kept elsewhere").mkdir()
    (tmp_path / "MURA-v1.1").symlink_to("kept elsewhere")
    monkeypatch.chdir(tmp_path)
    assert absolute("MURA-v1.1/../MURA-v1.1") == tmp_path / "MURA-v1.1"
