"""Run the project's notebooks from top to bottom on the phantom (`make notebooks`, `make demo`).

Without --demo they are run anew in place and cleaned for committing.
"""

import argparse
import base64
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
# in the order in which each finds what the ones before it made
NOTEBOOKS = ("EDA", "CNN", "VGG", "ResNet", "DenseNet", "Inception", "Modern", "Problems")
NOTEBOOKS += ("Evaluation", "LearningCurves", "Prediction")
# as the notebooks see it: no radiograph is ever committed, even where MURA is at hand
PHANTOM = {"root": "../data/phantom/MURA-v1.1"}
# their runs of minutes stand in no committed comparison: the reference runs do
LARGE = ("VGG", "ResNet", "DenseNet", "Inception", "Modern")
APART = {"models_folder": "../build/notebooks"}
WIDGET = "application/vnd.jupyter.widget-view+json"
WARNING = re.compile(r"^\S*[/\\](?:[^/\\\s]+\.py):\d+: (\w+): (.*)\n(?:  .*\n?)?", re.MULTILINE)
# TensorFlow's start-up lines, with the time and the process's number
STARTUP = re.compile(
    r"^(?:WARNING: All log messages before absl|[IWE]0000 |To enable the following).*\n?",
    re.MULTILINE,
)
OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")  # by what a progress bar printed next


def execute(name: str, output: Path, parameters: dict[str, Any]) -> None:
    """Run ``notebooks/NAME.ipynb`` in its folder and write the executed copy."""
    source = FOLDER / f"{name}.ipynb"
    if not source.is_file():
        sys.exit(f"{source}: no such notebook; choose from {', '.join(NOTEBOOKS)}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            *(source, output, parameters),
            cwd=FOLDER,
            progress_bar=False,
            stdout_file=sys.stdout,  # what cells print shows the progress
        )
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{output}: cell {error.cell_index} failed with {error.ename}: {error.evalue}")
    except DeadKernelError:
        sys.exit(f"{output}: the kernel was killed; if memory ran out, close other programs.")


def clean(path: Path) -> None:
    """Strip an executed notebook of paths, times, widgets and papermill's marks."""
    notebook = nbformat.read(path, as_version=4)
    kernel = notebook.metadata["kernelspec"]
    language = {"file_extension": ".py", "name": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": language}
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    for cell in notebook.cells:
        cell.metadata = {"tags": tags(cell)} if tags(cell) else {}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, 1):
        cell.execution_count = count
        cell.outputs = tidy(cell.outputs, count)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def tidy(outputs: list[Any], count: int) -> list[Any]:
    """Join each stream's pieces, so that equal runs give equal files, and make figures smaller."""
    kept: list[Any] = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data:  # an empty box without a live kernel
            continue
        if output.output_type == "execute_result":
            output.execution_count = count
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
        kept.append(output)
    kept = joined(kept)
    for output in kept:
        if output.output_type == "stream":
            text = STARTUP.sub("", OVERWRITTEN.sub("", output.text))
            output.text = WARNING.sub(r"\1: \2\n", text)
    return joined([output for output in kept if output.get("text") != ""])


def joined(outputs: list[Any]) -> list[Any]:
    """Join the pieces of a stream that follow each other."""
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def smaller(png: str) -> str:
    """Return a figure (base64) in 256 colours, unless that takes more space."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    return min(png, base64.b64encode(file.getvalue()).decode(), key=len)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", default=NOTEBOOKS, help="notebooks; default: all")
    parser.add_argument(
        "--weights", help="what the large networks start from, seen from notebooks/"
    )
    parser.add_argument("--demo", action="store_true", help="leave them in notebooks/executed")
    parser.add_argument("--clean", type=Path, metavar="FILE", help="only clean an executed one")
    options = parser.parse_args()
    if options.clean:
        clean(options.clean)
        sys.exit()
    os.environ["MURA_PROGRESS"] = "lines"  # training prints a line per epoch
    for name in options.name:
        print(f"\n{name} ...", flush=True)
        executed = FOLDER / "executed" / f"{name}.ipynb"
        apart = APART if name in LARGE and not options.demo else {}
        start = {"weights": options.weights} if name in LARGE and options.weights else {}
        execute(name, executed, PHANTOM | apart | start)
        if not options.demo:
            clean(executed)
            executed.replace(FOLDER / f"{name}.ipynb")
