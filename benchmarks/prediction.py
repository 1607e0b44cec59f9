"""The cold answer: from the shell to "normal" or "abnormal" for one image.

python benchmarks/prediction.py        about two minutes on two cores
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import interleaved, report, table, without_onednn

ARCHITECTURES = {"cnn": 96, "densenet121": 224}  # image size
PREDICT, EXPORTED_RUN = "mura predict", "mura predict, exported run"
REPETITIONS = 2  # a cold answer by hand takes five to ten seconds

BY_HAND = """
import sys
import keras
import numpy as np
from PIL import Image
model = keras.saving.load_model(sys.argv[1], compile=False)
size = model.input_shape[1]
image = np.asarray(Image.open(sys.argv[2]).convert("L").resize((size, size)))
print(float(np.asarray(model(image[None, ..., None]))[0, 0]))
"""


def cold(command: list[str], environment: dict[str, str] | None = None):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def measure() -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, env=environment, **quiet)
        return time.perf_counter() - started

    return measure


def main() -> None:
    import numpy as np

    from mura import phantom
    from mura.data import read as read_manifest
    from mura.export import EXPORTED, ExportedModel, export
    from mura.models import architectures
    from mura.runs import RUN_FILES, Run

    mura = str(Path(sys.executable).parent / "mura")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.generate(Path(folder) / "phantom", scale=0.001, progress=False)
        image = str(root.parent / read_manifest(root)["path"].iloc[0])
        for name, size in ARCHITECTURES.items():
            plain, exported = Path(folder) / name, Path(folder) / f"{name}-exported"
            for run in (plain, exported):
                run.mkdir()
                for file in RUN_FILES:  # prediction reads the model alone
                    (run / file).write_text("{}")
            model = architectures.build(name, size)
            for run in (plain, exported):
                model.save(run / "model.keras")
            started = time.perf_counter()
            export(Run(exported))
            export_seconds = time.perf_counter() - started
            random = np.random.default_rng(0).integers(0, 256, (4, size, size, 1), np.uint8)
            difference = np.abs(
                ExportedModel(exported / EXPORTED)(random) - model.predict(random, verbose=0)
            ).max()
            figures = interleaved(
                {
                    "by hand: import, load, call": cold(
                        [sys.executable, "-c", BY_HAND, str(plain / "model.keras"), image],
                        without_onednn(),
                    ),
                    PREDICT: cold([mura, "predict", str(plain), image]),
                    EXPORTED_RUN: cold([mura, "predict", str(exported), image]),
                },
                REPETITIONS,
            )
            results.append(
                table(
                    f"A cold prediction, {name}, {size} px",
                    "seconds",
                    figures,
                    "by hand: import, load, call",
                    f"Exporting took {export_seconds:.1f} s; its probabilities differ from the "
                    f"Keras model's by at most {difference:.1e}.",
                    (PREDICT, "at most", 1.1),
                    (EXPORTED_RUN, "at most", 0.1),
                )
            )
    report(*results)


if __name__ == "__main__":
    main()
