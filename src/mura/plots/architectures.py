"""A drawing of an architecture's stages, from plain numbers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle

from mura.plots.style import PALETTE, axes, compact, empty_frame

FACES = (("#BFD9EA", "#8FBEDB", "#6AA5CB"), ("#F7DDB0", "#EFC67D", "#E0AC52"))


def architecture(stages: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw stages (``models.stage_table``) as boxes: high for large maps, thick for deep ones."""
    heights, channels = stages[["side", "channels"]].to_numpy(dtype=float).T
    # Square root and logarithm: 320 pixels beside 10, and 3 channels beside 2,048, stay visible.
    sides = 0.28 + 2.6 * np.sqrt(np.maximum(heights, 1) / max(heights.max(), 1))
    widths = 0.18 + 0.11 * np.log2(np.maximum(channels, 1) + 1)
    depths = 0.32 * sides  # of the slanted top and right face
    pitch = np.maximum(widths + depths + 0.3, 1.28)
    ax = empty_frame(axes(ax, 1.0 + 0.92 * pitch.sum(), 4.3))
    left = end = 0.0
    for index, row in enumerate(stages.itertuples()):
        height, depth, parameters = row.side, row.channels, row.parameters
        name = f"{row.stage}\n{row.layers} layers" if height > 1 and row.layers else row.stage
        side, width, slant = sides[index], widths[index], depths[index]
        x, y = left + (pitch[index] - width - slant) / 2, -side / 2
        front, top, right = FACES[height <= 1]
        lift = slant / 2
        ax.add_patch(Rectangle((x, y), width, side, fc=front, ec="black", lw=0.7))
        corners = [(x, y + side), (x + slant, y + side + lift)]
        corners += [(x + slant + width, y + side + lift), (x + width, y + side)]
        ax.add_patch(Polygon(corners, fc=top, ec="black", lw=0.7))
        corners = [(x + width, y), (x + width + slant, y + lift)]
        corners += [(x + width + slant, y + side + lift), (x + width, y + side)]
        ax.add_patch(Polygon(corners, fc=right, ec="black", lw=0.7))
        shape = f"{height} × {height} × {depth:,}" if height > 1 else f"{depth:,}"
        weights = f"{compact(parameters)} parameters" if parameters else ""
        middle = left + pitch[index] / 2
        ax.text(middle, -1.72, name, ha="center", va="top", fontsize=9, fontweight="bold")
        ax.text(middle, -2.28, f"{shape}\n{weights}", ha="center", va="top", fontsize=7.5)
        if index:
            arrow = {"arrowstyle": "-|>", "color": PALETTE[-2], "lw": 0.8}
            ax.annotate("", (x - 0.03, 0), (end, 0), arrowprops=arrow)
        end = x + width + slant
        left += pitch[index]
    ax.set(xlim=(-0.1, left + 0.1), ylim=(-2.95, 2.2), aspect="equal")
    ax.set_title(f"{title} ({compact(stages['parameters'].sum())} parameters)".strip())
    return ax
