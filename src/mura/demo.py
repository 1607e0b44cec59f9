"""The whole path on embedded data: draw, look, train, compare, predict (`make demo`)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mura.cli import EXIT_DONE, run_command
from mura.data import folders as datasets
from mura.evaluation.reports import results_table
from mura.files import project_folder
from mura.notebooks import execute, on_phantom
from mura.predict import predict_paths
from mura.runs import Run, list_runs, models_folder

# What each notebook shows, as it is announced.
DEMO = {
    "EDA": "what is in the data",
    "CNN": "train the custom CNN from scratch",
    "VGG": "train VGG-16",
    "ResNet": "train ResNet-50",
    "DenseNet": "train DenseNet-121",
    "Evaluation": "how good the trained models are",
    "Prediction": "one radiograph, its answer and where the model looked",
}
NETWORKS = ("cnn", "densenet121", "resnet50", "vgg16")  # what they train
FAMILIES = ("VGG", "ResNet", "DenseNet")  # what the short demo leaves out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo in the checkout; exit status 0, or 2 when a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="train the custom CNN alone")
    short = parser.parse_args(arguments).short
    return run_command(
        lambda: _run(short), lambda: "`make demo` goes on from the last finished training."
    )


def _run(short: bool) -> int:
    steps = {name: text for name, text in DEMO.items() if not (short and name in FAMILIES)}
    started = time.perf_counter()
    executed = project_folder() / "notebooks" / "executed"
    root = datasets.prepare_phantom()
    for number, (name, text) in enumerate(steps.items(), 1):
        print(f"\n[{number}/{len(steps)}] {name}: {text}", flush=True)
        begun = time.perf_counter()
        output = execute(name, executed / f"{name}.ipynb", on_phantom())
        print(f"{output}, {time.perf_counter() - begun:.0f} s", flush=True)
    with pd.option_context("display.width", 200, "display.max_columns", None):
        print(f"\n{results_table(_demonstrated()).T.to_string(header=False)}")
    _classify_one(Run.load("cnn"), root)
    print(
        f"\nDone in {(time.perf_counter() - started) / 60:.1f} minutes. Look at\n"
        f"  {project_folder() / 'plots'}/  the figures\n"
        f"  {models_folder()}/  a folder per trained model, each with a model card\n"
        f"  {executed}/  the notebooks as they ran; open them with `.venv/bin/jupyter notebook`"
    )
    return EXIT_DONE


def _demonstrated() -> list[Run]:
    """Return the phantom's runs of the demo's networks; those of other data may stand there too."""
    runs = [run for run in list_runs() if run.name in NETWORKS]
    return [run for run in runs if run.environment["data"]["name"] == "phantom"]


def _classify_one(run: Run, root: Path) -> None:
    """Print what `mura predict` answers for a validation image."""
    first = run.predictions.query("split == 'valid'").iloc[0]
    image = root.parent / first["path"]
    answered = predict_paths(run, [image]).iloc[0]
    print(f"\n$ mura predict {run.name} {image}")
    print(f"{answered['answer']:8} {answered['probability']:.3f}  {image}")


if __name__ == "__main__":
    sys.exit(main())
