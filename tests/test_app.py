"""The page: its answers, in a real Chromium, from several people at once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from layout import dicom, encoded

from mura import app, predict
from mura.data import read_gray
from mura.export import ExportedModel

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 120  # seconds, on a busy machine
SHOTS = os.environ.get("MURA_TEST_SHOTS")  # a folder to keep screenshots in
BUNDLED = predict.bundled()[-1]


@pytest.fixture(scope="module")
def model():
    return ExportedModel(BUNDLED)


@pytest.fixture(scope="module")
def studies(phantom_root, tmp_path_factory):
    """A study of three views, one of them DICOM, and a text file that is named as an image."""
    folder = tmp_path_factory.mktemp("studies")
    images = sorted((phantom_root / "valid").rglob("*.png"))[:3]
    (folder / "study").mkdir()
    for number, image in enumerate(images[:2]):
        shutil.copy(image, folder / "study" / f"image{number}.png")
    (folder / "study" / "image2.dcm").write_bytes(dicom(read_gray(images[2])))
    (folder / "text.png").write_text("nothing of an image")
    return folder


def shown(answer: str) -> dict:
    """Return the JSON that a page offers for download."""
    import base64

    return json.loads(base64.b64decode(re.search(r"text/json;base64,([^\"]+)", answer)[1]))


def test_the_page_answers_as_predict_does(model, studies):
    files = sorted((studies / "study").iterdir())
    for paths, asked in ((files, studies / "study"), (files[:1], files[0])):
        [expected] = predict.predict_each(model, [asked], at="kappa")
        found = shown(app.page("phantom", model, list(map(str, paths))[::-1], "kappa"))
        assert found["answer"] == expected.answer and found["views"] == len(paths)
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-6)
        assert (found["at"], found["known"]) == ("kappa", expected.known)


def test_a_bad_file_gets_its_sentence_without_its_place(model, studies):
    answer = app.page("phantom", model, [str(studies / "text.png")], app.SURE)
    assert "No answer" in answer and "text.png: not an image of a known format" in answer
    assert str(studies) not in answer


def test_names_of_files_are_shown_and_not_run(model, studies, tmp_path):
    name = tmp_path / "<img src=x onerror=alert(1)>.png"
    shutil.copy(studies / "study" / "image0.png", name)
    answer = app.page("phantom", model, [str(name)], app.SURE)
    assert "&lt;img src=x onerror" in answer and "<img src=x" not in answer


def test_what_the_model_does_not_know_and_too_many_views_are_said(model, studies, tmp_path):
    noise = tmp_path / "noise.png"
    noise.write_bytes(encoded(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)))
    assert predict.UNKNOWN in app.page("phantom", model, [str(noise)], app.SURE)
    assert "at most 16" in app.page("phantom", model, [str(noise)] * 17, app.SURE)
    assert "no such point" not in app.page("phantom", model, [str(noise)], app.SURE)


@pytest.fixture
def server(tmp_path):
    """The address, the process and the temporary folder of a page that is served."""
    pytest.importorskip("gradio", reason="`make app` installs it")
    log, temporary = tmp_path / "app.log", tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-X", "importtime", "-m", "mura.cli", "app", "--no-browser"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--models", str(tmp_path / "models")],
            env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield found[0], process, temporary
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not [path for path in temporary.iterdir() if path.name.startswith("mura-app-")]
    imported = set(re.findall(r"\| +(\w+)$", log.read_text(), re.MULTILINE))
    assert not imported & {"tensorflow", "keras", "scipy", "sklearn", "jax"}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_in_a_browser(server, studies, model, look):
    playwright = pytest.importorskip("playwright.sync_api", reason="`make setup` installs it")
    size = {"width": 375, "height": 812} if look == "phone" else {"width": 1200, "height": 900}
    problems, hosts = [], set()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        scheme = "dark" if look == "dark" else "light"
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else 0)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: hosts.add(urlparse(request.url).hostname))
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(server[0])
        page.get_by_label("Model", exact=True).click()
        page.get_by_role("option", name="phantom").click()
        study = sorted((studies / "study").iterdir())
        asked = {
            "one": study[:1],
            "study": study,
            "dicom": study[2:],
            "bad": [studies / "text.png"],
        }
        upload = page.locator("input[type=file]").first
        for name, files in asked.items():
            upload.set_input_files(files)
            last = files[-1].name
            page.locator(".answer", has_text=last).wait_for()
            page.wait_for_timeout(300)
            if SHOTS:
                page.screenshot(path=Path(SHOTS) / f"{look}-{name}.png")
            assert page.get_by_text("not a medical device").is_visible()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"]
            if name == "bad":
                assert "not an image of a known format" in page.inner_text(".answer")
            else:
                found = shown(page.inner_html(".answer"))
                whole = studies / "study" if name == "study" else files[0]
                [expected] = predict.predict_each(model, [whole])
                assert (found["answer"], found["views"]) == (expected.answer, len(files))
                assert found["probability"] == pytest.approx(expected.probability, abs=1e-5)
                said = expected.answer.capitalize()
                assert page.inner_text(".verdict") == said
                page.locator(".controls input[type=range]").focus()
                page.keyboard.press("Home")
                style = "getComputedStyle(document.querySelector('.map')).opacity"
                assert page.evaluate(style) == "0"
                page.get_by_label("invert").check()
                style = "getComputedStyle(document.querySelector('.ray')).filter"
                assert page.evaluate(style) == "invert(1)"
            page.get_by_label("Clear").first.click()
            page.locator(".answer").wait_for(state="detached")
        browser.close()
    assert problems == []
    assert hosts <= {"127.0.0.1", None, ""}


@pytest.mark.slow
def test_fifty_questions_from_five_people_are_not_mixed_up(server, phantom_root, studies, model):
    client = pytest.importorskip("gradio_client")
    images = sorted((phantom_root / "valid").rglob("*.png"))[:10]
    expected = {row.path: row for row in predict.predict_each(model, images)}

    def memory() -> int:
        status = Path(f"/proc/{server[1].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def person(number: int) -> None:
        page = client.Client(server[0], verbose=False, analytics_enabled=False)
        for turn in range(10):
            image = images[(number + turn) % len(images)]
            file = studies / "text.png" if turn % 5 in (1, 3) else image
            files = [client.handle_file(str(file))]
            answer = page.predict(files, "phantom", app.SURE, api_name="/answer")
            if file != image:
                assert "not an image of a known format" in answer
            else:
                found = shown(answer)
                assert found["probability"] == pytest.approx(expected[str(image)].probability)

    def all_people() -> None:
        with ThreadPoolExecutor(5) as people:
            list(people.map(person, range(5)))

    all_people()
    before = memory()
    all_people()
    assert memory() < before + 50_000  # kB
    print(f"memory after 50 questions {before:,} kB, after 100 {memory():,} kB")
