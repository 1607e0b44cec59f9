"""What every figure shares: colours, line styles, names, panels, and saving."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from mura.files import write_atomically

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart with every common colour vision;
# line styles and markers tell the curves apart in greyscale too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C8C00")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
NORMAL = PALETTE[0]
GREY = "#666666"
DOTS_PER_INCH = 120
MOST_INSIDE = 6  # entries of a legend that still fit beside the curves
METRIC_NAMES = {
    "kappa": "Cohen's κ",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "expected calibration error",
}


def axes(ax: Axes | None, width: float = 6.4, height: float = 4.4) -> Axes:
    """Return ``ax``, or the Axes of a new figure of this size in inches."""
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return ax


def open_frame(ax: Axes) -> Axes:
    """Take away the top and right lines of the frame."""
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def empty_frame(ax: Axes) -> Axes:
    """Take away the whole frame and its ticks, for images and drawings."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def panels(ax: Axes, rows: int, columns: int, across: float = 0.2, down: float = 0.2) -> list[Axes]:
    """Divide ``ax`` into a grid of Axes, row by row, with these gaps in shares of a panel."""
    empty_frame(ax)
    width, height = 1 / (columns + across * (columns - 1)), 1 / (rows + down * (rows - 1))
    return [
        ax.inset_axes((column * (1 + across) * width, row * (1 + down) * height, width, height))
        for row in reversed(range(rows))
        for column in range(columns)
    ]


def legend(ax: Axes, title: str, inside: str | None = None) -> None:
    """Add a legend where there is room: in the corner ``inside``, or right of the Axes.

    A figure that has no other Axes grows to the right by what the legend needs.
    """
    labels = ax.get_legend_handles_labels()[1]
    style = {"frameon": False, "fontsize": 9, "title": title, "alignment": "left"}
    if inside is not None and len(labels) <= MOST_INSIDE:
        ax.legend(loc=inside, **style)
        return
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), **style)
    figure = ax.get_figure(root=True)
    if len(figure.axes) == 1:
        width, height = figure.get_size_inches()
        letters = max(map(len, (*labels, title)))
        figure.set_size_inches(width + 0.6 + 0.075 * letters, height)


def line_style(index: int) -> dict:
    """Return colour and line style of the ``index``-th curve."""
    # Eight colours and eight styles, out of step after eight: 64 curves differ.
    return {"color": PALETTE[index % 8], "linestyle": LINE_STYLES[(index + index // 8) % 8]}


def marker_style(index: int) -> dict:
    """Return colour and marker of the ``index``-th series of points."""
    return {"color": PALETTE[index % 8], "marker": MARKERS[(index + index // 8) % 8]}


def group_name(group: str) -> str:
    """Return a group as a figure shows it: "XR_WRIST" as "Wrist", "all" as "All"."""
    return str(group).removeprefix("XR_").replace("_", " ").capitalize()


def metric_name(metric: str, capital: bool = False) -> str:
    """Return a metric as a figure shows it, with a capital where it stands first."""
    name = METRIC_NAMES.get(metric, metric.replace("_", " "))
    return name[0].upper() + name[1:] if capital else name


def compact(value: float) -> str:
    """Return 25636712 as "25.6 M"."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def save(ax: Axes, name: str, folder: str | Path) -> Path:
    """Write the figure of ``ax`` as ``folder/name.png``, whole or not at all; return its path."""
    path = Path(folder).expanduser() / f"{name}.png"
    options = {"format": "png", "dpi": DOTS_PER_INCH, "bbox_inches": "tight"}
    options["metadata"] = {"Software": None}  # equal figures are equal files
    with write_atomically(path, "wb") as file:
        ax.get_figure(root=True).savefig(file, **options)
    return path
