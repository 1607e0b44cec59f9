"""Every notebook runs from top to bottom, at the smallest size that still is a training."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from made_runs import make_run, predictions

from mura.data import data_name, figures_folder, phantom_folder
from mura.runs import list_runs

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
notebooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(notebooks)
NOTEBOOKS = notebooks.NOTEBOOKS
KERNEL = {"name": "python3", "display_name": "Python 3"}

CHAIN = ("CNN", "Problems", "Evaluation", "Prediction")  # each reads what the ones before trained
SIZES = {"Inception": 80}  # these two networks take no smaller images


@pytest.fixture
def run_notebook(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))

    def run(name: str) -> dict:
        cells = json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text())["cells"]
        first = next(cell for cell in cells if cell["cell_type"] == "code")
        wanted = {
            "root": str(phantom_root),
            "models": str(tmp_path / "models"),
            "plots_folder": str(tmp_path / "plots"),
            "image_size": SIZES.get(name, 32),
            "epochs": 1,
            "weights": "none",
        }
        known = "".join(first["source"])
        parameters = {key: value for key, value in wanted.items() if f"{key} = " in known}
        notebooks.execute(name, tmp_path / f"{name}.ipynb", parameters)
        return json.loads((tmp_path / f"{name}.ipynb").read_text())

    return run


def test_the_list_of_notebooks_is_what_the_folder_holds():
    """Copies that somebody adapts there may stand beside them."""
    assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} >= set(NOTEBOOKS)
    listed = ["git", "ls-files", "*.ipynb"]
    found = subprocess.run(listed, cwd=notebooks.FOLDER, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git checkout: `git clone` makes one")
    assert {Path(name).stem for name in found.stdout.splitlines()} == set(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name not in CHAIN])
def test_a_notebook_runs_by_itself(name, run_notebook, phantom_root, tmp_path):
    run_notebook(name)
    figures = figures_folder(tmp_path / "plots", data_name(phantom_root))
    drawn = {path.name for path in figures.glob("*.png")}
    expected = "barplot_per_bodypart_train.png" if name == "EDA" else "architecture_"
    assert any(figure.startswith(expected) for figure in drawn), drawn
    assert name == "EDA" or list_runs(tmp_path / "models")


@pytest.mark.slow
def test_trained_models_are_compared_and_asked(run_notebook, phantom_root, tmp_path):
    for name in CHAIN:
        executed = run_notebook(name)
    assert [run.name for run in list_runs(tmp_path / "models")] == ["cnn", "cnn-joint", "cnn-wrist"]
    text = json.dumps(executed)
    assert "normal (" in text or "abnormal (" in text
    figures = figures_folder(tmp_path / "plots", data_name(phantom_root))
    for figure in ("evaluation_kappa", "evaluation_roc", "prediction_radiograph"):
        assert (figures / f"{figure}.png").stat().st_size > 1000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_figure_of_radiographs_can_replace_a_tracked_one(name):
    """All figures go where ``datasets.figures_folder`` says."""
    cells = json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [cell.count("plots_folder") for cell in code[:2]] == [1, 1]
    assert "figures = datasets.figures_folder(plots_folder, " in code[1]
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
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    page = (tmp_path / "build" / "report.html").read_text()
    assert page.count('src="data:image/png') > 5
    assert "<script" not in page and "<svg" not in page and "<link" not in page
    assert not re.findall(r"\ssrc=[\"'](?!data:)", page)
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", page)
    assert ">b</a>" not in page  # no link that hides where it leads
    assert "<th>cnn</th>" in page
    assert str(tmp_path) not in page and str(ROOT) not in page
