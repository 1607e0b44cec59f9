"""Train the reference runs and keep their answers in results/ (`make reference`).

Hours on two cores, one training after another; run it again, and it goes on where it stopped. A
folder in results/ holds a run's predictions, recipe, history, environment and, where the data say
where findings are, what its maps point at: no weights and no images.
"""

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd

from mura import data, evaluation, explain, training
from mura.data.sources.fracatlas import UPPER_EXTREMITY
from mura.evaluation.references import SHORTCUTS
from mura.files import project_folder, write_json
from mura.predict import predict_data
from mura.runs import Run, list_references, results_folder

BUILD, RESULTS = project_folder() / "build" / "reference", project_folder() / "results"
ROOTS = {"phantom": "phantom/MURA-v1.1", "fracatlas": "FracAtlas"}  # in data/
PHOTOGRAPHS = "photographs"  # what the pretrained backbones learned from
FOLDS = SEEDS = 5
CONTROLS = "controls/"  # from random weights; shown beside the same recipe from photographs alone
CURVES, STARTS = "curves/", "starts/"  # what LearningCurves.ipynb shows
SHARES = (16, 8, 4, 2)  # one in so many training patients


def plan(name: str, photographs: Path) -> dict[str, training.Recipe]:
    """Return the runs of a data set; a control differs from another run in its start alone."""
    if name == "fracatlas":
        runs = _fracatlas(photographs)
        whole = {"cnn": runs["cnn-seed0"], "inception_v3": runs["inception_v3-fold0"]}
        return runs | _curves(whole) | _starts(runs["cnn-seed0"])
    runs = _phantom(photographs)
    cnn = training.recipe("cnn")  # `quick`: 15 runs of minutes
    complete = {f"{CURVES}cnn-1of1-seed{seed}": cnn.replace(seed=seed) for seed in range(3)}
    return runs | complete | _curves({"cnn": cnn, "inception_v3": runs["inception_v3"]})


def _phantom(photographs: Path) -> dict[str, training.Recipe]:
    """Take `standard` for the custom CNN, `quick` with more epochs for the large networks."""
    runs = {f"cnn-seed{n}": training.recipe("cnn", "standard", seed=n) for n in range(SEEDS)}
    changes = {"vgg16": {"epochs": 12}, "inception_v3": {}}
    for architecture, change in changes.items():
        file = str(photographs / f"{architecture}.weights.h5")
        runs[architecture] = training.recipe(architecture, weights=file, **change)
        control = training.recipe(architecture, weights="none", **change)
        runs[CONTROLS + architecture] = control
    # ConvNeXt-Tiny did not begin to learn from random weights (notebooks/Modern.ipynb)
    for architecture in ("densenet121", "resnet50", "xception", "efficientnet_v2_b0"):
        epochs = 24 if architecture == "resnet50" else None
        runs[architecture] = training.recipe(architecture, weights="none", epochs=epochs)
    return runs


def _fracatlas(photographs: Path) -> dict[str, training.Recipe]:
    """By `standard`; fold 0 is the usual validation part."""
    first = {"folds": FOLDS, "fold": 0}
    runs: dict[str, training.Recipe] = {}
    for fold in range(FOLDS):
        changes = {**first, "fold": fold}
        if fold:
            runs[f"cnn-fold{fold}"] = training.recipe("cnn", "standard", **changes)
        changes["weights"] = str(photographs / "inception_v3.weights.h5")
        runs[f"inception_v3-fold{fold}"] = training.recipe("inception_v3", "standard", **changes)
    for seed in range(SEEDS):
        runs[f"cnn-seed{seed}"] = training.recipe("cnn", "standard", **first, seed=seed)
    weights = str(photographs / "vgg16.weights.h5")
    runs["vgg16"] = training.recipe("vgg16", "standard", **first, weights=weights)
    for name in ("densenet121", "resnet50", "controls/inception_v3", "controls/vgg16"):
        architecture = name.removeprefix(CONTROLS)
        runs[name] = training.recipe(architecture, "standard", **first, weights="none")
    return runs


def _curves(whole: dict[str, training.Recipe]) -> dict[str, training.Recipe]:
    """Train on fewer patients, the custom CNN with three seeds."""
    return {
        f"{CURVES}{name}-1of{share}-seed{seed}": fewer(recipe, share, seed)
        for name, recipe in whole.items()
        for share in SHARES
        for seed in range(3 if name == "cnn" else 1)
    }


def _starts(cnn: training.Recipe) -> dict[str, training.Recipe]:
    """Start the custom CNN from the phantom's, and from random weights, at two sizes.

    From random weights at full size it is ``cnn-seed0`` and its further seeds.
    """
    phantom = {"weights": str(BUILD / "phantom" / "cnn-seed0"), "strict_weights": True}
    runs = {}
    for seed in range(SEEDS):
        runs[f"{STARTS}phantom-1of1-seed{seed}"] = cnn.replace(seed=seed, **phantom)
        quarter = fewer(cnn, 4, seed)
        runs[f"{STARTS}phantom-1of4-seed{seed}"] = quarter.replace(**phantom)
        if seed > 2:  # the others are the learning curve's
            runs[f"{CURVES}cnn-1of4-seed{seed}"] = quarter
    return runs


def fewer(recipe: training.Recipe, share: int, seed: int) -> training.Recipe:
    """Take one in ``share`` patients, others for each seed, for twice the epochs."""
    patients = {"train_fraction": 1 / share, "split_seed": seed}
    return recipe.replace(**patients, epochs=recipe.epochs * 2, seed=seed)


def keep(run: Run, root: Path, folder: Path, answers: pd.DataFrame, points: bool = True) -> None:
    """Copy what a run answered, of its own data or others, without paths of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(run.folder / "history.csv", folder / "history.csv")
    answers.to_csv(folder / "predictions.csv", index=False)
    weights = run.recipe["weights"]
    start = weights and ("phantom" if Path(weights).is_relative_to(BUILD) else PHOTOGRAPHS)
    write_json(folder / "recipe.json", run.recipe | {"weights": start})
    if points and data.boxes(root) is not None:
        valid = answers.query("split == 'valid'")
        explain.pointing_game(run, root, valid).to_csv(folder / "pointing.csv", index=False)
    start = start or "random"
    write_json(folder / "environment.json", run.environment | {"weights": start})  # the last


def measure_shortcuts(root: Path) -> None:
    """Write what the AUROCs on FracAtlas owe to the body part and to hardware."""
    runs = {run.folder.name: run for run in list_references("fracatlas")}
    manifest = data.read(root)
    studies, alone = {}, {}
    for title, (names, table) in evaluation.rows_of(runs).items():
        studies[title] = table
        held_out = {name: evaluation.run_studies(runs[name]) for name in names}
        answers = [
            evaluation.body_part_alone(each, manifest[~manifest["study"].isin(each["study"])])
            for each in held_out.values()
        ]
        block = ", all folds" if " folds" in title else ""
        alone[evaluation.ALONE + block] = pd.concat(answers).drop_duplicates("study")
    elsewhere = manifest.loc[~manifest["body_part"].isin(UPPER_EXTREMITY), "study"]
    hardware = manifest.loc[manifest["hardware"] == "1", "study"]
    without = {"upper extremity": elsewhere, "without hardware": hardware}
    table = evaluation.shortcut_table(studies | alone, without)
    numbers = ["value", "low", "high"]
    table[numbers] = table[numbers].round(5)
    table.to_csv(results_folder("fracatlas") / SHORTCUTS, index=False)


def ask_elsewhere(root: Path) -> None:
    """Ask the phantom's custom CNN, if it was trained here, about FracAtlas: a warning."""
    trained, folder = BUILD / "phantom" / "cnn-seed0", RESULTS / "fracatlas" / "elsewhere" / "cnn"
    if trained.is_dir() and not folder.is_dir():
        run = Run.load(trained)
        keep(run, root, folder, predict_data(run, root))


def main() -> None:
    """Train and keep what is not kept yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("phantom", "fracatlas"))
    parser.add_argument("name", nargs="*", help="runs; default: all")
    parser.add_argument("--root", type=Path, help="the data folder")
    parser.add_argument("--photographs", type=Path, help="folder with the pretrained backbones")
    options = parser.parse_args()
    root = options.root or project_folder() / "data" / ROOTS[options.data]
    runs = plan(options.data, options.photographs or Path())
    for name in options.name or runs:
        folder, recipe = RESULTS / options.data / name, runs[name]
        if (folder / "environment.json").is_file():
            continue
        if recipe.weights and not Path(recipe.weights).exists():
            print(f"{name}: left out, no {recipe.weights} (--photographs)", file=sys.stderr)
            continue
        run_name = name.replace("/", "-")
        run = training.train(recipe, root, run_name, BUILD / options.data, resume=True)
        answers, many = run.predictions, name.startswith((CURVES, STARTS))
        if many:  # only their validation AUROC is read
            answers = answers.query("split == 'valid'")
        keep(run, root, folder, answers, points=not many)
    if options.data == "fracatlas":
        ask_elsewhere(root)
        measure_shortcuts(root)


if __name__ == "__main__":
    main()
