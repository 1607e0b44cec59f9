"""Every image decoded once: the right pixels, a new file for changed images, whole or absent."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layout import PREFIX, encoded, noise, write_layout

from mura import data
from mura.data import cache, load_square
from mura.data.cache import CacheError

SIZE = 24


@pytest.fixture
def root(tmp_path):
    return write_layout(tmp_path)


@pytest.fixture
def manifest(root):
    return data.read(root)


def cached(manifest, root, size=SIZE, **settings):
    return cache.cached(manifest, root, size, progress=False, **settings)


def check_pixels(pixels, manifest, root):
    expected = [load_square(root.parent / path, SIZE) for path in manifest["path"]]
    np.testing.assert_array_equal(pixels, expected)


def test_row_i_is_manifest_row_i(phantom_root, tmp_path):
    manifest = data.read(phantom_root)
    assert len(manifest) > 300  # many threads share the work
    pixels = cached(manifest, phantom_root, folder=tmp_path)
    assert isinstance(pixels, np.memmap)
    assert pixels.shape == (len(manifest), SIZE, SIZE)
    assert pixels.dtype == np.uint8
    check_pixels(pixels, manifest, phantom_root)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_it_is_built_once_for_each_list_size_and_version(root, manifest, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        cache, "load_square", lambda *image: decoded.append(image) or load_square(*image)
    )
    first = cached(manifest, root).filename
    assert Path(first).parent == root.parent / "cache"
    assert Path(first).name.startswith(f"{PREFIX}-{SIZE}px-")
    assert cached(manifest, root).filename == first
    assert len(decoded) == 16
    assert cached(manifest, root, 32).filename != first
    for other in (manifest[manifest["split"] == "valid"], manifest[::-1]):
        pixels = cached(other, root)
        assert pixels.filename != first
        check_pixels(pixels, other, root)
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert cached(manifest, root).filename != first


def test_the_folder_can_be_chosen(root, manifest, tmp_path, home, monkeypatch):
    def folder(**settings):
        return Path(cached(manifest, root, **settings).filename).resolve().parent

    assert folder(folder=tmp_path / "a") == tmp_path / "a"
    monkeypatch.setenv("MURA_CACHE", "~/cache")
    assert folder() == home / "cache"
    (tmp_path / "checkout" / "src" / "mura").mkdir(parents=True)
    (tmp_path / "checkout" / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    monkeypatch.setenv("MURA_CACHE", "data/cache")
    assert folder() == tmp_path / "checkout" / "data" / "cache"


@pytest.mark.parametrize(("height", "later"), [(43, 1), (60, 0)])
def test_a_changed_image_means_another_cache(root, manifest, height, later):
    """Of another time or of another size."""
    before = cached(manifest, root)
    old = np.array(before)
    changed = root.parent / manifest["path"][3]
    facts = changed.stat()
    changed.write_bytes(encoded(noise(99, height, 50)))
    os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns + later))
    check_pixels(cached(manifest, root), manifest, root)
    np.testing.assert_array_equal(before, old)  # its readers are not disturbed


@pytest.mark.parametrize("size", [0, 40, 5000])
def test_a_cut_off_cache_is_named(root, manifest, size):
    file = Path(cached(manifest, root).filename)
    os.truncate(file, size)
    with pytest.raises(CacheError, match=rf"{file.name}: damaged .*; delete it and repeat"):
        cached(manifest, root)


BUILD = """
import os, signal, sys
from pathlib import Path
from mura import data
from mura.data import cache
root, moment = sys.argv[1:]
load, rows = cache.load_square, []
def kill(*arguments):
    rows.append(1)
    if len(rows) == 9 or moment == "rename":
        os.kill(os.getpid(), signal.SIGKILL)
    return load(*arguments)
if moment == "decoding":
    cache.load_square = kill
if moment == "rename":
    Path.replace = kill
cache.cached(data.read(root), root, 24, progress=False)
"""


def start_build(root, moment):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", BUILD, root, moment], env=environment)


@pytest.mark.parametrize("moment", ["decoding", "rename"])
def test_a_killed_build_leaves_no_cache_and_the_next_one_is_whole(root, manifest, moment):
    assert start_build(root, moment).wait(60) == -signal.SIGKILL
    left = (root.parent / "cache").iterdir()
    assert {path.suffix for path in left} == {".partial", ".lock"}
    pixels = cached(manifest, root)
    check_pixels(pixels, manifest, root)
    assert list((root.parent / "cache").iterdir()) == [Path(pixels.filename)]


def test_builders_at_the_same_time_end_with_one_sound_cache(root, manifest):
    builders = [start_build(root, "never") for _ in range(3)]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0]
    pixels = cached(manifest, root)
    check_pixels(pixels, manifest, root)
    assert list((root.parent / "cache").iterdir()) == [Path(pixels.filename)]


def test_unreadable_images_are_named_together(root, manifest):
    files = [root.parent / path for path in manifest["path"]]
    files[2].write_bytes(b"")
    files[5].write_bytes(files[5].read_bytes()[:50])
    files[7].unlink()
    with pytest.raises(CacheError, match=r"3 of 16 images cannot be read.*mura audit") as caught:
        cached(manifest, root)
    assert all(str(files[row]) in str(caught.value) for row in (2, 5, 7))
    assert not list((root.parent / "cache").iterdir())
    for file in files[:13]:
        file.write_bytes(b"no image")
    with pytest.raises(CacheError, match=r"13 of 16 images.*and 3 more") as caught:
        cached(manifest, root)
    assert str(caught.value).count("not an image") == 10


def test_impossible_caches_are_refused(root, manifest, monkeypatch):
    with pytest.raises(CacheError, match="no images"):
        cached(manifest[:0], root)
    with pytest.raises(CacheError, match="at least 1"):
        cached(manifest, root, 0)
    usage = shutil.disk_usage(root)._replace(free=16 * 128 * 128 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(CacheError, match=r"free some space.*MURA_CACHE"):
        cached(manifest, root, 128)
