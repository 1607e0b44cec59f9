"""The notebooks: they run from top to bottom, and what is committed shows the phantom alone."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from made_runs import make_run, predictions

from mura import evaluation
from mura.data import data_name, figures_folder, phantom_folder
from mura.runs import Run, list_runs

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
notebooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(notebooks)
NOTEBOOKS = notebooks.NOTEBOOKS
KERNEL = {"name": "python3", "display_name": "Python 3"}


@pytest.fixture
def run_notebook(phantom_root, tmp_path, monkeypatch):
    """Run a notebook with a tiny training of one or more epochs."""
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))

    def run(name: str, epochs: int = 1) -> None:
        parameters = {
            "root": str(phantom_root),
            "settings": {"epochs": epochs, "image_size": 32},
            "weights": "none",
            "models_folder": str(tmp_path / "models"),
            "plots_folder": str(tmp_path / "plots"),
        }
        notebooks.execute(name, tmp_path / f"{name}.ipynb", parameters)

    return run


def test_the_list_of_notebooks_is_what_the_folder_holds():
    """Copies that somebody adapts there may stand beside them."""
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} >= set(NOTEBOOKS)
    listed = ["git", "ls-files", "*.ipynb"]
    found = subprocess.run(listed, cwd=notebooks.FOLDER, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git checkout: `git clone` makes one")
    assert {Path(name).stem for name in found.stdout.splitlines()} == set(NOTEBOOKS)


def test_the_learning_curves_are_drawn_from_the_reference_runs(run_notebook, tmp_path):
    run_notebook("LearningCurves")
    drawn = {path.name for path in (tmp_path / "plots").glob("*.png")}
    assert drawn == {"learning_curves_phantom.png", "learning_curves_fracatlas.png"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run"), [("CNN", "cnn"), ("DenseNet", "densenet121")])
def test_a_training_notebook_runs_from_top_to_bottom(
    name, run, run_notebook, phantom_root, tmp_path
):
    run_notebook(name)
    assert [found.name for found in list_runs(tmp_path / "models")] == [run]
    figures = figures_folder(tmp_path / "plots", data_name(phantom_root))
    for figure in ("augmented", "architecture", "training", "roc", "confusion", "activation"):
        assert (figures / f"{figure}_{run}.png").stat().st_size > 1000


@pytest.mark.slow
def test_ones_own_optimizer_and_callback_are_in_effect(run_notebook, tmp_path, monkeypatch):
    """As a user would: in the training cell, and nowhere else."""
    table = tmp_path / "epochs.csv"
    changes = {
        "optimizer=stage.optimizer,": "optimizer=keras.optimizers.SGD(1e-2, momentum=0.9),",
        "[checkpoint]": f"[checkpoint, keras.callbacks.CSVLogger({str(table)!r})]",
    }
    notebook = nbformat.read(notebooks.FOLDER / "CNN.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if ".fit(" in cell.source]
    for old, new in changes.items():
        assert cell.source.count(old) == 1
        cell.source = cell.source.replace(old, new)
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    notebooks.FOLDER.mkdir()
    nbformat.write(notebook, notebooks.FOLDER / "CNN.ipynb")
    run_notebook("CNN", epochs=2)
    run = Run.load("cnn", tmp_path / "models")
    assert run.environment["optimizer"] == "SGD"
    assert len(pd.read_csv(table)) == len(run.history) == 2
    assert evaluation.run_studies(run)["probability"].between(0, 1).all()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_figure_of_radiographs_can_replace_a_tracked_one(name):
    """All figures go where ``data.figures_folder`` says."""
    cells = json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [cell.count("plots_folder") for cell in code[:2]] == [1, 1]
    assert "figures = data.figures_folder(plots_folder, " in code[1]
    assert "plots.save(" in "".join(code[2:]) and "plots_folder" not in "".join(code[2:])


def test_the_demo_and_what_is_committed_show_the_phantom(monkeypatch):
    monkeypatch.chdir(notebooks.FOLDER)  # where they run
    assert Path(notebooks.PHANTOM["root"]) == phantom_folder() / "MURA-v1.1"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("1 / 0", r"cell \d+ failed with ZeroDivisionError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "the kernel was killed"),
        (None, r"Some\.ipynb: no such notebook"),
    ],
)
def test_a_notebook_that_fails_is_named(tmp_path, monkeypatch, source, found):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    if source:
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source)],
            metadata={"kernelspec": KERNEL},
        )
        nbformat.write(notebook, tmp_path / "Some.ipynb")
    with pytest.raises(SystemExit, match=found):
        notebooks.execute("Some", tmp_path / "executed" / "Some.ipynb", {})


def test_cleaning_keeps_outputs_and_drops_paths_and_marks(tmp_path):
    stream = nbformat.v4.new_output
    somewhere = Path("/place") / "of" / "one" / "machine.py"
    cells = [
        nbformat.v4.new_code_cell("a = 1", metadata={"tags": ["parameters"]}, execution_count=3),
        nbformat.v4.new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_code_cell(
            "train()",
            metadata={"papermill": {"duration": 1.5}},
            execution_count=9,
            outputs=[
                stream("stream", name="stdout", text="10 %\r20 %\rone\n"),
                stream("stream", name="stdout", text="two\n"),
                stream("stream", name="stderr", text=f"{somewhere}:7: UserWarning: no weights\n"),
                stream("display_data", data={"application/vnd.jupyter.widget-view+json": {"a": 1}}),
                stream("execute_result", data={"text/plain": "3"}, execution_count=9),
            ],
        ),
    ]
    path = tmp_path / "notebook.ipynb"
    metadata = {"papermill": {"input_path": "x"}, "kernelspec": KERNEL}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    path.write_text(nbformat.writes(notebook))
    notebooks.clean(path)
    found = nbformat.read(path, as_version=4)
    assert "papermill" not in found.metadata
    # without it `jupyter nbconvert --to script` writes a .txt file
    assert found.metadata["language_info"] == {"name": "python", "file_extension": ".py"}
    assert [cell.execution_count for cell in found.cells] == [1, 2]
    assert found.cells[0].metadata == {"tags": ["parameters"]}
    texts = [output.get("text") for output in found.cells[1].outputs]
    assert texts == ["one\ntwo\n", "UserWarning: no weights\n", None]
    assert found.cells[1].outputs[-1].execution_count == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_report_is_one_page_that_asks_no_other_host(phantom_root, tmp_path):
    """Not even where a stranger's run is named like a picture."""
    models = tmp_path / "models"
    make_run(models, "cnn", predictions(phantom_root, 2.0, seed=1))
    make_run(models, "<svg onload=x> ![](http:a) [b](http:b)", predictions(phantom_root, 9.0))
    given = [f"BUILD={tmp_path / 'build'}", f"MODELS={models}", f"ROOT={phantom_root}"]
    command = ["make", "report", "RUN=", "SETUP=", *given]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    page = (tmp_path / "build" / "report.html").read_text()
    assert page.count('src="data:image/png') > 5
    assert "<script" not in page and "<svg" not in page and "<link" not in page
    assert not re.findall(r"\ssrc=[\"'](?!data:)", page)
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", page)
    assert ">b</a>" not in page  # no link that hides where it leads
    assert "<th>cnn</th>" in page
    assert str(tmp_path) not in page and str(ROOT) not in page
