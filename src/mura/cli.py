"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mura.files import InputError, write_atomically, write_json

if TYPE_CHECKING:  # `mura --help` does not wait for pandas
    import pandas as pd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 if the audit has findings, 2 for bad input, 130 after Ctrl-C.

    Wrong arguments and --help end in SystemExit.
    """
    options = parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return options.command(options)
        except (InputError, OSError) as error:
            _complain(error)
            return 2
        except KeyboardInterrupt:
            _complain("stopped; `mura train --resume` and `mura grid` go on from the last epoch.")
            return 130


def _complain(message: object) -> None:
    print(f"mura: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def _show_warning(message: object, category: type[Warning], *_: object) -> None:
    if not issubclass(category, (DeprecationWarning, FutureWarning)):  # these are for developers
        _complain(message)


def _phantom(options: argparse.Namespace) -> int:
    from mura import phantom
    from mura.data import phantom_folder

    scale = phantom.DEFAULT_SCALE if options.scale is None else options.scale
    out = options.out or phantom_folder(scale, options.seed)
    root = phantom.generate(out, scale=scale, seed=options.seed, jobs=options.jobs)
    print(f"{root} and {root.parent / 'truth.csv'}")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from mura.data.audit import audit

    report = audit(options.root)
    print(report)
    if options.json:
        write_json(options.json, report.to_json())
    return 0 if report.ok else 1


def _train(options: argparse.Namespace) -> int:
    from mura import training
    from mura.evaluation import results_table

    names = ("image_size", "epochs", "batch_size", "body_parts", "head", "weights", "seed")
    settings = {name: getattr(options, name) for name in names} | dict(options.set)
    profile = options.profile or training.usual_profile(options.root)
    if not options.profile:
        print(f"profile: {profile} (--profile chooses another)", flush=True)
    recipe = training.recipe(options.architecture, profile, **settings)
    asked = options.root, options.name, options.models, options.resume
    run = training.train(recipe, *asked, spread_over=options.devices)
    if training.devices.process()[0]:  # another process prints
        return 0
    table = results_table([run]).to_string(index=False) if run.metrics["table"] else ""
    print(table or "no results to show: no validation study has a label")
    print(f"{run.folder}: complete")
    return 0


def _grid(options: argparse.Namespace) -> int:
    from mura.training.grid import read_grid
    from mura.training.local import run_here
    from mura.training.slurm import batch_file, submit

    grid = read_grid(options.grid, options.models)
    if options.status:
        print(grid.table().to_string(index=False))
    elif not grid.left():
        print(f"{grid.folder}: all {len(grid.cells)} cells are done")
    elif options.slurm and options.print:
        print(batch_file(grid))
    elif options.slurm:
        print(f"submitted: {', '.join(submit(grid))}; --status tells how they fare")
    else:
        run_here(grid, options.jobs)
    return 0


def _setting(text: str) -> tuple[str, object]:
    """Return the name and value of NAME=VALUE; a value that is no JSON is a text."""
    name, equals, value = text.partition("=")
    if not equals or name in ("architecture", "profile"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected SETTING=VALUE of a recipe")
    with contextlib.suppress(ValueError):
        return name, json.loads(value)
    return name, value


def _evaluate(options: argparse.Namespace) -> int:
    from mura import evaluation
    from mura.data import data_name, data_note, read
    from mura.predict import predict_data
    from mura.runs import Run, list_runs

    if options.flip and (options.csv or not options.root):
        raise InputError(
            "--flip predicts anew: name the data to predict with --root, without --csv."
        )
    studies: dict[str, pd.DataFrame] = {}
    data: dict[str, list[str]] = {}  # the runs of each data set
    notes: dict[str, str] = {}  # what its results have to say
    file, names = options.csv, options.run
    if file:
        predictions, manifest, source = evaluation.read_external(file, options.root)
        print(f"data: {source}")
        studies[file.stem] = evaluation.csv_studies(predictions, manifest, str(file))
    elif not names:
        names = [run.folder for run in list_runs(options.models)]
        if not names:
            models = options.models or "models"
            raise InputError(f"{models}: no complete runs to evaluate; `mura train cnn` makes one.")
    if options.root and not file:
        other = data_name(options.root), data_note(options.root, read(options.root))
    status = 0
    for name in names:
        try:
            run = Run.load(name, options.models)
            if run.name in studies:
                raise InputError(f"{run.folder}: another {run.name} is compared; rename one.")
            facts = run.environment["data"]
            of, note = facts["name"], facts.get("note")
            if options.root and not file:  # of these data, which may be others
                of, note = other
                predictions = evaluation.labelled(predict_data(run, options.root, options.flip))
                studies[run.name] = evaluation.study_predictions(predictions, name=run.name)
            else:
                studies[run.name] = evaluation.run_studies(run)
            data.setdefault(of, []).append(run.name)
            if note:
                notes[of] = f"{of}: {note}"
        except (InputError, OSError) as error:  # a damaged run does not stop the others
            _complain(error)
            status = 2
    if not studies:
        return status
    table = evaluation.model_table(studies, evaluation.SHOWN)
    if options.json:
        write_json(options.json, evaluation.to_json(table))
    print(*notes.values(), sep="\n", end="\n" if notes else "")
    print("Study level, 95 % bootstrap intervals over patients\n")
    print(evaluation.formatted(table).to_string(index=False))
    print("\nCohen's kappa per body part\n")
    print(evaluation.body_part_intervals(table).to_string())
    if len(data) > 1:
        listed = "; ".join(f"{name}: {', '.join(runs)}" for name, runs in data.items())
        _complain(f"do not compare these runs: they were made on different data ({listed}).")
    return status


def _predict(options: argparse.Namespace) -> int:
    from mura.predict import Prediction, choose_model, predict_each

    model, paths = choose_model(options.path, options.run, options.models)
    if paths is options.path and not options.run:  # nobody named it
        _complain(f"{model.name}, a bundled model, answers; --run names another.")
    results = predict_each(model, paths, options.flip, options.at)
    readable = [row for row in results if not row.error]
    if options.json:
        fields = [name for name in Prediction.__dataclass_fields__ if name != "error"]
        answers = [{name: getattr(row, name) for name in fields} for row in readable]
        print(json.dumps(answers, indent=2))
    else:
        for row in readable:
            views = "" if Path(row.path).is_file() else f"  ({row.views} views)"
            probability = row.probability if row.calibrated is None else row.calibrated
            print(f"{row.answer:8} {probability:.3f}  {row.path}{views}")
    if options.csv:
        with write_atomically(options.csv) as file:
            table = csv.DictWriter(file, Prediction.__dataclass_fields__, lineterminator="\n")
            table.writeheader()
            table.writerows(map(asdict, results))
    for row in results:
        if row.notes:
            _complain(f"{row.path}: {row.notes.rstrip('.')}.")
        if row.error:
            _complain(row.error)
        elif row.views > 1 and not Path(row.path).resolve().name.startswith("study"):
            text = f"answered as one study of {row.views} views; name images to have one each"
            _complain(f"{row.path}: {text}.")
    return 0 if len(readable) == len(results) else 2


def _export(options: argparse.Namespace) -> int:
    from mura.export import export
    from mura.runs import Run

    print(export(Run.load(options.run, options.models), options.format, options.half))
    return 0


def _app(options: argparse.Namespace) -> int:
    from mura.app import serve

    serve(options.models, options.host, options.port, not options.no_browser)
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser; a parsed command's function is in ``options.command``."""
    text = "Train, evaluate and compare networks on radiographs of bones."
    text += " Research software, not a medical device."
    parser = argparse.ArgumentParser(prog="mura", description=text)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], int], text: str) -> Callable[..., object]:
        command = subparsers.add_parser(run.__name__[1:], help=text, description=text)
        command.set_defaults(command=run)
        return command.add_argument

    option = add(_phantom, "Draw the embedded synthetic data set.")
    option("--out", type=Path, help="folder to draw it in; default: data/phantom[-SCALE][-SEED]")
    option("--scale", type=float, help="share of MURA's studies; default: 0.14")
    option("--seed", type=int, default=0, help="draws other images; default: 0")
    option("--jobs", type=int, help="processes; default: one per core")

    option = add(_audit, "Say what is wrong with a data folder (exit status 1: findings).")
    option("root", type=Path, help="data folder, or a CSV table")
    option("--json", type=Path, metavar="FILE", help="also write the findings to FILE")

    option = add(_train, "Train an architecture and write its run folder.")
    option("architecture", help="cnn, vgg16, resnet50, densenet169, ...")
    option("--root", type=Path, help="data folder or CSV table; default: MURA_ROOT, else data/")
    text = "quick: minutes on the phantom; standard: for radiographs; paper: MURA's; default: quick"
    option("--profile", help=f"{text} on the phantom, else standard")
    option("--image-size", type=int, metavar="N", help="pixels; default: the profile's")
    option("--epochs", type=int, metavar="N", help="default: the profile's")
    option("--batch-size", type=int, metavar="N", help="images; default: the profile's")
    parts = {"nargs": "+", "action": "extend", "dest": "body_parts", "metavar": "PART"}
    option("--body-part", **parts, help="train on these only")
    option("--head", choices=("binary", "joint"), help="joint: body part x finding")
    option("--weights", metavar="imagenet|none|PATH", help="PATH: a weight file, folder or run")
    option("--seed", type=int, help="of weights, order and augmentation; default: 0")
    setting = {"type": _setting, "action": "append", "default": [], "metavar": "NAME=VALUE"}
    option("--set", **setting, help="any other setting of the recipe, such as folds=5")
    option("--name", metavar="RUN", help="default: ARCHITECTURE or ARCHITECTURE-PROFILE")
    option("--resume", action="store_true", help="continue an interrupted training")
    option("--devices", metavar="N|all|cpu:N", help="GPUs that share the training (JAX alone)")
    option("--models", type=Path, help=(models := "folder of the runs; default: models/"))

    option = add(_grid, "Train every combination of some settings; run again, it goes on.")
    option("grid", type=Path, help="TOML file (docs/clusters.md)")
    option("--jobs", type=int, metavar="N", help="at a time; default: one per GPU, or one")
    option("--status", action="store_true", help="say what is done, and train nothing")
    option("--slurm", action="store_true", help="submit a Slurm array instead")
    option("--print", action="store_true", help="with --slurm: only show the file for sbatch")
    option("--models", type=Path, help=models)

    option = add(_evaluate, "Compare runs by their predictions.")
    option("run", nargs="*", help="names or folders; default: all runs, or none with --csv")
    option("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    option("--csv", type=Path, help="external predictions: columns path (or study), probability")
    option("--root", type=Path, help="predict these data anew; with --csv: data with its labels")
    option("--flip", action="store_true", help=(flip := "average with the mirror image's answer"))
    option("--models", type=Path, help=models)

    option = add(_predict, "Answer normal, abnormal or not sure for images or study folders.")
    text = "images, or folders of one study each; before them a run, a .keras or a .tflite file"
    option("path", nargs="+", type=Path, help=f"{text}; default: the bundled model")
    option("--run", help="the model, where the first path is a file of the same name")
    text = "operating point: conformal90 (may say not sure), trained (0.5), kappa, sensitivity90"
    option("--at", metavar="NAME", help=f"{text}, specificity90; default: the first it has")
    option("--json", action="store_true", help="print JSON")
    option("--csv", type=Path, metavar="FILE", help="also write the answers to FILE")
    option("--flip", action="store_true", help=flip)
    option("--models", type=Path, help=models)

    option = add(_export, "Export a run for prediction without TensorFlow (LiteRT).")
    option("run", help="name or folder of the run")
    option("--format", choices=("litert", "onnx"), default="litert", help="default: litert")
    option("--half", action="store_true", help="weights of 16 bits: half the size")
    option("--models", type=Path, help=models)

    option = add(_app, "Open a page in the browser to ask a model.")
    option("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    option("--port", type=int, help="default: a free one from 7860 on")
    option("--no-browser", action="store_true", help="only print the address")
    option("--models", type=Path, help=models)
    return parser


if __name__ == "__main__":
    sys.exit(main())
