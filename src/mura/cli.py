"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mura.files import InputError, one_line, write_json

if TYPE_CHECKING:
    import pandas as pd

EXIT_DONE, EXIT_FINDINGS, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message}; `{self.prog} --help` says how it is called.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (0 done, 1 findings, 2 bad input or usage)."""
    options = argparse.Namespace(after_stop="Nothing half-written is left behind.")

    def run() -> int:
        _parser().parse_args(arguments, options)
        return options.command(options)

    return run_command(run, lambda: options.after_stop)


def run_command(run: Callable[[], int], after_stop: Callable[[], str]) -> int:
    """Run a command; turn what a person can put right into one line on stderr and a status.

    Args:
        run: The command; returns its exit status.
        after_stop: What to say after Ctrl-C, asked for then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return run()
        except BrokenPipeError:  # whoever reads has seen enough: `mura audit ROOT | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_DONE
        except (InputError, OSError) as error:
            _complain(one_line(error))
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            _complain(f"stopped. {after_stop()}")
            return EXIT_INTERRUPTED


def _show_warning(message: object, category: type[Warning], *_: object) -> None:
    if not issubclass(category, (DeprecationWarning, FutureWarning)):  # for developers
        _complain(message)


def _complain(text: object) -> None:
    sys.stdout.flush()
    print(f"mura: {' '.join(str(text).split())}", file=sys.stderr, flush=True)


def _phantom(options: argparse.Namespace) -> int:
    from mura import datasets, phantom

    scale = phantom.DEFAULT_SCALE if options.scale is None else options.scale
    out = options.out or datasets.phantom_folder(scale, options.seed)
    root = phantom.generate(out, scale=scale, seed=options.seed, jobs=options.jobs)
    print(f"{root} and {root.parent / 'truth.csv'}")
    return EXIT_DONE


def _audit(options: argparse.Namespace) -> int:
    from mura.audit import audit

    report = audit(options.root)
    print(report)
    if options.json:
        write_json(options.json, report.to_json())
    return EXIT_DONE if report.ok else EXIT_FINDINGS


def _train(options: argparse.Namespace) -> int:
    from mura.datasets import prepare
    from mura.recipes import recipe
    from mura.reports import results_table

    chosen = recipe(
        options.architecture,
        options.profile,
        image_size=options.image_size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        body_parts=options.body_part,
        head=options.head,
        weights=options.weights,
        seed=options.seed,
    )
    from mura import backend

    backend.start()
    from mura.architectures import refuse_missing_weights
    from mura.weights import among

    # before a phantom is drawn for nothing; a checkpoint holds weights of its own
    needed = chosen.strict_weights and not options.resume
    named = among(chosen.weights, options.models)
    refuse_missing_weights(chosen.architecture, named if needed else None)
    root = prepare(options.root)
    options.after_stop = "Repeat the command with --resume to go on from the last finished epoch."
    from mura.training import train

    run = train(chosen, root, options.name, options.models, resume=options.resume)
    if run.metrics["table"]:
        print(results_table([run]).to_string(index=False))
    else:
        print("no validation study is labelled, so there are no results to show")
    print(f"{run.folder}: complete")
    return EXIT_DONE


def _evaluate(options: argparse.Namespace) -> int:
    from mura import reports
    from mura.runs import Run, list_runs

    if options.html:
        from mura.pages import export_evaluation

        csv_files = [options.csv] if options.csv else []
        page = export_evaluation(options.html, options.models, options.root, options.run, csv_files)
        print(page)
        if not options.json:
            return EXIT_DONE
    studies: dict[str, pd.DataFrame] = {}
    made_on: dict[str, list[str]] = {}  # data set to runs
    if options.csv:
        predictions, manifest = _read_csv(options)
        studies[options.csv.stem] = reports.csv_studies(
            predictions, manifest=manifest, name=str(options.csv)
        )
    names = options.run
    if not names and not options.csv:
        names = [run.folder for run in list_runs(options.models)]
    status = EXIT_DONE
    for name in names:
        try:
            run = Run.load(name, options.models)
            if run.name in studies:
                raise InputError(f"{run.folder}: another {run.name} is compared; rename one.")
            data = run.environment["data"]["name"]
            studies[run.name] = reports.run_studies(run)
            made_on.setdefault(data, []).append(run.name)
        except (InputError, OSError) as error:  # a damaged run does not stop the others
            _complain(one_line(error))
            status = EXIT_BAD_INPUT
    if not studies:
        if names:
            return status
        raise InputError("no complete runs to evaluate yet; `mura train cnn` makes one.")
    table = reports.leaderboard(studies)
    if options.json:
        write_json(options.json, reports.to_json(table))
    print("Study level, 95 % bootstrap intervals over patients\n")
    print(reports.formatted(table).to_string(index=False))
    print("\nCohen's kappa per body part\n")
    print(reports.body_part_intervals(table).to_string())
    if len(made_on) > 1:
        listed = "; ".join(f"{data}: {', '.join(names)}" for data, names in made_on.items())
        _complain(f"these runs do not compare, as they were made on different data ({listed}).")
    return status


def _read_csv(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read --csv and the manifest of --root; both also of the folder in force for its labels."""
    from mura.evaluation import UnlabelledError, read_predictions
    from mura.manifest import data_root, read_manifest

    if options.root:
        manifest = read_manifest(options.root)
        return read_predictions(options.csv, manifest), manifest
    try:
        return read_predictions(options.csv), None
    except UnlabelledError as error:
        root = data_root()
        if not root.is_dir():
            raise InputError(f"{error} Name the data folder that has them with --root.") from None
        print(f"labels: {root}")
        manifest = read_manifest(root)
        return read_predictions(options.csv, manifest), manifest


def _predict(options: argparse.Namespace) -> int:
    from mura.prediction import predict_each  # without pandas, whose import takes longer
    from mura.runs import Run

    results = predict_each(Run.load(options.run, options.models), options.path)
    readable = [row for row in results if not row.error]
    if options.json:
        fields = ("path", "probability", "answer", "views")
        answers = [{name: getattr(row, name) for name in fields} for row in readable]
        print(json.dumps(answers, indent=2))
    else:
        for row in readable:
            print(f"{row.answer:8} {row.probability:.3f}  {row.path}")
    for row in results:
        if row.error:
            _complain(row.error)
    return EXIT_DONE if len(readable) == len(results) else EXIT_BAD_INPUT


def _export(options: argparse.Namespace) -> int:
    from mura import backend
    from mura.export import export
    from mura.runs import Run

    backend.start()
    print(export(Run.load(options.run, options.models)))
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mura",
        description="Train, evaluate and compare networks on MURA radiographs. "
        "Research software, not a medical device.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable, text: str) -> Parser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    run = "its name under models/, or its folder"

    def add_models(command: Parser) -> None:
        command.add_argument("--models", type=Path, help="folder of the runs; models/ without it")

    phantom = add("phantom", _phantom, "Draw the embedded synthetic data set.")
    phantom.add_argument(
        "--out",
        type=Path,
        help="data/phantom, or data/phantom-… of another size or seed",
    )
    phantom.add_argument("--scale", type=float, help="share of MURA's 40,005 images; 1: all")
    phantom.add_argument(
        "--seed", type=int, default=0, help="another one draws other images; 0 without it"
    )
    phantom.add_argument("--jobs", type=int, help="processes; all cores without it")

    audit = add("audit", _audit, "Say what is wrong with a data folder (exit 1: findings).")
    audit.add_argument("root", type=Path, help="the folder that holds the four CSV files")
    audit.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")

    train = add("train", _train, "Train an architecture and write its run folder.")
    train.add_argument("architecture", help="cnn, vgg16, resnet50, densenet169, ...")
    train.add_argument("--root", type=Path, help="data folder; else MURA_ROOT, else what is there")
    train.add_argument(
        "--profile",
        choices=("quick", "full", "modern"),
        default="quick",
        help="quick: minutes on a laptop, and without it; full: the paper's; modern: today's",
    )
    train.add_argument("--image-size", type=int, metavar="N", help="pixels; else the profile's")
    train.add_argument("--epochs", type=int, metavar="N", help="else the profile's")
    train.add_argument("--batch-size", type=int, metavar="N", help="images; else the profile's")
    train.add_argument("--body-part", nargs="+", metavar="XR_WRIST", help="these alone")
    train.add_argument("--head", choices=("binary", "joint"), help="joint: body part x finding")
    train.add_argument(
        "--weights",
        metavar="imagenet|none|PATH",
        help="PATH: a file, a folder of Keras's files, or a run; else the profile's",
    )
    train.add_argument("--seed", type=int, help="of weights, order and augmentation; 0 without it")
    train.add_argument("--name", metavar="RUN", help="else ARCHITECTURE, or ARCHITECTURE-PROFILE")
    train.add_argument("--resume", action="store_true", help="continue an interrupted training")
    add_models(train)

    evaluate = add("evaluate", _evaluate, "Compare runs by their predictions.")
    evaluate.add_argument("run", nargs="*", help="names or folders; all, or --csv alone, without")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    evaluate.add_argument(
        "--csv", type=Path, help="anybody's probabilities, evaluated the same way"
    )
    evaluate.add_argument("--root", type=Path, help="data folder with the labels for --csv")
    evaluate.add_argument("--html", type=Path, help="write the evaluation notebook as one page")
    add_models(evaluate)

    predict = add("predict", _predict, "Answer normal or abnormal for images or study folders.")
    predict.add_argument("run", help=run)
    predict.add_argument("path", nargs="+", type=Path, help="images, or folders of one study each")
    predict.add_argument("--json", action="store_true", help="answer in JSON")
    add_models(predict)

    export = add("export", _export, "Export a run for prediction without TensorFlow (LiteRT).")
    export.add_argument("run", help=run)
    add_models(export)
    return parser


if __name__ == "__main__":
    sys.exit(main())
