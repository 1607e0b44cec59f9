"""MURA's full size without MURA: reading its lists, and memory while going through its pixels.

python benchmarks/scale.py             about one minute on two cores

The lists are generated; nobody needs images to read them. The pixel cache is a sparse file of the
full size, which takes no space on the disk: its pages are read like those of a real one, only that
all pixels are black.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import OURS, interleaved, report, seconds, table

# MURA's own counts of images, and its mean of about 2.7 images a study
IMAGES = {"train": 36_808, "valid": 3_197}
VIEWS = 3
SIDE, BATCH = 320, 64
BY_HAND = "pandas by hand, nothing checked"
QUARTER, WHOLE = "a quarter of the cache", "the full cache"
PLAIN = "the full cache, plain memory map"

WALK = """
import resource, sys
import numpy as np
from mura.data import RadiographBatches
file, images, batch, plain = sys.argv[1], *map(int, sys.argv[2:])
pixels = np.load(file, mmap_mode="r")
batches = RadiographBatches(pixels, np.arange(images), batch_size=batch, shuffle_seed=0)
order = np.random.default_rng(0).permutation(images)
for index in range(len(batches)):
    if plain:
        np.asarray(pixels[order[index * batch : (index + 1) * batch]])
    else:
        batches[index]
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(kilobytes / (1e6 if sys.platform == "darwin" else 1e3))
"""


def write_lists(folder: Path, times: int = 1) -> Path:
    """Write the four CSV files of a data set ``times`` as large as MURA; return its root."""
    from mura.data import BODY_PARTS

    root = folder / "MURA-v1.1"
    root.mkdir(parents=True)
    first = 0  # patients of valid are others than those of train
    for split, images in IMAGES.items():
        studies = images * times // VIEWS
        paths, labels = [], []
        for number in range(studies):
            label = number % 2
            study = (
                f"MURA-v1.1/{split}/{BODY_PARTS[number % 7]}/patient{first + number:05d}/"
                f"study1_{('negative', 'positive')[label]}/"
            )
            labels.append(f"{study},{label}\n")
            own = VIEWS if number else VIEWS + images * times % VIEWS
            paths += [f"{study}image{view}.png\n" for view in range(1, own + 1)]
        first += studies
        (root / f"{split}_image_paths.csv").write_text("".join(paths))
        (root / f"{split}_labeled_studies.csv").write_text("".join(labels))
    return root


def read_by_hand(root: Path) -> None:
    """Read the same lists as MURA notebooks do: pandas, and a loop over the paths."""
    import pandas as pd

    for split in IMAGES:
        images = pd.read_csv(root / f"{split}_image_paths.csv", header=None, names=["path"])
        labels = pd.read_csv(
            root / f"{split}_labeled_studies.csv", header=None, names=["study", "label"]
        )
        images["study"] = images["path"].apply(lambda path: path.rsplit("/", 1)[0] + "/")
        images["body_part"] = images["path"].apply(lambda path: path.split("/")[2])
        images["patient"] = images["path"].apply(
            lambda path: re.search(r"patient(\d+)", path).group(1)
        )
        images.merge(labels, on="study", how="left")


def reading(folder: Path, times: int, limit: float) -> dict[str, Any]:
    """Return the result of reading lists ``times`` as long as MURA's, within a limit in s."""
    from mura import data

    root = write_lists(folder / f"x{times}", times)
    ways = {
        BY_HAND: lambda: seconds(lambda: read_by_hand(root)),
        OURS: lambda: seconds(lambda: data.read(root)),
    }
    title = f"Reading the manifest of {len(data.read(root)):,} images"
    note = "This project checks every row."
    aim = (OURS, "at most", limit, "median")
    return table(title, "seconds", interleaved(ways), BY_HAND, note, aim)


def peak_megabytes(file: Path, images: int, plain: bool = False) -> float:
    """Return the largest resident memory of a process that goes once through a pixel cache."""
    arguments = map(str, (file, images, BATCH, int(plain)))
    done = subprocess.run(
        [sys.executable, "-c", WALK, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[-1])


def sparse(file: Path, images: int, side: int = SIDE) -> Path:
    """Make a file of a cache's size that takes no space."""
    import numpy as np

    np.lib.format.open_memmap(file, "w+", np.uint8, (images, side, side))
    return file


def walking(folder: Path) -> dict[str, Any]:
    """Return the memory that going through a cache of MURA's size takes."""
    images = sum(IMAGES.values())
    full = sparse(folder / "full.npy", images)
    memory = {
        QUARTER: [peak_megabytes(sparse(folder / "quarter.npy", images // 4), images // 4)],
        WHOLE: [peak_megabytes(full, images)],
        PLAIN: [peak_megabytes(full, images, plain=True)],
    }
    more = memory[WHOLE][0] - memory[QUARTER][0]
    return table(
        f"Peak memory of going through {images:,} images of {SIDE} px",
        "MB resident",
        memory,
        QUARTER,
        f"The full cache takes {more:+.0f} MB (aim: at most 300). In memory it would be "
        f"{images * SIDE**2 / 1e6:,.0f} MB. Most of what both take is the interpreter with Keras "
        "and its backend.",
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report(reading(folder, 1, 0.5), reading(folder, 10, 5.0), walking(folder))


if __name__ == "__main__":
    main()
