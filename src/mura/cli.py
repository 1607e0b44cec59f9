"""The commands: call what does the work, print what it says."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mura.arguments import parser
from mura.files import InputError, one_line, printable, write_atomically, write_json

if TYPE_CHECKING:
    import pandas as pd

EXIT_DONE, EXIT_FINDINGS, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status (0 done, 1 findings, 2 bad input or usage)."""
    options = argparse.Namespace(after_stop="Nothing half-written is left behind.")

    def run() -> int:
        commands = (_phantom, _audit, _train, _evaluate, _predict, _export)
        parser({command.__name__[1:]: command for command in commands}).parse_args(
            arguments, options
        )
        return options.command(options)

    return run_command(run, lambda: options.after_stop)


def run_command(run: Callable[[], int], after_stop: Callable[[], str]) -> int:
    """Run a command; turn what a person can put right into one line on stderr and a status.

    Args:
        run: The command; returns its exit status.
        after_stop: What to say after Ctrl-C, asked for then.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            try:
                status = run()
            except SystemExit as end:  # --help
                status = int(end.code or 0)
            _flush()  # not when Python ends, where nobody could answer for a reader that is gone
            return status
        except BrokenPipeError:  # whoever reads has seen enough: `mura audit ROOT | head`
            _flush()
            return EXIT_DONE
        except (InputError, OSError) as error:
            _complain(one_line(error))
            return EXIT_BAD_INPUT
        except KeyboardInterrupt:
            _complain(f"stopped. {after_stop()}")
            return EXIT_INTERRUPTED


def _open_closed_streams() -> None:
    """Give what the caller closed (`2>&-`) a stream that leads nowhere.

    Progress bars and backends write to one without asking; and the next file that is opened would
    take its descriptor, and with it all that a library prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # in this order the lowest descriptor that is free, which it takes, is the stream's own
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 (stays open)
            os.set_inheritable(stream.fileno(), True)  # processes that are started need it, too
            setattr(sys, name, stream)


def _show_warning(message: object, category: type[Warning], *_: object) -> None:
    if not issubclass(category, (DeprecationWarning, FutureWarning)):  # for developers
        _complain(message)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:  # nobody reads, or a full disk: what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def _complain(text: object) -> None:
    _flush()
    print(f"mura: {printable(' '.join(str(text).split()))}", file=sys.stderr, flush=True)


def _phantom(options: argparse.Namespace) -> int:
    from mura import phantom
    from mura.data import folders as datasets

    scale = phantom.DEFAULT_SCALE if options.scale is None else options.scale
    out = options.out or datasets.phantom_folder(scale, options.seed)
    root = phantom.generate(out, scale=scale, seed=options.seed, jobs=options.jobs)
    print(f"{root} and {root.parent / 'truth.csv'}")
    return EXIT_DONE


def _audit(options: argparse.Namespace) -> int:
    from mura.data.audit import audit

    report = audit(options.root)
    print(report)
    if options.json:
        write_json(options.json, report.to_json())
    return EXIT_DONE if report.ok else EXIT_FINDINGS


def _train(options: argparse.Namespace) -> int:
    from mura.data.folders import prepare
    from mura.evaluation.reports import results_table
    from mura.training.recipes import recipe

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
    from mura.models.architectures import refuse_missing_weights
    from mura.models.weights import among

    # before a phantom is drawn for nothing; a checkpoint holds weights of its own
    needed = chosen.strict_weights and not options.resume
    named = among(chosen.weights, options.models)
    refuse_missing_weights(chosen.architecture, named if needed else None)
    root = prepare(options.root)
    options.after_stop = "Repeat the command with --resume to go on from the last finished epoch."
    from mura.training.train import train

    run = train(chosen, root, options.name, options.models, resume=options.resume)
    if run.metrics["table"]:
        print(results_table([run]).to_string(index=False))
    else:
        print("no validation study is labelled, so there are no results to show")
    print(f"{run.folder}: complete")
    return EXIT_DONE


def _evaluate(options: argparse.Namespace) -> int:
    from mura.evaluation import reports
    from mura.runs import Run, list_runs, models_folder

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
        models = models_folder(options.models)
        raise InputError(f"{models}: no complete runs to evaluate; `mura train cnn` makes one.")
    table = reports.leaderboard(studies)
    if options.json:
        write_json(options.json, reports.to_json(table))
    print("Study level, 95 % bootstrap intervals over patients\n")
    results = reports.formatted(table)
    results["model"] = results["model"].map(printable)  # the names of folders and of a file
    print(results.to_string(index=False))
    print("\nCohen's kappa per body part\n")
    print(reports.body_part_intervals(table).rename(columns=printable).to_string())
    if len(made_on) > 1:
        listed = "; ".join(f"{data}: {', '.join(names)}" for data, names in made_on.items())
        _complain(f"these runs do not compare, as they were made on different data ({listed}).")
    return status


def _read_csv(options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Read --csv, and the manifest of --root or, where it knows the rows, of the data at hand.

    A folder's lists come before its studies' suffixes: they may ask another question than MURA.
    """
    from mura.data.manifest import ManifestError, data_root, read_manifest
    from mura.evaluation import UnknownStudyError, UnlabelledError, read_predictions

    root = options.root or data_root()
    try:
        manifest = read_manifest(root)
        predictions = read_predictions(options.csv, manifest)
        print(f"data: {root}")
        return predictions, manifest
    except (FileNotFoundError, ManifestError, UnknownStudyError, UnlabelledError) as error:
        if options.root:
            raise
        if isinstance(error, ManifestError):  # what is merely at hand may be about something else
            _complain(error)
    try:
        predictions = read_predictions(options.csv)
    except UnlabelledError as error:
        raise InputError(f"{error} Name the data folder that has them with --root.") from None
    print("data: none at hand that lists these rows; labels are the CSV file's own")
    return predictions, None


def _predict(options: argparse.Namespace) -> int:
    # without pandas, whose import takes longer
    from mura.predict import Prediction, predict_each
    from mura.runs import Run

    results = predict_each(Run.load(options.run, options.models), options.path)
    readable = [row for row in results if not row.error]
    if options.json:
        fields = ("path", "probability", "answer", "views")
        answers = [{name: getattr(row, name) for name in fields} for row in readable]
        print(json.dumps(answers, indent=2))
    else:
        for row in readable:
            views = "" if Path(row.path).is_file() else f"  ({row.views} views)"
            print(f"{row.answer:8} {row.probability:.3f}  {printable(row.path)}{views}")
    if options.csv:
        with write_atomically(options.csv) as file:
            table = csv.DictWriter(file, Prediction.__dataclass_fields__, lineterminator="\n")
            table.writeheader()
            # file names need not be text
            named = ({**asdict(row), "path": printable(row.path)} for row in results)
            table.writerows(row | {"error": printable(row["error"])} for row in named)
    for row in results:
        if row.error:
            _complain(row.error)
        elif row.views > 1 and not Path(row.path).resolve().name.startswith("study"):
            _complain(
                f"{row.path}: answered as one study of {row.views} views; for an answer per "
                "image name the images."
            )
    return EXIT_DONE if len(readable) == len(results) else EXIT_BAD_INPUT


def _export(options: argparse.Namespace) -> int:
    from mura import backend
    from mura.export import export
    from mura.runs import Run

    backend.start()
    print(export(Run.load(options.run, options.models)))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
