"""Bundle a run with the package: `make bundle MODEL=cnn NAME=phantom`, then commit both files.

Writes the run's export with weights of 16 bits and its model card to src/mura/bundled/. A run of an
earlier version first gets what its answers need, from the data that it was trained on.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from mura import data
from mura.data.cache import cached
from mura.export import export
from mura.files import InputError
from mura.predict import BUNDLED
from mura.runs import Run
from mura.training.train import write_answering

LARGEST = 1_500_000  # bytes of a bundled model: git keeps every version
ATTRIBUTION = {
    "FracAtlas": "\n## Attribution\n\nTrained on FracAtlas (Abedeen et al. 2023, "
    "doi.org/10.1038/s41597-023-02432-4), CC BY 4.0.\n"
}


def with_answering(run: Run, root: Path) -> Run:
    """Return the run once it has its decisions and its novelty."""
    if run.decisions and run.novelty:
        return run
    manifest, model = data.read(root), run.load_model()
    pixels = cached(manifest, root, model.input_shape[1])
    part = manifest["patient"].map(run.split.set_index("patient")["part"])
    fit, tune = (np.flatnonzero(part == name) for name in ("fit", "tune"))
    write_answering(run.folder, model, run.predictions, pixels, fit, tune)
    return Run(run.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="name or folder of the run")
    parser.add_argument("name", help="phantom, or fracatlas: what people call the bundled model")
    parser.add_argument("--root", help="the run's data, for a run of an earlier version")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run.load(options.run)
        run = Run(shutil.copytree(run.folder, Path(folder) / options.name))
        run = with_answering(run, data.data_root(options.root))
        with (run.folder / "README.md").open("a", encoding="utf-8") as card:
            card.write(ATTRIBUTION.get(run.environment["data"]["name"], ""))
        exported = export(run, half=True)
        if exported.stat().st_size > LARGEST:
            raise InputError(f"{run.name}: {exported.stat().st_size:,} bytes; at most {LARGEST:,}.")
        shutil.copy(exported, BUNDLED / f"{options.name}.tflite")
        shutil.copy(run.folder / "README.md", BUNDLED / f"{options.name}.md")


if __name__ == "__main__":
    main()
