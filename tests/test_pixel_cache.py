import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from layout import PREFIX, encoded, noise, write_layout

from mura.data import cache as pixel_cache
from mura.data import read as read_manifest
from mura.data.cache import CacheError, PixelCache
from mura.data.images import load_square

SIZE = 24


@pytest.fixture
def root(tmp_path):
    return write_layout(tmp_path)


@pytest.fixture
def manifest(root):
    return read_manifest(root)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the image files that were decoded."""
    names = []

    def load(path, size):
        names.append(path)
        return load_square(path, size)

    monkeypatch.setattr(pixel_cache, "load_square", load)
    return names


def build(manifest, root, size=SIZE, **settings):
    return PixelCache.build(manifest, root, size, progress=False, **settings)


def expected_pixels(manifest, root, size=SIZE):
    return np.stack([load_square(root.parent / path, size) for path in manifest["path"]])


def test_row_i_is_manifest_row_i(phantom_root, tmp_path):
    manifest = read_manifest(phantom_root)
    assert len(manifest) > 300  # many threads share the work
    cache = build(manifest, phantom_root, folder=tmp_path)
    assert isinstance(cache.pixels, np.memmap)
    assert cache.pixels.shape == (len(manifest), SIZE, SIZE)
    assert cache.pixels.dtype == np.uint8
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, phantom_root))
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels[0, 0, 0] = 1


def test_it_is_built_once_and_for_each_list_and_size(root, manifest, decoded, monkeypatch):
    first = build(manifest, root)
    assert first.file.parent == root.parent / "cache"
    assert first.file.name.startswith(f"{PREFIX}-{SIZE}px-")
    assert len(decoded) == 16
    assert build(manifest, root).file == first.file
    assert len(decoded) == 16
    assert build(manifest, root, 32).file != first.file
    for other in (manifest[manifest["split"] == "valid"], manifest[::-1]):
        cache = build(other, root)
        assert cache.file != first.file
        np.testing.assert_array_equal(cache.pixels, expected_pixels(other, root))
    monkeypatch.setattr(pixel_cache, "VERSION", pixel_cache.VERSION + 1)
    assert build(manifest, root).file != first.file


def test_the_folder_can_be_chosen(root, manifest, tmp_path, home, monkeypatch):
    assert build(manifest, root, folder=tmp_path / "a").file.parent == tmp_path / "a"
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "b" / "c"))
    assert build(manifest, root).file.parent == tmp_path / "b" / "c"
    monkeypatch.setenv("MURA_CACHE", "~/cache")
    assert build(manifest, root).file.parent == home / "cache"
    (tmp_path / "checkout" / "src" / "mura").mkdir(parents=True)
    (tmp_path / "checkout" / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    monkeypatch.setenv("MURA_CACHE", "data/cache")
    assert build(manifest, root).file.resolve().parent == tmp_path / "checkout" / "data" / "cache"


@pytest.mark.parametrize("same_size", [True, False])
def test_a_changed_image_is_another_cache(root, manifest, same_size):
    before = build(manifest, root)
    old = np.array(before.pixels)
    changed = root.parent / manifest["path"][3]
    facts = changed.stat()
    if same_size:
        content = encoded(noise(99, 43, 50))
        changed.write_bytes(content)
        os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    else:
        changed.write_bytes(encoded(noise(99, 60, 30)))
        os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    cache = build(manifest, root)
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))
    np.testing.assert_array_equal(before.pixels, old)  # its readers are not disturbed


@pytest.mark.parametrize("size", [0, 40, 5000])
def test_a_cut_off_cache_is_named(root, manifest, size):
    file = build(manifest, root).file
    os.truncate(file, size)
    with pytest.raises(CacheError, match=rf"{file.name}: damaged .*; delete it and repeat"):
        build(manifest, root)


KILLED = """
import os, sys
from pathlib import Path
from mura.data import cache as pixel_cache
from mura.data import read as read_manifest
load, rows = pixel_cache.load_square, []
def kill(*arguments):
    rows.append(1)
    if len(rows) == 9:
        os.kill(os.getpid(), int(sys.argv[2]))
    return load(*arguments)
def kill_before_rename(*arguments):
    os.kill(os.getpid(), int(sys.argv[2]))
if sys.argv[3] == "decoding":
    pixel_cache.load_square = kill
else:
    Path.replace = kill_before_rename
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
pixel_cache.PixelCache.build(read_manifest(sys.argv[1]), sys.argv[1], 24, progress=False)
"""


@pytest.mark.parametrize("moment", ["decoding", "rename"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_stopped_leaves_no_cache_and_the_next_one_is_whole(
    root, manifest, moment, sent
):
    command = [sys.executable, "-c", KILLED, root, str(int(sent)), moment]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, capture_output=True).returncode != 0
    left = list((root.parent / "cache").iterdir())
    assert all(file.suffix == ".partial" for file in left)
    assert len(left) == (sent == signal.SIGKILL)
    cache = build(manifest, root)
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))
    assert list(cache.file.parent.iterdir()) == [cache.file]


def test_builders_at_the_same_time_end_with_one_sound_cache(root, manifest):
    script = (
        "import sys; from mura.data import read as read_manifest; "
        "from mura.data.cache import PixelCache; "
        f"PixelCache.build(read_manifest(sys.argv[1]), sys.argv[1], {SIZE}, progress=False)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    builders = [
        subprocess.Popen([sys.executable, "-c", script, str(root)], env=environment)
        for _ in range(3)
    ]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0]
    cache = build(manifest, root)
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))
    assert list(cache.file.parent.iterdir()) == [cache.file]


def test_another_process_that_is_faster_is_no_error(root, manifest, monkeypatch):
    whole = build(manifest, root, folder=root.parent / "elsewhere").file
    replace = pixel_cache.Path.replace

    def late(partial, cache):
        shutil.copy(whole, cache)  # the other one renames its file and removes what is left
        partial.unlink()
        replace(partial, cache)

    monkeypatch.setattr(pixel_cache.Path, "replace", late)
    np.testing.assert_array_equal(build(manifest, root).pixels, expected_pixels(manifest, root))


def test_unreadable_images_are_named_together(root, manifest):
    files = [root.parent / path for path in manifest["path"]]
    files[2].write_bytes(b"")
    files[5].write_bytes(files[5].read_bytes()[:50])
    files[7].unlink()
    with pytest.raises(CacheError, match="3 of 16 images cannot be read") as caught:
        build(manifest, root)
    for file in (files[2], files[5], files[7]):
        assert str(file) in str(caught.value)
    assert "mura audit" in str(caught.value)
    assert not list((root.parent / "cache").iterdir())
    for file in files[:13]:
        file.write_bytes(b"no image")
    with pytest.raises(CacheError, match=r"13 of 16 images.*and 3 more") as caught:
        build(manifest, root)
    assert str(caught.value).count("not an image") == 10


def test_an_empty_manifest_and_a_size_of_nothing_are_refused(root, manifest):
    with pytest.raises(CacheError, match="no images"):
        build(manifest[:0], root)
    with pytest.raises(CacheError, match="at least 1"):
        build(manifest, root, 0)


def test_too_little_space_is_one_clear_line_before_the_work(root, manifest, decoded, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=16 * 128 * 128 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(CacheError, match=r"free some space.*MURA_CACHE"):
        build(manifest, root, 128)
    assert decoded == []


def test_a_folder_that_cannot_be_made_is_named(root, manifest, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        build(manifest, root, folder=tmp_path / "file" / "cache")
