"""The figure of a training's history."""

import pandas as pd
from matplotlib.axes import Axes

from mura.plots.style import GREY, MARKERS, axes, line_style, metric_name, open_frame, panels

NOTE = {"xycoords": ("data", "axes fraction"), "va": "bottom", "fontsize": 8, "color": GREY}


def training_curves(
    history: pd.DataFrame, title: str = "", kept: int | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the loss, and beside it the metric if there is one, of the fit and tune parts.

    ``history`` has one row per epoch: ``epoch``, ``loss``, ``tune_loss``, other pairs ``NAME`` and
    ``tune_NAME``; where there is a ``stage``, its beginnings are marked. ``kept`` is the epoch
    whose weights the run has: that of the lowest tune loss where it is None.
    """
    names = sorted((n for n in history if f"tune_{n}" in history), key=lambda n: n != "loss")[:2]
    kept = kept or history.loc[history["tune_loss"].idxmin(), "epoch"]
    several = "stage" in history and history["stage"].nunique() > 1
    starts = history.groupby("stage", sort=False)["epoch"].min() if several else pd.Series()
    ax = axes(ax, 4.6 * len(names), 3.6)
    for panel, name in zip(panels(ax, 1, len(names)), names, strict=True):
        open_frame(panel)
        for index, part in enumerate(("fit", "tune")):
            values = history[name if part == "fit" else f"tune_{name}"]
            style = line_style(index) | {"marker": MARKERS[index] if len(history) <= 40 else None}
            panel.plot(history["epoch"], values, label=f"{part} part", markersize=4, **style)
        panel.axvline(kept, color=GREY, linewidth=0.8, linestyle=":")
        panel.annotate(f"kept: {kept}", (kept, 1.0), ha="center", **NOTE)
        panel.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
        for stage, first in starts.items():
            panel.axvline(first - 0.5, color=GREY, linewidth=0.8)
            panel.annotate(f" {stage}", (first - 0.5, 0.0), **NOTE)
        panel.set(xlabel="Epoch", ylabel=metric_name(name, capital=True))
        if history["epoch"].max() <= 12:
            panel.set_xticks(history["epoch"])
        panel.legend(frameon=False, fontsize=9)
    ax.set_title(title, pad=18)
    return ax
