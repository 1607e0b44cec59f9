"""`make fracatlas`: FracAtlas arrives whole or not at all, and errors are one sentence."""

import hashlib
import importlib.util
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "fracatlas.py"
SPEC = importlib.util.spec_from_file_location("fracatlas", SCRIPT)
fracatlas = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fracatlas)

FILES = {  # the authors' layout
    "dataset.csv": b"image_id,hand,leg,hip,shoulder,mixed,hardware,multiscan,fractured\n",
    "images/Fractured/IMG0000019.jpg": b"one" * 9999,
    "images/Non_fractured/IMG0000000.jpg": b"two" * 9999,
    "Annotations/COCO JSON/COCO_fracture_masks.json": b"{}",
    "Utilities/Fracture Split/train.csv": b"image_id\n",
}


def zipped(files: dict[str, bytes] = FILES, top: str = "FracAtlas/") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(top + name, content)
    return file.getvalue()


ARCHIVE = zipped(FILES | {"images/Fractured/._IMG0000019.jpg": b"a Mac's"})


class Server(ThreadingHTTPServer):
    status, body, ends_after = 200, ARCHIVE, None
    requests = 0


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: self.server.ends_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}/FracAtlas.zip"
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fails(capsys):
    """Run the script, which must fail; return its one sentence on stderr."""

    def run(*arguments):
        capsys.readouterr()
        assert fracatlas.main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        lines = [line for line in lines if line.strip() and "B/s]" not in line]  # a progress bar
        assert len(lines) == 1, lines
        assert lines[0].startswith("fracatlas: ") and lines[0].endswith(".")
        assert list(Path("data").iterdir()) == []
        return lines[0]

    return run


def unpacked() -> dict[str, bytes]:
    folder = Path("data/FracAtlas")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "SOURCE.txt"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_fresh_download_is_unpacked_and_a_second_call_does_nothing(server, capsys):
    assert fracatlas.main(["--url", server.url]) == 0
    assert unpacked() == FILES
    assert [path.name for path in Path("data").iterdir()] == ["FracAtlas"]
    sha256 = hashlib.sha256(ARCHIVE).hexdigest()
    source = Path("data/FracAtlas/SOURCE.txt").read_text()
    printed = capsys.readouterr().out
    for text in (server.url, sha256, "CC BY 4.0", "Abedeen", "10.1038/s41597-023-02432-4"):
        assert text in source and text in printed
    assert "date: 20" in source
    assert fracatlas.main(["--url", server.url]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert server.requests == 1


def test_a_broken_download_leaves_nothing_and_a_retry_succeeds(server, fails):
    server.ends_after = len(ARCHIVE) // 2
    message = fails("--url", server.url)
    assert server.url in message and "broke off" in message and "ARCHIVE=" in message
    server.ends_after = None
    assert fracatlas.main(["--url", server.url]) == 0
    assert unpacked() == FILES


def test_what_a_killed_run_left_is_cleared(server):
    left = Path("data/.FracAtlas.partial/unpacked/FracAtlas")
    left.mkdir(parents=True)
    (left / "half.jpg").write_bytes(b"ha")
    (left.parents[1] / "FracAtlas.zip").write_bytes(ARCHIVE[:99])
    assert fracatlas.main(["--url", server.url]) == 0
    assert unpacked() == FILES
    assert [path.name for path in Path("data").iterdir()] == ["FracAtlas"]


def test_an_incomplete_folder_is_left_alone(server, capsys):
    kept = Path("data/FracAtlas/dataset.csv")
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert fracatlas.main(["--url", server.url]) == 2
    assert "lacks images/Fractured, " in capsys.readouterr().err
    assert kept.read_text() == "mine" and server.requests == 0


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_that_refuses_is_named(server, fails, status):
    server.status = status
    message = fails("--url", server.url)
    assert f"{server.url}: the server answers {status} " in message
    assert fracatlas.PAGE in message and "ARCHIVE=" in message


def test_without_a_connection_the_way_by_hand_is_named(server, fails):
    with Server(("127.0.0.1", 0), Answer) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/FracAtlas.zip"
    message = fails("--url", url)
    assert f"{url}: no connection" in message
    assert fracatlas.PAGE in message and "ARCHIVE=" in message


def test_the_sha256_is_compared_when_one_is_given(server, fails, capsys):
    sha256 = hashlib.sha256(ARCHIVE).hexdigest()
    assert f"its SHA-256 is {sha256}, not {'0' * 64}" in fails(
        *("--url", server.url, "--sha256", "0" * 64)
    )
    assert fracatlas.main(["--url", server.url, "--sha256", sha256.upper()]) == 0
    assert "as expected" in capsys.readouterr().out


def damaged() -> bytes:
    return ARCHIVE.replace(b"oneoneone", b"ONEoneone", 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>Are you human?</html>", "not a whole zip archive"),
        (b"", "not a whole zip archive"),  # how figshare's firewall answers programs
        (damaged(), "not a whole zip archive (Bad CRC-32"),
        (zipped(FILES | {"../../../evil.txt": b""}), "would leave its folder"),
        (zipped(FILES | {"/evil.txt": b""}, top=""), "would leave its folder"),
        (zipped({"dataset.csv": b"", "images/Fractured/1.jpg": b""}), "it lacks images/Non_fr"),
        (zipped({}), "it lacks dataset.csv, "),
    ],
    ids=["a page", "nothing", "damaged", "zip slip", "absolute", "other content", "no content"],
)
def test_what_is_not_fracatlas_is_refused(server, fails, tmp_path, body, reason):
    server.body = body
    message = fails("--url", server.url)
    assert message.startswith(f"fracatlas: {server.url}: ") and reason in message
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_an_archive_at_hand_is_taken_and_kept(server, fails):
    """Here one without a top folder, and with a Mac's own files."""
    archive = Path("mine.zip")
    assert "mine.zip: no such file" in fails("--archive", "mine.zip")
    archive.write_bytes(zipped(FILES | {"__MACOSX/._dataset.csv": b"a Mac's"}, top=""))
    assert fracatlas.main(["--archive", "mine.zip"]) == 0
    assert unpacked() == FILES
    assert archive.exists() and server.requests == 0
    assert "mine.zip" in Path("data/FracAtlas/SOURCE.txt").read_text()
