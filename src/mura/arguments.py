"""The command line's arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from mura.files import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(f"{message}; `{self.prog} --help` says how it is called.")


def parser(commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> Parser:
    """Return the parser of `mura`.

    Args:
        commands: What runs each of phantom, audit, train, evaluate, predict and export; stands
            in the parsed options as ``command``.
    """
    parser = Parser(
        prog="mura",
        description="Train, evaluate and compare networks on MURA radiographs. "
        "Research software, not a medical device.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> Parser:
        command = subparsers.add_parser(name, help=text, description=text)
        command.set_defaults(command=commands[name])
        return command

    run = "its name under models/, or its folder"

    def add_models(command: Parser) -> None:
        command.add_argument("--models", type=Path, help="folder of the runs; models/ without it")

    phantom = add("phantom", "Draw the embedded synthetic data set.")
    phantom.add_argument(
        "--out",
        type=Path,
        help="data/phantom, or data/phantom-… of another size or seed",
    )
    phantom.add_argument("--scale", type=float, help="share of MURA's studies; 0.14 without it")
    phantom.add_argument(
        "--seed", type=int, default=0, help="another one draws other images; 0 without it"
    )
    phantom.add_argument("--jobs", type=int, help="processes; all cores without it")

    audit = add("audit", "Say what is wrong with a data folder (exit 1: findings).")
    audit.add_argument("root", type=Path, help="the folder that holds the four CSV files")
    audit.add_argument("--json", type=Path, metavar="FILE", help="write the findings there, too")

    train = add("train", "Train an architecture and write its run folder.")
    train.add_argument("architecture", help="cnn, vgg16, resnet50, densenet169, ...")
    train.add_argument("--root", type=Path, help="data folder; else MURA_ROOT, else what is there")
    train.add_argument(
        "--profile",
        choices=("quick", "full", "modern"),
        default="quick",
        help="quick (without it): the phantom, in minutes; full: the paper's; modern: today's",
    )
    train.add_argument("--image-size", type=int, metavar="N", help="pixels; else the profile's")
    train.add_argument("--epochs", type=int, metavar="N", help="else the profile's")
    train.add_argument("--batch-size", type=int, metavar="N", help="images; else the profile's")
    train.add_argument(
        "--body-part", nargs="+", action="extend", metavar="XR_WRIST", help="these alone"
    )
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

    evaluate = add("evaluate", "Compare runs by their predictions.")
    evaluate.add_argument("run", nargs="*", help="names or folders; without: all, or --csv alone")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    evaluate.add_argument(
        "--csv", type=Path, help="anybody's: columns path (or study) and probability"
    )
    evaluate.add_argument(
        "--root", type=Path, help="data folder with the labels for --csv; as for train without it"
    )
    evaluate.add_argument("--html", type=Path, help="write the evaluation notebook as one page")
    add_models(evaluate)

    predict = add("predict", "Answer normal or abnormal for images or study folders.")
    predict.add_argument("run", help=run)
    predict.add_argument("path", nargs="+", type=Path, help="images, or folders of one study each")
    predict.add_argument("--json", action="store_true", help="answer in JSON")
    predict.add_argument("--csv", type=Path, metavar="FILE", help="write the answers there, too")
    add_models(predict)

    export = add("export", "Export a run for prediction without TensorFlow (LiteRT).")
    export.add_argument("run", help=run)
    add_models(export)
    return parser
