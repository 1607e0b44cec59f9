"""A page in the browser to ask a model: `make app`.

It runs on this machine alone: no request leaves it, and uploads lie in a temporary folder that is
removed when the page ends.
"""

from __future__ import annotations

import base64
import csv
import functools
import html
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mura import predict
from mura.data import is_synthetic
from mura.evaluation.decisions import POINTS, SURE, calibrated
from mura.export import ExportedModel, LoadedModel
from mura.files import InputError, printable
from mura.predict import Prediction, View
from mura.runs import list_runs

if TYPE_CHECKING:  # optional
    import gradio

MAX_VIEWS = 16  # of one study
MAX_SIZE = "64mb"  # of one upload; ``gray.MAX_PIXELS`` limits the pixels
SHOWN = 1024  # pixels of the longer side, as shown
BANNER = "Research software, not a medical device. Nothing you show it leaves this machine."
SYNTHETIC = "This model learned from drawn images: it says nothing about a patient."
POINT_NAMES = {
    POINTS[0]: "sure at 90 %, else not sure",
    POINTS[1]: "0.5, as trained",
    POINTS[2]: "highest kappa",
    POINTS[3]: "sensitivity 0.90",
    POINTS[4]: "specificity 0.90",
}
CSS = (Path(__file__).parent / "app.css").read_text(encoding="utf-8")
# The controls work in the browser: the server keeps nothing between two questions.
CONTROLS = """
element.addEventListener("input", (event) => {
  const answer = event.target.closest(".answer");
  if (!answer) return;
  const [opacity, map, invert] = answer.querySelectorAll(".controls input");
  answer.style.setProperty("--opacity", map.checked ? opacity.value / 100 : 0);
  answer.classList.toggle("inverted", invert.checked);
});
element.addEventListener("click", (event) => {
  const figure = event.target.matches(".enlarge") && event.target.closest("figure");
  if (!figure) return;
  if (document.fullscreenElement) document.exitFullscreen();
  else figure.requestFullscreen();
});
"""


def ask(
    model: ExportedModel | LoadedModel, files: Sequence[str | Path], at: str | None
) -> tuple[Prediction, list[View]]:
    """Return a model's answer about one study, whose views are named by their files alone.

    Raises:
        InputError: There are too many views, or the model has no such operating point.
    """
    if len(files) > MAX_VIEWS:
        raise InputError(f"{len(files)} images are too many for one study: at most {MAX_VIEWS}.")
    paths = sorted(map(Path, files), key=lambda path: path.name)
    views = []
    for path, view in zip(paths, predict.look(model, paths), strict=True):
        said = {"path": path.name, "error": view.error.replace(str(path), path.name)}
        views.append(View(**{**view.__dict__, **said}))
    path = views[0].path if len(views) == 1 else f"study of {len(views)} views"
    return predict.pooled(path, views, model.decisions, at), views


def page(name: str, model: ExportedModel | LoadedModel, files: Sequence[str], at: str) -> str:
    """Return the HTML of an answer, or of the sentence that says why there is none."""
    try:
        # the default is what the model has: an early run has no decisions
        prediction, views = ask(model, files, None if at == SURE else at)
    except (InputError, OSError) as error:
        return f'<p class="warning">{_text(error)}</p>'
    errors = "".join(f'<p class="warning">{_text(view.error)}</p>' for view in views if view.error)
    if errors:
        return f'<section class="answer"><p class="verdict">No answer</p>{errors}</section>'
    notes = prediction.notes  # of several views each note has its name
    notes = f"{prediction.path}: {notes}" if notes and len(views) == 1 else notes
    warning = f'<p class="warning">{_text(notes)}.</p>' if notes else ""
    loudest = max(view.probability for view in views) if len(views) > 1 else None
    figures = "".join(_figure(view, view.probability == loudest, model) for view in views)
    kind = prediction.answer.replace(" ", "-")
    return (
        f'<section class="answer"><p class="verdict {kind}">{prediction.answer.capitalize()}</p>'
        f"{warning}{_meaning(prediction, model)}"
        f'<div class="controls"><label>Map <input type="range" value="60" '
        f'aria-label="opacity of the map"></label> <label><input type="checkbox" checked> show map'
        f'</label> <label><input type="checkbox"> invert</label></div>'
        f'<div class="views">{figures}</div>{_downloads(name, prediction, views)}</section>'
    )


def _meaning(prediction: Prediction, model: ExportedModel | LoadedModel) -> str:
    """Say what the probability means, and how the operating point decides."""
    points = model.decisions["points"] if model.decisions else {prediction.at: (0.5, 0.5)}
    bounds = np.array(points[prediction.at])
    if prediction.calibrated is None:
        said = f"Probability of <em>abnormal</em> {prediction.probability:.2f}, not calibrated."
    else:
        bounds = calibrated(bounds, model.decisions)
        share = np.clip(round(100 * prediction.calibrated), 1, 99)
        said = f"Of 100 studies like this, about {share} were abnormal on the tuning patients."
    low, high = (f"{100 * bound:.0f}" for bound in bounds)
    between = f"not sure between {low} and {high} of 100" if prediction.at == SURE else ""
    at = between or f"abnormal above {high} of 100"
    learned = SYNTHETIC if is_synthetic(model.data) else ""
    return f"<p>{said} Operating point: {POINT_NAMES[prediction.at]} ({at}). {learned}</p>"


def _figure(view: View, loudest: bool, model: ExportedModel | LoadedModel) -> str:
    shown = view.probability
    if model.decisions:
        shown = calibrated(shown, model.decisions)
    image = Image.fromarray(view.image)
    image.thumbnail((SHOWN, SHOWN))
    overlay = ""
    if view.activation is not None:
        strength = (255 * view.activation).astype(np.uint8)
        red, blue = np.full_like(strength, 255), np.zeros_like(strength)
        colours = np.dstack([red, 220 - (strength * 0.7).astype(np.uint8), blue, strength])
        overlay = f'<img class="map" alt="where it looked" src="{_image(colours, "PNG")}">'
    said = f"{_text(view.path)}: {shown:.2f}{', the loudest view' if loudest else ''}"
    return (
        f'<figure><div class="stack"><img class="ray" alt="{_text(view.path)}" '
        f'src="{_image(np.asarray(image), "JPEG")}">{overlay}</div><figcaption>{said} '
        f'<button class="enlarge" type="button">enlarge</button></figcaption></figure>'
    )


def _downloads(name: str, prediction: Prediction, views: Sequence[View]) -> str:
    row = {"model": name, **asdict(prediction)}
    probabilities = {view.path: view.probability for view in views}
    table = io.StringIO()
    writer = csv.DictWriter(table, row, lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    files = {
        "json": json.dumps({**row, "by_view": probabilities}, indent=2),
        "csv": table.getvalue(),
    }
    links = [
        f'<a download="answer.{kind}" href="{_data(text.encode(), f"text/{kind}")}">{kind}</a>'
        for kind, text in files.items()
    ]
    return f'<p class="downloads">Download the answer: {" ".join(links)}</p>'


def _text(said: object) -> str:
    return html.escape(printable(str(said)))


def _image(pixels: np.ndarray, kind: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=92)
    return _data(file.getvalue(), f"image/{kind.lower()}")


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def serve(
    models: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        models: The folder of the runs that can be chosen beside the bundled models.
        host: Who can reach the page; by default this machine alone.
        port: None: a free one from 7860 on.
        browser: Whether to open it.

    Raises:
        InputError: Gradio is missing.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the folder is removed then, too
    with tempfile.TemporaryDirectory(prefix="mura-app-") as folder:
        private = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        os.environ.update(private, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
        try:
            import gradio
        except ModuleNotFoundError as error:
            raise InputError("the page needs Gradio; `make app` installs it.") from error
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        blocks(models).launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            max_file_size=MAX_SIZE,
            footer_links=[],
            theme=gradio.themes.Default(**fonts),
            css=CSS,
        )


def blocks(models: str | Path | None = None) -> gradio.Blocks:
    """Return the page as ``gradio.Blocks``; ``models`` as for ``serve``."""
    import gradio

    names = {path.stem: path for path in predict.bundled()}
    names |= {run.name: run for run in list_runs(models)}

    @functools.lru_cache(maxsize=4)
    def opened(name: str) -> ExportedModel | LoadedModel:
        named = names[name]
        return predict.opened(ExportedModel(named) if isinstance(named, Path) else named, maps=True)

    def answer(files: list[str] | None, name: str, at: str) -> str:
        try:
            return page(name, opened(name), files, at) if files else ""
        except (InputError, OSError) as error:  # a damaged run
            return f'<p class="warning">{_text(error)}</p>'

    def card(name: str) -> str:
        named = names[name]
        return named.with_suffix(".md").read_text() if isinstance(named, Path) else named.card

    first = next(iter(names))
    points = [(text, name) for name, text in POINT_NAMES.items()]
    with gradio.Blocks(title="Ask a model", analytics_enabled=False) as demo:
        gradio.HTML(f'<h1>Ask a model</h1><p class="banner">{BANNER}</p>')
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                files = gradio.File(
                    file_count="multiple", label="A radiograph, or the views of one study"
                )
                model = gradio.Dropdown(list(names), value=first, label="Model")
                at = gradio.Dropdown(points, value=SURE, label="Operating point")
                with gradio.Accordion("Model card", open=False):
                    text = gradio.Markdown(card(first))
            with gradio.Column(scale=2, min_width=280):
                said = gradio.HTML(
                    html_template='<div role="status">${value}</div>', js_on_load=CONTROLS
                )
        gradio.on([files.change, model.change, at.change], answer, [files, model, at], said)
        model.change(card, model, text)
    return demo
