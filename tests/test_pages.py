"""The evaluation as one page: whole, self-contained, and nothing at all when it fails."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import nbformat
import pytest
from made_runs import make_run, predictions

from mura import pages
from mura.files import InputError

ROOT = Path(__file__).parents[1]
FIGURES = 11  # two of cost, one each of the other nine questions that have a figure
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Written into a copy of the page: what it loaded, and what it tried to, from anywhere but itself.
PROBE = """<script>window.addEventListener("load", () => {
  const loaded = performance.getEntriesByType("resource").map(entry => entry.name);
  const asked = loaded.filter(name => !name.startsWith("data:"));
  const shown = [...document.images].filter(image => image.naturalWidth > 0).length;
  document.body.innerHTML = "<p id=probe>" + JSON.stringify({asked, shown}) + "</p>";
});</script>"""


def notebook(folder: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    path = folder / "notebooks" / "Evaluation.ipynb"
    path.parent.mkdir(parents=True)
    (folder / "src" / "mura").mkdir(parents=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(scope="module")
def models(phantom_root, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    make_run(models, "cnn", predictions(phantom_root, 2.0, seed=1))
    make_run(models, "joint", predictions(phantom_root, 3.0, seed=2), head="joint")
    make_run(
        models, "wrist", predictions(phantom_root, 3.0, 4, ["XR_WRIST"]), body_parts=["XR_WRIST"]
    )
    return models


@pytest.fixture(scope="module")
def page(models, phantom_root, tmp_path_factory):
    """The page of three runs and a colleague's CSV file, written from the real notebook."""
    folder = tmp_path_factory.mktemp("page")
    valid = predictions(phantom_root, 1.0, seed=9).query("split == 'valid'")
    valid[["path", "probability"]].to_csv(folder / "colleague.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return pages.export_evaluation(
            folder / "report.html", models, phantom_root, csv_files=[folder / "colleague.csv"]
        )


def test_a_failing_notebook_leaves_nothing_and_says_where_it_stopped(
    models, phantom_root, tmp_path, monkeypatch
):
    notebook(tmp_path, "models = ''", "1 / 0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(pages.PageError, match="stopped at ZeroDivisionError: division by zero"):
        pages.export_evaluation(tmp_path / "out" / "report.html", models, phantom_root)
    assert list((tmp_path / "out").iterdir()) == []


def test_without_runs_or_outside_a_checkout_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="inside a checkout"):
        pages.export_evaluation(tmp_path / "report.html", tmp_path)
    notebook(tmp_path, "models = ''")
    with pytest.raises(InputError, match="`mura train cnn` makes one"):
        pages.export_evaluation(tmp_path / "report.html", tmp_path / "models")


def test_without_what_runs_notebooks_it_says_what_installs_it(
    models, phantom_root, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "papermill", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="inside a checkout"):  # there is nothing to install
        pages.export_evaluation(tmp_path / "report.html", models, phantom_root)
    notebook(tmp_path, "models = ''")
    with pytest.raises(InputError, match=r"not installed \(.*papermill.*`pipenv install`"):
        pages.export_evaluation(tmp_path / "report.html", models, phantom_root)


def test_names_that_are_no_text_are_refused_before_the_notebook_runs(
    models, phantom_root, tmp_path, monkeypatch
):
    notebook(tmp_path, "models = ''")
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"\xfc")
    try:
        shutil.copytree(models / "cnn", tmp_path / "models" / odd)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    for settings in (
        {"models": models, "root": phantom_root, "csv_files": [f"{odd}.csv"]},
        {"models": models, "root": odd},
        {"models": tmp_path / "models", "root": phantom_root},
        {"models": models, "root": phantom_root, "runs": [tmp_path / "models" / odd]},
    ):
        with pytest.raises(InputError, match=f"{odd}.*: a notebook cannot name it"):
            pages.export_evaluation(tmp_path / "report.html", **settings)
    assert not (tmp_path / "report.html").exists()


def test_a_page_has_no_injected_paths_and_needs_no_other_host(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Evaluation\n\n$x^2$ and [a paper](https://arxiv.org)"),
        nbformat.v4.new_code_cell("models = '/some/machine'"),
    ]
    cells[1].metadata["tags"] = ["injected-parameters"]
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    page = pages.notebook_page(path)
    assert "/some/machine" not in page
    assert external(page) == []
    assert "a paper" in page


def test_names_in_a_cell_s_output_stay_names(tmp_path):
    """A run's or a file's may come from a stranger."""
    said = "**cnn** 1 < 2, <svg onload=x> ![](http://host/a.png) [a](http://host/b)"
    said += "\n\n![a][r]\n\n[r]: http://host/c.png\n\n[0.1, 0.2]"
    output = nbformat.v4.new_output("display_data", data={"text/markdown": said})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    page = pages.notebook_page(path)
    assert external(page) == []
    assert "<svg" not in page
    assert ">a</a>" not in page  # no link that hides where it leads
    assert "<strong>cnn</strong> 1 &lt; 2, &lt;svg onload=x&gt;" in page
    assert "[0.1, 0.2]" in page


def external(page: str) -> list[str]:
    """Return what a browser would fetch: everything linked or embedded that is not in the page."""
    fetched = re.findall(r"<(?:script|img|iframe|source|embed)[^>]*\ssrc=[\"']([^\"']+)", page)
    fetched += re.findall(r"<link[^>]*\shref=[\"']([^\"']+)", page)
    # style sheets also name fonts beside them, which a browser only asks for where they are used
    fetched += re.findall(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)", page)
    return [address for address in fetched if not address.startswith(("data:", "#"))]


@pytest.mark.slow
def test_the_page_holds_every_model_and_figure_and_no_path_of_this_machine(
    page, models, phantom_root
):
    text = page.read_text()
    assert external(text) == []
    for folder in (models, phantom_root, ROOT, Path.home(), page.parent):
        assert str(folder) not in text or str(folder) == "/"
    figures = re.findall(r"<img[^>]*src=\"data:image/png;base64", text)
    assert len(figures) == FIGURES
    for name in ("cnn", "joint", "wrist", "ensemble, all 2", "colleague"):
        assert f"<th>{name}</th>" in text, name
    assert "stderr" not in re.findall(r"class=\"[^\"]*output_(\w+)", text)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium here: install it to open the page in it")
def test_a_browser_opens_the_page_without_asking_anybody(page, tmp_path):
    probed = page.read_text().replace("</body>", f"{PROBE}</body>")
    answer, console = browse(probed, tmp_path / "page")
    assert answer["asked"] == []
    assert answer["shown"] == FIGURES
    assert console == []
    # the probe is not blind
    planted = "<body><img src='http://127.0.0.1:9/x.png'><script>no.such()</script></body>"
    answer, console = browse(planted.replace("</body>", f"{PROBE}</body>"), tmp_path / "planted")
    assert answer == {"asked": ["http://127.0.0.1:9/x.png"], "shown": 0}
    assert any("no is not defined" in line for line in console)


def browse(page: str, folder: Path) -> tuple[dict, list[str]]:
    """Return what the probe found, and the console's errors."""
    folder.mkdir()
    (folder / "page.html").write_text(page)
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
        *("--virtual-time-budget=20000", "--dump-dom", (folder / "page.html").as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found = re.search(r"<p id=\"probe\">(.*?)</p>", done.stdout)
    assert found, done.stdout[-300:]
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(found[1]), console
