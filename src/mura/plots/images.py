"""Figures with radiographs: one with its activation map, and grids with captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mura.plots.style import axes, empty_frame, group_name

if TYPE_CHECKING:
    from mura.explain.cam import View

# A light and a dark line on top of each other are seen on any background.
OUTLINE = (("black", 3.0), ("white", 1.4))
FINDINGS = ("normal", "abnormal")


def radiograph(
    image: np.ndarray,
    activation: np.ndarray | None = None,
    box: Sequence[float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a radiograph at its own aspect, with where the model looked on top of it.

    Args:
        image: uint8[H, W].
        activation: float[h, w] in 0-1, of the *whole* image at any resolution; for a map of the
            padded square, ``localization.unpadded`` cuts it out first.
        box: x0, y0, x1, y1 of a finding, in pixels of the image.
        title: Above the image.
        ax: Where to draw.
    """
    height, width = image.shape[:2]
    ax = empty_frame(axes(ax, 4.2, 4.2 * min(height / width, 2.0) + 0.4))
    _draw(ax, image, activation, (0, width, height, 0))
    if box is not None:
        _outline(ax, box)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_title(title, fontsize=10)
    return ax


def answer_caption(label: int | None, probability: float, threshold: float = 0.5) -> str:
    """Return "normal, called abnormal (0.83)"; without the truth when it is not known."""
    answer = f"{FINDINGS[int(probability > threshold)]} ({probability:.2f})"
    if label is None or label != label or label not in (0, 1):
        return answer
    truth = FINDINGS[int(label)]
    return f"{'✓' if truth == answer.split()[0] else '✗'} {truth}, called\n{answer}"


def image_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    activations: Sequence[np.ndarray] | None = None,
    boxes: Sequence[Sequence[float] | None] | None = None,
    columns: int = 4,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw radiographs in rows, each at its own aspect in an equal cell, with its caption.

    Args:
        images: uint8[H, W] each; where there is none, the figure says so.
        captions: One per image, of up to two short lines.
        activations: One per image, as for ``radiograph``.
        boxes: One or None per image, as for ``radiograph``.
        columns: Images in a row.
        title: Above the grid.
        ax: Where to draw.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    lines = max([caption.count("\n") + 1 for caption in captions] if captions else [0])
    pitch = 1.04 + 0.105 * lines  # of a row, in cells
    ax = empty_frame(axes(ax, 2.1 * columns, 2.1 * rows * pitch + 0.4))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        activation = activations[index] if activations is not None else None
        box = boxes[index] if boxes is not None else None
        _draw_in_cell(ax, image, activation, column * 1.04, row * pitch, box)
        if captions:
            ax.text(
                column * 1.04 + 0.5,
                row * pitch + 1.02,
                captions[index],
                ha="center",
                va="top",
                fontsize=8,
            )
    if not len(images):
        ax.text(0.52, 0.5 * pitch, "no such image", ha="center", va="center", fontsize=8)
    ax.set(xlim=(0, columns * 1.04), ylim=(rows * pitch, 0), aspect="equal", title=title)
    return ax


def view_grid(
    views: Sequence[View],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw what ``localization.look`` returns: radiographs, maps, findings' boxes and answers.

    Args:
        views: One per image.
        captions: One per view; its truth and answer at 0.5 when ``None``.
        columns: Images in a row.
        title: Above the grid.
        ax: Where to draw.
    """
    return image_grid(
        [view.image for view in views],
        captions or [answer_caption(view.label, view.probability) for view in views],
        [view.activation for view in views],
        [view.box for view in views],
        columns,
        title,
        ax,
    )


def sample_grid(
    samples: Mapping[str, Mapping[str, Sequence[np.ndarray]]], ax: Axes | None = None
) -> Axes:
    """Draw samples, a row per body part, a block of columns per class.

    Args:
        samples: Body part to class name (``"normal"``, ``"abnormal"``) to uint8[H, W] images;
            every row has the same classes.
        ax: Where to draw.
    """
    classes = list(next(iter(samples.values())))
    wide = {name: max(len(row[name]) for row in samples.values()) for name in classes}
    gap = 0.15  # between the classes' blocks, in cells
    total = 1.04 * sum(wide.values()) + gap * (len(classes) - 1)
    ax = empty_frame(axes(ax, 1.5 * total + 0.9, 1.56 * len(samples) + 0.4))
    for row, (body_part, by_class) in enumerate(samples.items()):
        ax.text(-0.08, row * 1.04 + 0.5, group_name(body_part), ha="right", va="center")
        left = 0.0
        for name in classes:
            if row == 0:
                ax.text(left + 0.52 * wide[name], -0.06, name, ha="center", va="bottom")
            for column, image in enumerate(by_class[name]):
                _draw_in_cell(ax, image, None, left + 1.04 * column, row * 1.04)
            left += 1.04 * wide[name] + gap
    ax.set(xlim=(-0.02, total), ylim=(1.04 * len(samples), 0), aspect="equal")
    return ax


def _draw_in_cell(
    ax: Axes,
    image: np.ndarray,
    activation: np.ndarray | None,
    left: float,
    top: float,
    box: Sequence[float] | None = None,
) -> None:
    """Draw into the unit square at (left, top), centred, at the image's aspect."""
    ax.add_patch(Rectangle((left, top), 1, 1, facecolor="#E8E8E8", edgecolor="none", zorder=0))
    height, width = np.array(image.shape[:2]) / max(image.shape[:2])
    x, y = left + (1 - width) / 2, top + (1 - height) / 2
    _draw(ax, image, activation, (x, x + width, y + height, y))
    if box is not None:
        scale = 1 / max(image.shape[:2])
        _outline(ax, [x + box[0] * scale, y + box[1] * scale, x + box[2] * scale,
                      y + box[3] * scale])  # fmt: skip


def _outline(ax: Axes, box: Sequence[float]) -> None:
    x0, y0, x1, y1 = box
    for colour, thickness in OUTLINE:
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=colour, lw=thickness))


def _draw(
    ax: Axes,
    image: np.ndarray,
    activation: np.ndarray | None,
    extent: tuple[float, float, float, float],
) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, interpolation="antialiased")
    if activation is not None:
        # Where the map is low the radiograph stays as it is; "inferno" grows brighter with the
        # activation in greyscale too.
        opacity = 0.65 * np.clip(activation, 0, 1)
        ax.imshow(
            activation,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=opacity,
            extent=extent,
            interpolation="bilinear",
        )
