"""Figures with radiographs: one with its activation map, and grids with captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mura.plots.style import axes, empty_frame, panels

if TYPE_CHECKING:
    from mura.explain.cam import View

# a light line on a dark one is visible on any background
OUTLINE = (("black", 3.0), ("white", 1.4))
FINDINGS = ("normal", "abnormal")


def radiograph(
    image: np.ndarray,
    activation: np.ndarray | None = None,
    boxes: Sequence[Sequence[float]] = (),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a radiograph at its own aspect, with where the model looked on top of it.

    Args:
        image: uint8[H, W].
        activation: float[h, w] in 0-1, of the image without padding, at any resolution.
        boxes: x0, y0, x1, y1 of each finding, in pixels of the image.
    """
    height, width = image.shape[:2]
    ax = empty_frame(axes(ax, 4.2, 4.2 * min(height / width, 2.0) + 0.4))
    extent = (0, width, height, 0)
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="antialiased")
    if activation is not None:
        # where the map is low the radiograph stays as it is; "inferno" also brightens in greyscale
        style = {"cmap": "inferno", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
        ax.imshow(activation, alpha=0.65 * np.clip(activation, 0, 1), extent=extent, **style)
    for x0, y0, x1, y1 in boxes:
        for colour, thickness in OUTLINE:
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=thickness))
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_title(title, fontsize=10)
    return ax


def answer_caption(label: int | None, probability: float) -> str:
    """Return truth and answer on two lines, or the answer alone where the truth is unknown."""
    called = int(probability > 0.5)
    answer = f"{FINDINGS[called]} ({probability:.2f})"
    if label not in (0, 1):
        return answer
    return f"{'✓' if label == called else '✗'} {FINDINGS[int(label)]}, called\n{answer}"


def image_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
    ax: Axes | None = None,
    activations: Sequence[np.ndarray | None] | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
) -> Axes:
    """Draw radiographs in rows, each at its own aspect above its caption.

    Args:
        images: uint8[H, W] each; where there is none, the figure says so.
        captions: One per image, of up to two short lines.
        columns: Images in a row.
        activations, boxes: One per image, as for ``radiograph``.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    ax = axes(ax, 2.1 * columns, 2.55 * rows + 0.4)
    grid = panels(ax, rows, columns, 0.04, 0.22)
    maps, boxes = activations or [None] * len(images), boxes or [()] * len(images)
    drawn = zip(images, maps, boxes, strict=True)
    for panel, each, caption in zip(grid, drawn, captions or [""] * len(images), strict=False):
        radiograph(*each, ax=panel)
        panel.set_anchor("S")  # next to its caption
        panel.set_xlabel(caption, fontsize=8)
    for panel in grid[len(images) :]:
        panel.remove()
    if not len(images):
        ax.text(0.5, 0.5, "no such image", ha="center", va="center", fontsize=8)
    ax.set_title(title)
    return ax


def view_grid(
    views: Sequence[View], captions: Sequence[str] | None = None, columns: int = 4, title: str = ""
) -> Axes:
    """Draw what ``explain.look`` returns as an ``image_grid``: radiographs, maps, findings' boxes.

    Captions are truth and answer at 0.5 unless given.
    """
    captions = captions or [answer_caption(view.label, view.probability) for view in views]
    maps, boxes = [view.activation for view in views], [view.boxes for view in views]
    images = [view.image for view in views]
    return image_grid(images, captions, columns, title, activations=maps, boxes=boxes)
