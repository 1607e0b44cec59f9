"""Train the reference runs and keep their answers in results/ (`make reference`).

Hours on two cores, one training after another; run it again, and it goes on where it stopped. A
folder in results/ holds a run's predictions, recipe, history, environment and, where the data say
where findings are, what its maps point at: no weights and no images.
"""

import argparse
import shutil
import sys
from pathlib import Path

from mura import data, explain, training
from mura.files import project_folder, write_json
from mura.runs import Run

BUILD, RESULTS = project_folder() / "build" / "reference", project_folder() / "results"
KEPT = ("history.csv", "predictions.csv")
PHOTOGRAPHS = "photographs"  # what the pretrained backbones learned from
FOLDS = 5


def plan(name: str, photographs: Path) -> dict[str, tuple[str, dict]]:
    """Return the runs of a data set: name to architecture and changes of its recipe."""
    runs: dict[str, tuple[str, dict]] = {}
    if name == "fracatlas":
        first = {"folds": FOLDS, "fold": 0}
        for seed in range(5):
            runs[f"cnn-seed{seed}"] = ("cnn", {**first, "seed": seed})
        weights = str(photographs / "inception_v3.weights.h5")
        for fold in range(FOLDS):
            changes = {"folds": FOLDS, "fold": fold}
            runs[f"inception_v3-fold{fold}"] = ("inception_v3", {**changes, "weights": weights})
            if fold:
                runs[f"cnn-fold{fold}"] = ("cnn", changes)
    return runs


def keep(run: Run, root: Path, folder: Path, weights: str | None) -> None:
    """Copy what a run answered into the results, without paths of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(run.folder / name, folder / name)
    start = PHOTOGRAPHS if weights else "random"
    write_json(folder / "recipe.json", run.recipe | {"weights": PHOTOGRAPHS if weights else None})
    write_json(folder / "environment.json", run.environment | {"weights": start})
    if data.boxes(root) is not None:
        valid = run.predictions.query("split == 'valid'")
        explain.pointing_game(run, root, valid).to_csv(folder / "pointing.csv", index=False)


def main() -> None:
    """Train and keep what is not kept yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("fracatlas",))
    parser.add_argument("name", nargs="*", help="runs; default: all")
    parser.add_argument("--root", type=Path, default=project_folder() / "data" / "FracAtlas")
    parser.add_argument("--photographs", type=Path, help="folder with the pretrained backbones")
    options = parser.parse_args()
    runs = plan(options.data, options.photographs or Path())
    for name in options.name or runs:
        architecture, changes = runs[name]
        folder = RESULTS / options.data / name
        if (folder / "environment.json").is_file():
            continue
        weights = changes.get("weights")
        if weights and not Path(weights).is_file():
            print(f"{name}: left out, no {weights} (--photographs)", file=sys.stderr)
            continue
        recipe = training.recipe(architecture, "standard", **changes)
        run = training.train(recipe, options.root, name, BUILD / options.data, resume=True)
        keep(run, options.root, folder, weights)


if __name__ == "__main__":
    main()
