"""The evaluation notebook as one self-contained page."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mura.data.manifest import data_root
from mura.files import InputError, absolute, project_folder, write_atomically
from mura.notebooks import KILLED
from mura.runs import Run, list_runs, models_folder

# Figures are embedded anyway; what is left out here are nbconvert's scripts from other hosts
# (formulas, diagrams, widgets), which the notebook does not use and a hospital's network refuses.
_TEMPLATE = """{% extends 'classic/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block mathjax %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
"""


class PageError(InputError):
    """The notebook stopped at an error, so there is no page."""


def export_evaluation(
    path: str | Path,
    models: str | Path | None = None,
    root: str | Path | None = None,
    runs: Sequence[str | Path] = (),
    csv_files: Sequence[str | Path] = (),
    parameters: dict[str, Any] | None = None,
) -> Path:
    """Run ``notebooks/Evaluation.ipynb`` on complete runs and write it as one HTML file.

    Args:
        path: The page to write; nothing is left there when the notebook fails.
        models: The folder of the runs; the checkout's ``models/`` when None.
        root: The data folder; as ``manifest.data_root`` when None.
        runs: Names or folders of runs; all complete ones when empty.
        csv_files: Anybody's probabilities, evaluated the same way.
        parameters: Further values for the notebook's first cell.

    Raises:
        InputError: There is no notebook here, no complete run, nothing that runs notebooks, or
            a file's name is no text.
        PageError: The notebook stopped at an error; the message says at which.
    """
    notebook = project_folder() / "notebooks" / "Evaluation.ipynb"
    if not notebook.is_file():
        raise InputError(
            f"{notebook}: not found; run this inside a checkout of the repository, which holds "
            "the evaluation notebook."
        )
    models = models_folder(models)
    compared = [Run.load(run, models) for run in runs] or list_runs(models)
    if not compared:
        raise InputError(f"{models}: no complete runs to evaluate; `mura train cnn` makes one.")
    folders = [str(absolute(run.folder)) for run in compared]
    # the kernel runs in notebooks/, where a relative path would mean something else
    values = {
        "models": str(absolute(models)),
        "root": str(absolute(data_root(root))),
        "runs": folders if runs else [],
        "csv_files": [str(absolute(file)) for file in csv_files],
    }
    _refuse_names_that_are_no_text(
        [values["models"], values["root"], *folders, *values["csv_files"]]
    )
    try:
        import papermill
        from nbclient.exceptions import DeadKernelError
    except ImportError as error:
        raise InputError(
            f"{notebook}: what runs notebooks is not installed ({error}); in the checkout `make "
            "setup` or `pipenv install` installs it."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "Evaluation.ipynb"
        values["plots_folder"] = str(Path(folder) / "plots")
        try:
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                parameters=values | (parameters or {}),
                cwd=str(notebook.parent),
                progress_bar=sys.stderr.isatty(),
            )
        except papermill.PapermillExecutionError as error:
            raise PageError(
                f"{notebook}: stopped at {error.ename}: {error.evalue} Nothing was written."
            ) from error
        except DeadKernelError as error:
            raise PageError(f"{notebook}: {KILLED}. Nothing was written.") from error
        page = notebook_page(executed)
    with write_atomically(path) as file:
        file.write(page)
    return Path(path)


def _refuse_names_that_are_no_text(paths: Sequence[str]) -> None:
    """Raise where a path is none in UTF-8: a notebook, which is JSON, cannot hold it."""
    for path in paths:
        try:
            path.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{path}: a notebook cannot name it, as this is no text in UTF-8; rename it."
            ) from error


def notebook_page(path: str | Path) -> str:
    """Return an executed notebook as HTML that asks no other host for anything."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    # the cell that papermill adds says where this machine keeps its runs
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    notebook.metadata["title"] = "Evaluation"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _spell_out(output.get("data", {}))
    exporter = HTMLExporter(template_name="classic", embed_images=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    exporter.raw_template = _TEMPLATE
    page, _ = exporter.from_notebook_node(notebook)
    return page


def _spell_out(data: dict[str, Any]) -> None:
    """Keep Markdown that a cell printed from being HTML, a picture or a link.

    It holds names of runs, data and files, which may be a stranger's. Pictures and links begin
    with a bracket, however they go on. (Between backticks, which no cell prints, the entities
    would show as such.)
    """
    if text := data.get("text/markdown"):
        data["text/markdown"] = text.replace("<", "&lt;").replace("[", "&#91;")
