"""Run the project's notebooks from top to bottom, and clean what is committed of them.

python -m mura.notebooks [NAME ...] runs them anew in place (`make notebooks`).
"""

from __future__ import annotations

import argparse
import base64
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mura.data import folders as datasets
from mura.files import InputError, one_line, project_folder, write_atomically

# In the order in which each finds what the ones before it made.
NOTEBOOKS = (
    *("EDA", "CNN", "VGG", "ResNet", "DenseNet", "Inception", "Modern", "Problems"),
    *("Evaluation", "Prediction"),
)
KILLED = "the notebook's process was killed, as happens where memory runs out; close other programs"
# Where a warning was raised: a path of this machine that no reader can use.
_PLACE = re.compile(r"^\S*[/\\](?:[^/\\\s]+\.py):\d+: (\w+): (.*)\n(?:  .*\n?)?", re.MULTILINE)


class NotebookError(InputError):
    """A notebook is missing, or one of its cells failed."""


def on_phantom() -> dict[str, Any]:
    """Return the parameters that have a notebook show the phantom, even where MURA is at hand.

    Whatever is committed, or shown as the demo, holds no radiograph. The path is as the notebooks
    see it.
    """
    return {"root": Path("..", "data", "phantom", "MURA-v1.1").as_posix()}


def execute(name: str, output: str | Path, parameters: dict[str, Any] | None = None) -> Path:
    """Run ``notebooks/NAME.ipynb`` in its own folder and write the executed copy.

    Args:
        name: One of ``NOTEBOOKS``.
        output: The executed notebook; up to the failing cell where one fails.
        parameters: Values for its first cell.

    Raises:
        NotebookError: There is no such notebook, or a cell failed; the message names both.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source = project_folder() / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        raise NotebookError(f"{source}: no such notebook; there are {', '.join(NOTEBOOKS)}.")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            str(source),
            str(output),
            parameters=parameters or {},
            cwd=str(source.parent),
            progress_bar=False,
            stdout_file=sys.stdout,  # what cells print is the progress that one sees
        )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{output}: cell {error.cell_index} failed with {error.ename}: {error.evalue}"
        ) from error
    except DeadKernelError as error:
        raise NotebookError(f"{output}: {KILLED}") from error
    return output


def clean(path: str | Path) -> None:
    """Strip an executed notebook of what only its own run knew: paths, times, papermill's marks.

    Outputs stay; a warning keeps its text and loses the file it came from. Streams of one cell
    become one, so that equal runs give equal files.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for key in set(notebook.metadata) - {"kernelspec", "language_info"}:
        del notebook.metadata[key]
    notebook.metadata["language_info"] = {"file_extension": ".py", "name": "python"}
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    count = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = _tidy(cell.outputs, count)
    with write_atomically(path) as file:
        file.write(nbformat.writes(notebook) + "\n")


def _tidy(outputs: list[Any], count: int) -> list[Any]:
    tidy: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = _PLACE.sub(r"\1: \2\n", output.text)
            last = tidy[-1] if tidy else None
            if last is not None and last.output_type == "stream" and last.name == output.name:
                last.text += output.text
                continue
        elif output.output_type == "execute_result":
            output.execution_count = count
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = _smaller(output.data["image/png"])
        tidy.append(output)
    # a progress bar is drawn by a live kernel; in a file it is an empty box
    widget = "application/vnd.jupyter.widget-view+json"
    return [output for output in tidy if widget not in output.get("data", {})]


def _smaller(png: str) -> str:
    """Return a figure (base64) in 256 colours, where that takes less space."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        file = io.BytesIO()
        image.convert("RGB").quantize(256).save(file, "PNG", optimize=True)
    smaller = base64.b64encode(file.getvalue()).decode()
    return min(png, smaller, key=len)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run notebooks on the phantom, in place, and clean them; 0, or 2 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help=f"of {', '.join(NOTEBOOKS)}; all without")
    options = parser.parse_args(arguments)
    folder = project_folder() / "notebooks"
    for name in options.name or NOTEBOOKS:
        print(f"{name} ...", flush=True)
        executed = folder / "executed" / f"{name}.ipynb"
        try:
            datasets.prepare_phantom()
            execute(name, executed, on_phantom())
            clean(executed)
        except (InputError, OSError) as error:
            print(f"mura: {one_line(error)}", file=sys.stderr)
            return 2
        executed.replace(folder / f"{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
