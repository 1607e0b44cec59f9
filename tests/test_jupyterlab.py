"""A training notebook in a real JupyterLab: Keras's bar moves, and a complete run comes out."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mura.runs import Run

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 300  # seconds; JupyterLab alone takes half a minute on a busy machine
# JupyterLab's own settings: keep every output in the page, ask the user nothing
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# the text of every output on the page
OUTPUTS = "() => [...document.querySelectorAll('.jp-OutputArea-output')].map(x => x.textContent)"


@pytest.fixture
def checkout(tmp_path, phantom_root):
    """A copy of the package and of CNN.ipynb, set to a training of some seconds."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", folder / "src")
    notebook = nbformat.read(ROOT / "notebooks" / "CNN.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code")
    changed = {"root": str(phantom_root), "settings": {"epochs": 3, "image_size": 64}}
    for name, value in changed.items():
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        assert line.search(parameters.source)
        parameters.source = line.sub(f"{name} = {value!r}", parameters.source)
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "CNN.ipynb")
    return folder


@pytest.fixture
def jupyterlab(checkout, tmp_path):
    """The address of a JupyterLab that serves the copy's notebooks."""
    places = {f"JUPYTER_{kind}_DIR": tmp_path / kind for kind in ("CONFIG", "DATA", "RUNTIME")}
    for name, settings in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    places["JUPYTERLAB_SETTINGS_DIR"] = tmp_path / "settings"
    places |= {"PYTHONPATH": checkout / "src", "MURA_CACHE": tmp_path / "cache"}
    environment = os.environ | {name: str(place) for name, place in places.items()}
    environment.pop("MURA_PROGRESS", None)
    token = secrets.token_hex()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={token}"]
    log = tmp_path / "jupyterlab.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=checkout / "notebooks", env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:\d+/lab", log.read_text())):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"{found[0]}/tree/CNN.ipynb?token={token}"
    finally:
        server.terminate()  # and its kernels with it
        server.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_in_jupyterlab_the_bar_moves_and_the_run_is_complete(jupyterlab, checkout):
    playwright = pytest.importorskip("playwright.sync_api", reason="`make setup` installs it")
    run = checkout / "models" / "cnn"
    steps: dict[str, set[str]] = {}  # of each epoch, as the page showed them
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(jupyterlab)
        page.locator(".jp-StatusBar-TextItem", has_text="| Idle").wait_for(timeout=1000 * PATIENCE)
        page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        deadline = time.monotonic() + PATIENCE
        while not (run / "metrics.json").exists():
            shown = page.evaluate(OUTPUTS)
            failed = [text for text in shown if "Traceback" in text]
            assert not failed and time.monotonic() < deadline, failed or shown[-2:]
            for epoch, step in re.findall(r"Epoch (\d+)/3\s+(\d+/\d+)", "\n".join(shown)):
                steps.setdefault(epoch, set()).add(step)
            time.sleep(0.05)
        browser.close()
    assert set(steps) == {"1", "2", "3"}
    assert max(map(len, steps.values())) > 1, steps  # one line, seen in several states
    assert len(Run.load(run).history) == 3
