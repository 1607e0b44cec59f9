"""Kill builds of the pixel cache at many points and compare what the next build serves.

Run by test_pixel_cache.py in a process of its own, because it forks: python cache_kills.py FOLDER
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from layout import write_layout

from mura.data import cache as pixel_cache
from mura.data.cache import PixelCache
from mura.data.manifest import read_manifest

SIZE = 24


def killed_build(manifest, root, folder, writes=None, half=False, rename=None):
    """Build in a child that kills itself at a write (or half-way in it) or around the rename."""
    child = os.fork()
    if child == 0:
        write_all, replace, count = pixel_cache._write_all, Path.replace, [0]

        def write(descriptor, content, offset):
            count[0] += 1
            if count[0] == writes:
                if half:
                    write_all(descriptor, np.frombuffer(content, np.uint8)[:7], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            write_all(descriptor, content, offset)

        def replace_or_die(path, target):
            if path.suffix == ".partial" and rename == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            replace(path, target)
            if rename == "after":
                os.kill(os.getpid(), signal.SIGKILL)

        pixel_cache._write_all, Path.replace = write, replace_or_die
        try:
            PixelCache.build(manifest, root, SIZE, folder, progress=False)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(folder: Path) -> None:
    root = write_layout(folder)
    manifest = read_manifest(root)
    whole = PixelCache.build(manifest, root, SIZE, folder / "whole", progress=False)
    expected = whole.file.read_bytes()
    points = [{"writes": number, "half": half} for number in range(1, 34, 2) for half in (0, 1)]
    points += [{"rename": "before"}, {"rename": "after"}]
    for number, point in enumerate(points):
        place = folder / f"cache{number}"
        assert killed_build(manifest, root, place, **point), point
        assert not list(place.glob("*.json")), point
        if number % 3 == 0:  # killed twice
            killed_build(manifest, root, place, writes=9, half=True)
        for _ in range(2):
            cache = PixelCache.build(manifest, root, SIZE, place, progress=False)
            assert cache.file.read_bytes() == expected, point
            assert cache.verify(), point
        left = {file.suffix for file in place.iterdir()} - {".lock"}
        assert left == {".pixels", ".rows", ".json"}, left
    print(f"survived {len(points)} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
