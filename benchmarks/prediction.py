"""The cold answer: from the shell to "normal" or "abnormal" for one image.

python benchmarks/prediction.py        about two minutes on two cores
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import interleaved, process_seconds, report, seconds, table

ARCHITECTURES = {"cnn": 96, "densenet121": 224}  # image size
BY_HAND = "by hand: import, load, call"
PREDICT, EXPORTED_RUN = "mura predict", "mura predict, exported run"
REPETITIONS = 2  # a cold answer by hand takes five to ten seconds

CODE = """
import sys
import keras
import numpy as np
from PIL import Image
model = keras.saving.load_model(sys.argv[1], compile=False)
size = model.input_shape[1]
image = np.asarray(Image.open(sys.argv[2]).convert("L").resize((size, size)))
print(float(np.asarray(model(image[None, ..., None]))[0, 0]))
"""


def answered(name: str, size: int, image: Path, folder: Path) -> dict[str, Any]:
    """Return the result for one architecture: answers by hand, of a run, and of an exported one."""
    from mura import models
    from mura.export import export
    from mura.runs import RUN_FILES, Run

    model = models.build(name, size)
    plain, exported = folder / name, folder / f"{name}-exported"
    for run in (plain, exported):
        run.mkdir()
        for file in RUN_FILES:  # prediction reads the model alone
            (run / file).write_text("{}")
        model.save(run / "model.keras")
    exporting = seconds(lambda: export(Run(exported)))
    predict = [sys.executable, "-m", "mura.cli", "predict"]
    by_hand = [sys.executable, "-c", CODE, str(plain / "model.keras"), str(image)]
    candidates = {
        BY_HAND: process_seconds(by_hand),
        PREDICT: process_seconds([*predict, str(plain), str(image)]),
        EXPORTED_RUN: process_seconds([*predict, str(exported), str(image)]),
    }
    return table(
        f"A cold prediction, {name}, {size} px",
        "seconds",
        interleaved(candidates, REPETITIONS),
        BY_HAND,
        f"Exporting took {exporting:.1f} s.",
        (PREDICT, "at most", 1.1, "ratio"),
        (EXPORTED_RUN, "at most", 0.1, "ratio"),
    )


def main() -> None:
    from mura import data, phantom

    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=0.001, progress=False)
        image = root.parent / data.read(root)["path"].iloc[0]
        sizes = ARCHITECTURES.items()
        report(*(answered(name, size, image, Path(folder)) for name, size in sizes))


if __name__ == "__main__":
    main()
