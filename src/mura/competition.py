"""The MURA competition's program: image paths in, a decision per study out.

    python -m mura.competition valid_image_paths.csv predictions.csv [--run RUN]

The input lists image paths without a header; the output has one line per study, without a header,
in order of first appearance: ``MURA-v1.1/valid/XR_WRIST/patient11185/study1/,1``.

Without ``--run`` it is the run that stands for all, as in the evaluation: of those that were made
on this data and predicted the most, the one with the highest AUROC on its tune patients.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mura.arguments import Parser
from mura.cli import EXIT_DONE, run_command
from mura.data.manifest import read_image_paths
from mura.evaluation.candidates import best_run
from mura.files import printable, write_atomically
from mura.predict import answer, predict_files
from mura.runs import Run


def predict_competition(images: str | Path, output: str | Path, run: str | None = None) -> int:
    """Write the decisions; return how many images could not be read.

    Args:
        images: CSV of image paths, resolved against the current folder.
        output: CSV to write.
        run: A run's name or folder; None: the one that stands for all (``candidates.best_run``),
            whose name is printed on stderr.

    Raises:
        InputError: The list or the run cannot be used.
    """
    manifest = read_image_paths(images)
    if run:
        chosen = Run.load(run)
    else:
        chosen = best_run(root=_data_folder(manifest["path"].iloc[0]))
        print(f"mura: run {chosen.name}", file=sys.stderr)
    outside = np.array([_leads_out(path) for path in manifest["path"]])
    predicted = predict_files(chosen, manifest["path"][~outside], skip_unreadable=True)
    predicted = predicted.set_index(manifest.index[~outside]).reindex(manifest.index)
    predicted.loc[outside, "error"] = (
        manifest["path"][outside] + ": a symbolic link leads out of the data folder; not read."
    )
    for error in predicted.loc[predicted["error"] != "", "error"]:
        print(printable(f"mura: {' '.join(error.split())}"), file=sys.stderr)
    by_study = predicted["probability"].groupby(manifest["study"], sort=False).mean()
    for study in by_study.index[by_study.isna()]:
        # the output must name every study; without a readable view the commoner answer stands
        print(printable(f"mura: {study}: no view could be read; answered normal"), file=sys.stderr)
    with write_atomically(output) as file:
        for study, probability in by_study.fillna(0.0).items():
            file.write(f"{study}/,{int(answer(probability) == 'abnormal')}\n")
    return int((predicted["error"] != "").sum())


def _data_folder(path: str) -> Path:
    """Return a listed image's data folder: the one above its split's."""
    return Path(path).parents[4]  # SPLIT/XR_PART/patientN/studyN/imageN.png


def _leads_out(path: str) -> bool:
    """Whether links lead a listed image out of its data folder."""
    inside = os.path.realpath(_data_folder(path))
    return not Path(os.path.realpath(path)).is_relative_to(inside)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; exit status 0, or 2 when nothing could be written."""
    parser = Parser(prog="mura.competition", description=__doc__.splitlines()[0])
    parser.add_argument("images", help="CSV of image paths, resolved against the current folder")
    parser.add_argument("output", help="CSV to write")
    parser.add_argument("--run", help="name under models/ or folder; without it the best run")

    def predict() -> int:
        options = parser.parse_args(arguments)
        predict_competition(options.images, options.output, options.run)
        return EXIT_DONE

    return run_command(predict, lambda: "Nothing was written; repeat the command.")


if __name__ == "__main__":
    sys.exit(main())
