"""MURA's full size without MURA: reading its lists, and memory while going through its pixels.

python benchmarks/scale.py             about one minute on two cores

The lists are generated (no images are needed to read them). The pixel cache is a sparse file of
the full size, 40,005 images of 320 x 320, which takes no space on the disk: every page of it is
read and mapped as of a real one, only that all pixels are black.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import interleaved, report, seconds, table

# MURA's own counts of images, and its mean of about 2.7 images a study
IMAGES = {"train": 36_808, "valid": 3_197}
VIEWS = 3
CACHE_IMAGES, SIDE = 40_005, 320
BATCH = 64

WALK = """
import resource, sys
import numpy as np
from mura.data import RadiographBatches
file, images, batch, released = sys.argv[1], *map(int, sys.argv[2:])
pixels = np.load(file, mmap_mode="r")
rows = np.arange(images)
batches = RadiographBatches(pixels, rows, batch_size=batch, shuffle_seed=0)
order = np.random.default_rng(0).permutation(images)
for index in range(len(batches)):
    if released:
        batches[index]
    else:  # what a plain memory map does
        np.asarray(pixels[order[index * batch : (index + 1) * batch]])
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(kilobytes / (1e6 if sys.platform == "darwin" else 1e3))
"""


def write_lists(folder: Path, times: int = 1) -> Path:
    """Write the four CSV files of a data set ``times`` as large as MURA; return its root."""
    from mura.data import BODY_PARTS

    root = folder / "MURA-v1.1"
    root.mkdir()
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


def peak_megabytes(file: Path, images: int, released: bool = True) -> float:
    """Return the largest resident memory of a process that goes once through a pixel cache."""
    arguments = map(str, (file, images, BATCH, int(released)))
    done = subprocess.run(
        [sys.executable, "-c", WALK, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.split()[-1])


def sparse(file: Path, images: int, side: int = SIDE) -> Path:
    """Make a file of a cache's size that takes no space."""
    import numpy as np

    np.lib.format.open_memmap(file, "w+", np.uint8, (images, side, side))
    return file


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_known_args()
    from mura.data import read as read_manifest

    results = []
    with tempfile.TemporaryDirectory() as folder:
        for times, repetitions, limit in ((1, 5, 0.5), (10, 3, 5.0)):
            place = Path(folder) / f"x{times}"
            place.mkdir()
            root = write_lists(place, times)
            count = len(read_manifest(root))
            assert count == sum(IMAGES.values()) * times, count
            figures = interleaved(
                {
                    "pandas by hand, nothing checked": lambda root=root: seconds(
                        lambda: read_by_hand(root)
                    ),
                    "this project: every row checked": lambda root=root: seconds(
                        lambda: read_manifest(root)
                    ),
                },
                repetitions,
            )
            results.append(
                table(
                    f"Reading the manifest of {count:,} images",
                    "seconds",
                    figures,
                    "pandas by hand, nothing checked",
                    f"Aim: at most {limit} s.",
                )
            )
        full = sparse(Path(folder) / "full.npy", CACHE_IMAGES)
        quarter = sparse(Path(folder) / "quarter.npy", CACHE_IMAGES // 4)
        memory = interleaved(
            {
                "a quarter of the cache": lambda: peak_megabytes(quarter, CACHE_IMAGES // 4),
                "the full cache": lambda: peak_megabytes(full, CACHE_IMAGES),
                "the full cache, plain memory map": lambda: peak_megabytes(
                    full, CACHE_IMAGES, released=False
                ),
            },
            repetitions=1,  # the same to the megabyte every time
        )
        more = memory["the full cache"][-1] - memory["a quarter of the cache"][-1]
        results.append(
            table(
                f"Peak memory of going through {CACHE_IMAGES:,} images of {SIDE} px",
                "MB resident",
                memory,
                "a quarter of the cache",
                f"The full cache takes {more:+.0f} MB (aim: at most 300). In memory it would be "
                f"{CACHE_IMAGES * SIDE**2 / 1e6:,.0f} MB. Measured on a sparse file of the full "
                "size. Most of what both take is the interpreter with Keras and its backend.",
            )
        )
    report(*results)


if __name__ == "__main__":
    main()
