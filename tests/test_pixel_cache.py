import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import numpy as np
import pytest
from disks import remount, small_disk
from layout import PREFIX, encoded, noise, write_layout

from mura.data import cache as pixel_cache
from mura.data.cache import CacheError, PixelCache
from mura.data.images import load_square
from mura.data.manifest import read_manifest

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


def test_so_it_is_where_many_threads_share_the_work(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setattr("mura.parallel.available_cores", lambda: 4)
    manifest = read_manifest(phantom_root)
    assert len(manifest) > 300  # blocks of 16
    cache = build(manifest, phantom_root, folder=tmp_path)
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, phantom_root))


def test_row_i_is_manifest_row_i(root, manifest):
    cache = build(manifest, root)
    assert isinstance(cache.pixels, np.memmap)
    assert cache.pixels.shape == (16, SIZE, SIZE)
    assert cache.pixels.dtype == np.uint8
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))
    assert cache.verify()
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels[0, 0, 0] = 1


def test_it_is_built_once_and_for_each_list_and_size(root, manifest, decoded):
    first = build(manifest, root)
    assert first.file.parent == root.parent / "cache"
    assert first.file.name.startswith(f"{PREFIX}-{SIZE}px-")
    assert len(decoded) == 16
    assert build(manifest, root).file == first.file
    assert len(decoded) == 16
    assert build(manifest, root, 32).file != first.file
    valid = manifest[manifest["split"] == "valid"]
    other = build(valid, root)
    assert other.file != first.file
    np.testing.assert_array_equal(other.pixels, expected_pixels(valid, root))
    backwards = manifest[::-1]
    np.testing.assert_array_equal(build(backwards, root).pixels, expected_pixels(backwards, root))


def test_another_preprocessing_is_another_cache(root, manifest, monkeypatch):
    first = build(manifest, root)
    monkeypatch.setattr(pixel_cache, "PREPROCESSING", pixel_cache.PREPROCESSING + 1)
    assert build(manifest, root).file != first.file


def test_where_the_system_lacks_what_it_needs_it_says_so(root, manifest, monkeypatch):
    monkeypatch.delattr(os, "pwrite")  # as on Windows
    with pytest.raises(CacheError, match="needs Linux or macOS; on Windows work in WSL 2"):
        build(manifest, root)


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


def test_a_changed_image_is_decoded_again_and_no_other(root, manifest, decoded):
    before = build(manifest, root)
    old = np.array(before.pixels)
    changed = root.parent / manifest["path"][3]
    changed.write_bytes(encoded(noise(99, 60, 30)))
    decoded.clear()
    cache = build(manifest, root)
    assert decoded == [changed]
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))
    np.testing.assert_array_equal(before.pixels, old)  # whoever reads it is not disturbed
    assert cache.verify()


def test_a_changed_cache_file_is_noticed_and_repaired(root, manifest, decoded):
    cache = build(manifest, root)
    times = cache.file.stat()
    with cache.file.open("r+b") as file:
        file.seek(5 * SIZE * SIZE + 17)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(cache.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not cache.verify()
    decoded.clear()
    repaired = build(manifest, root)
    assert decoded == [root.parent / manifest["path"][5]]
    np.testing.assert_array_equal(repaired.pixels, expected_pixels(manifest, root))


@pytest.mark.parametrize("keep", [0, 1, 7 * SIZE * SIZE + 3])
def test_a_truncated_cache_file_is_noticed_and_repaired(root, manifest, decoded, keep):
    file = build(manifest, root).file
    os.truncate(file, keep)
    decoded.clear()
    cache = build(manifest, root)
    assert len(decoded) == 16 - keep // SIZE**2
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))


@pytest.mark.parametrize("suffix", [".rows", ".json"])
@pytest.mark.parametrize("content", [None, b"", b"{nonsense", bytes(16 * 24)])
def test_damaged_records_beside_the_cache_cost_work_and_nothing_else(
    root, manifest, suffix, content
):
    file = build(manifest, root).file.with_suffix(suffix)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    cache = build(manifest, root)
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))
    assert cache.verify()


def test_a_cache_that_was_copied_is_checked_and_not_decoded(root, manifest, decoded, tmp_path):
    folder = build(manifest, root).file.parent
    shutil.copytree(folder, tmp_path / "copy")
    decoded.clear()
    cache = build(manifest, root, folder=tmp_path / "copy")
    assert decoded == []
    assert cache.verify()


def test_killed_at_any_point_it_continues_to_the_same_bytes(tmp_path):
    script = Path(__file__).with_name("cache_kills.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, script, tmp_path], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "survived 36 kills" in result.stdout


def test_an_interrupted_build_keeps_what_is_decoded(root, manifest, decoded, monkeypatch):
    load = pixel_cache.load_square

    def interrupt(path, size):
        if len(decoded) == 9:
            raise KeyboardInterrupt
        return load(path, size)

    monkeypatch.setattr(pixel_cache, "load_square", interrupt)
    monkeypatch.setattr(pixel_cache, "map_unordered", _one_by_one)
    with pytest.raises(KeyboardInterrupt):
        build(manifest, root)
    monkeypatch.setattr(pixel_cache, "load_square", load)
    decoded.clear()
    cache = build(manifest, root)
    assert len(decoded) == 16 - 9
    np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root))


def _one_by_one(work, items, *arguments, **settings):
    for item in items:
        yield [work(item)]


def test_ctrl_c_stops_a_build_at_once_and_the_next_one_continues(root, manifest, decoded):
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mura import pixel_cache\n"
        "from mura.data.manifest import read_manifest\n"
        "load = pixel_cache.load_square\n"
        "def slow(*arguments):\n"
        "    print('decoding', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return load(*arguments)\n"
        "pixel_cache.load_square = slow\n"
        f"pixel_cache.PixelCache.build(read_manifest(sys.argv[1]), sys.argv[1], {SIZE})\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    builder = subprocess.Popen(
        [sys.executable, "-c", script, str(root)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(3):
        assert builder.stdout.readline() == "decoding\n"
    builder.send_signal(signal.SIGINT)
    printed, errors = builder.communicate(timeout=60)
    assert builder.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert printed.count("decoding") < 13  # of the 13 that were left
    np.testing.assert_array_equal(build(manifest, root).pixels, expected_pixels(manifest, root))
    assert 0 < len(decoded) < 16


def test_unreadable_images_are_named_after_the_rest_is_done(root, manifest, decoded):
    files = [root.parent / path for path in manifest["path"]]
    originals = [file.read_bytes() for file in files]
    files[2].write_bytes(b"")
    files[5].write_bytes(originals[5][:50])
    files[7].unlink()
    with pytest.raises(CacheError, match="3 of 16 images cannot be read") as caught:
        build(manifest, root)
    for file in (files[2], files[5], files[7]):
        assert str(file) in str(caught.value)
    assert "mura audit" in str(caught.value)
    decoded.clear()
    for number in (2, 5, 7):
        files[number].write_bytes(originals[number])
    np.testing.assert_array_equal(build(manifest, root).pixels, expected_pixels(manifest, root))
    assert sorted(decoded) == sorted([files[2], files[5], files[7]])


def test_at_most_ten_unreadable_images_are_named(root, manifest):
    for path in manifest["path"][:13]:
        (root.parent / path).write_bytes(b"no image")
    with pytest.raises(CacheError, match="13 of 16 images") as caught:
        build(manifest, root)
    assert str(caught.value).count("not an image") == 10
    assert "and 3 more" in str(caught.value)


def test_an_empty_manifest_and_a_size_of_nothing_are_refused(root, manifest):
    with pytest.raises(CacheError, match="no images"):
        build(manifest[:0], root)
    with pytest.raises(CacheError, match="at least 1"):
        build(manifest, root, 0)


def test_of_two_builders_the_second_waits_and_says_so(root, manifest, decoded, capsys):
    file = build(manifest, root).file
    shutil.rmtree(file.parent)
    file.parent.mkdir()
    decoded.clear()
    lock = filelock.FileLock(file.with_suffix(".lock"))
    caches = []
    builder = threading.Thread(target=lambda: caches.append(build(manifest, root)))
    with lock:
        builder.start()
        builder.join(0.5)
        assert builder.is_alive()
        assert decoded == []
    builder.join(20)
    assert "another process is building this cache" in capsys.readouterr().out
    assert caches[0].verify()


def test_builders_at_the_same_time_end_with_one_sound_cache(root, manifest):
    script = (
        "import sys; from mura.data.manifest import read_manifest; "
        "from mura.data.cache import PixelCache; "
        f"cache = PixelCache.build(read_manifest(sys.argv[1]), sys.argv[1], {SIZE}, "
        "progress=False); sys.exit(not cache.verify())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    builders = [
        subprocess.Popen([sys.executable, "-c", script, str(root)], env=environment)
        for _ in range(3)
    ]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0]
    np.testing.assert_array_equal(build(manifest, root).pixels, expected_pixels(manifest, root))


def test_too_little_space_is_one_clear_line_before_the_work(root, manifest, decoded, monkeypatch):
    """Whoever may not mount the small disks of the tests below has this one."""
    usage = shutil.disk_usage(root)._replace(free=16 * 128 * 128 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(CacheError, match=r"free some space.*MURA_CACHE"):
        build(manifest, root, 128)
    assert decoded == []
    monkeypatch.undo()
    assert build(manifest, root, 128).verify()


def test_a_write_that_fails_keeps_what_is_decoded(root, manifest, decoded, monkeypatch):
    write, written = os.pwrite, []

    def fill_up(descriptor, content, offset):
        written.append(offset)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fill_up)
        patch.setattr(pixel_cache, "map_unordered", _one_by_one)
        with pytest.raises(CacheError, match=os.strerror(errno.ENOSPC)):
            build(manifest, root)
    first = len(decoded)
    np.testing.assert_array_equal(build(manifest, root).pixels, expected_pixels(manifest, root))
    assert 3 < first < 16 and len(decoded) < first + 16 - 3


def test_a_full_disk_is_one_clear_line_before_the_work(root, manifest, decoded, tmp_path):
    with small_disk(tmp_path / "disk", "100k") as disk:
        with pytest.raises(CacheError, match="free some space") as caught:
            build(manifest, root, 128, folder=disk)
        assert "MURA_CACHE" in str(caught.value)
        assert decoded == []
        remount(disk, "size=1m")
        assert build(manifest, root, 128, folder=disk).verify()


def test_a_disk_that_fills_up_keeps_what_is_decoded(root, manifest, decoded, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", "160k") as disk:
        with monkeypatch.context() as patch:
            patch.setattr(pixel_cache._CacheFiles, "_refuse_full_disk", lambda *_: None)
            patch.setattr(pixel_cache, "map_unordered", _one_by_one)
            with pytest.raises(CacheError, match=os.strerror(errno.ENOSPC)):
                build(manifest, root, 128, folder=disk)
        first = len(decoded)
        remount(disk, "size=1m")
        cache = build(manifest, root, 128, folder=disk)
        assert 5 < first < 12
        assert len(decoded) < 20
        np.testing.assert_array_equal(cache.pixels, expected_pixels(manifest, root, 128))
        del cache


def test_a_read_only_folder_serves_a_whole_cache_and_refuses_to_build(root, manifest, tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        cache = build(manifest, root, folder=disk)
        remount(disk, "ro")
        np.testing.assert_array_equal(build(manifest, root, folder=disk).pixels, cache.pixels)
        with pytest.raises(CacheError, match=r"cannot be written.*MURA_CACHE"):
            build(manifest, root, 32, folder=disk)
        del cache


@pytest.mark.parametrize("suffix", [".pixels", ".partial", ".rows", ".json", ".lock"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_came_with_the_data_is_not_written_through(root, manifest, suffix, there):
    letter = root.parent / "letter.txt"
    if there:
        letter.write_text("dear")
    name = build(manifest, root, folder=root.parent / "elsewhere").file.stem
    link = root.parent / "cache" / f"{name}{suffix}"
    link.parent.mkdir()
    link.symlink_to(letter)
    with pytest.raises(CacheError, match=rf"{name}\{suffix}: a symbolic link.*MURA_CACHE"):
        build(manifest, root)
    assert (letter.read_text() == "dear") if there else not letter.exists()
    assert list(link.parent.iterdir()) == [link]


def test_a_link_that_appears_later_is_not_followed_either(root, manifest, monkeypatch):
    letter = root.parent / "letter.txt"
    letter.write_text("dear")
    name = build(manifest, root, folder=root.parent / "elsewhere").file.stem
    (root.parent / "cache").mkdir()
    (root.parent / "cache" / f"{name}.rows").symlink_to(letter)
    monkeypatch.setattr(pixel_cache._CacheFiles, "refuse_links", lambda _: None)
    with pytest.raises(CacheError, match="cannot be written"):
        build(manifest, root)
    assert letter.read_text() == "dear"


def test_a_linked_folder_of_caches_is_used(root, manifest):
    (root.parent / "disk").mkdir()
    (root.parent / "cache").symlink_to(root.parent / "disk")
    assert build(manifest, root).verify()
    assert list((root.parent / "disk").glob("*.pixels"))


def test_a_folder_that_cannot_be_made_is_named(root, manifest, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CacheError, match=r"file.*cannot be written"):
        build(manifest, root, folder=tmp_path / "file" / "cache")
