"""Real radiographs through the data layer, where a folder of them is at hand.

MURA_TEST_RADIOGRAPHS names a folder with images/*.jpg and labels.csv (file, fracture, ...). They
are used where they lie and never copied into the repository.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layout import write_layout
from PIL import Image

from mura import data
from mura.data import BODY_PARTS, load_square, read_gray
from mura.data.audit import audit
from mura.data.cache import cached

FOLDER = os.environ.get("MURA_TEST_RADIOGRAPHS", "")

pytestmark = pytest.mark.skipif(
    not (FOLDER and Path(FOLDER, "labels.csv").is_file()),
    reason="set MURA_TEST_RADIOGRAPHS to a folder of real radiographs (images/ and labels.csv)",
)


def build_layout(folder: Path) -> Path:
    """Write the radiographs as PNG into a MURA-layout folder; return its data folder.

    Three images make a patient of one study. Body parts and labels are dealt out in turn, because
    nobody labelled the parts and nearly all of the images show a fracture.
    """
    files = sorted(pd.read_csv(Path(FOLDER, "labels.csv"))["file"])
    studies = [
        (
            "valid" if patient % 4 == 3 else "train",
            BODY_PARTS[patient % len(BODY_PARTS)],
            *(patient + 1, 1, patient // len(BODY_PARTS) % 2),
            min(3, len(files) - 3 * patient),
        )
        for patient in range(-(-len(files) // 3))
    ]
    root = write_layout(folder, studies)
    for path, name in zip(data.read(root)["path"], files, strict=True):
        with Image.open(Path(FOLDER, "images", name)) as image:
            image.convert("L").save(folder / path)  # as MURA's: some have coloured arrows
    return root


def test_the_data_layer_takes_real_radiographs(tmp_path):
    root = build_layout(tmp_path)
    manifest = data.read(root)
    table = pd.read_csv(Path(FOLDER, "labels.csv"))
    assert len(manifest) == len(table)
    assert set(data.split_patients(manifest, 0.2)) == {"fit", "tune", "valid"}
    report = audit(root, progress=False)
    assert report.ok, str(report)
    assert report.counts["modes"] == {"L": len(table)}
    assert report.counts["longer_side"][1] == max(table["width"].max(), table["height"].max())
    pixels = cached(manifest, root, 128, progress=False)
    for row in (0, 50, len(manifest) - 1):
        file = root.parent / manifest["path"][row]
        np.testing.assert_array_equal(pixels[row], load_square(file, 128))
        height, width = read_gray(file).shape
        shorter = max(1, round(128 * min(height, width) / max(height, width)))
        margin = pixels[row].any(axis=0 if width < height else 1)
        assert np.flatnonzero(margin)[-1] - np.flatnonzero(margin)[0] < shorter
    assert pixels.reshape(len(manifest), -1).std(axis=1).min() > 5
