"""Figures that set models beside each other and beside published results."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from mura.plots.style import (
    GREY,
    NORMAL,
    axes,
    compact,
    group_name,
    legend,
    line_style,
    marker_style,
    metric_name,
    open_frame,
)


def metric_intervals(table: pd.DataFrame, metric: str = "kappa", ax: Axes | None = None) -> Axes:
    """Draw one overall metric of each model with its interval, the best on top.

    ``table`` is what ``evaluation.model_table`` returns, ``metric`` one of ``evaluation.METRICS``.
    """
    rows = table[(table["metric"] == metric) & (table["group"] == "all")]
    rows = rows.dropna(subset="value").sort_values("value", ignore_index=True)
    ax = open_frame(axes(ax, 6.8, 1.3 + 0.36 * len(rows)))
    _dots(ax, rows, "value")
    ax.set_xlabel(f"{metric_name(metric)} of studies, 95 % interval over patients")
    return ax


def forest(differences: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw kappas minus the reference's (``evaluation.differences``), with adjusted p-values."""
    rows = differences[differences["metric"] == "kappa"].iloc[::-1].reset_index(drop=True)
    ax = open_frame(axes(ax, 7.8, 1.4 + 0.36 * len(rows)))
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    _dots(ax, rows, "difference")
    place = {"xycoords": ("axes fraction", "data"), "fontsize": 8}
    for index, row in rows.iterrows():
        text = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        p = f"p = {row['p_holm']:.3f}" if row["p_holm"] >= 0.001 else "p < 0.001"
        text = f"{text}  {p}" if row[["difference", "p_holm"]].notna().all() else "undefined"
        ax.annotate(text, (1.02, index), va="center", **place)
    heading = "difference [95 % interval], Holm-adjusted p"
    ax.annotate(heading, (1.02, len(rows) - 0.5), va="bottom", color=GREY, **place)
    most = "" if rows["studies"].nunique() == 1 else "up to "
    count = f"n = {most}{rows['studies'].max():,} studies, {rows['patients'].max():,} patients"
    ax.set_xlabel(f"Δ {metric_name('kappa')} − {rows['reference'].iloc[0]} ({count})")
    return ax


def kappa_heatmap(
    blocks: Mapping[str, pd.DataFrame],
    note: str = "Blocks were measured on different studies: they do not rank each other.",
    ax: Axes | None = None,
) -> Axes:
    """Draw kappa of every model and body part, in blocks of models measured on the same studies.

    Args:
        blocks: Title (which test set) to a table with models as rows and body parts, ``"macro"``
            and ``"all"`` as columns, NaN where unknown (``evaluation.blocks``, published_kappa).
        note: Below several blocks: whether they may be compared (``evaluation.block_note``).
    """
    rows, titles = [], {}
    for title, block in blocks.items():
        titles[sum(map(len, rows))] = title
        rows += [pd.DataFrame(np.nan, [""], block.columns), block]  # an empty row for the title
    grid = pd.concat(rows).astype(float).dropna(axis="columns", how="all")
    last = [name for name in ("macro", "all") if name in grid]
    grid = grid[[*grid.columns.drop(last), *last]]
    ax = axes(ax, 2.6 + 0.86 * grid.shape[1], 1.2 + 0.36 * len(grid))
    style = {"cmap": "YlGnBu", "linewidths": 0.8, "linecolor": "white"}
    style |= {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 9}}
    style |= {"vmin": min(0.0, np.nanmin(grid)), "vmax": 1.0}
    style |= {"cbar_kws": {"label": "Cohen's κ", "shrink": 0.7}}
    parts = [group_name(each).replace("+", "+\n") for each in grid]
    sns.heatmap(grid, ax=ax, **style, xticklabels=parts, yticklabels=list(grid.index))
    for row, text in titles.items():
        ax.text(0, row + 0.62, text, va="center", fontsize=9, fontweight="bold")
    ax.tick_params(axis="both", length=0, labelrotation=0)
    ax.xaxis.set_ticks_position("top")
    ax.set(title="Cohen's κ per body part", xlabel=note if len(blocks) > 1 else "", ylabel="")
    return ax


def cost_against_quality(
    models: pd.DataFrame, cost: str = "parameters", ax: Axes | None = None
) -> Axes:
    """Draw what each model costs against its kappa.

    Args:
        models: Kappa's overall rows of ``evaluation.model_table``, merged with the cost's column.
        cost: ``"parameters"`` or ``"images_per_second"``; on a logarithmic axis where the models
            span more than a factor of four.
    """
    ax = open_frame(axes(ax, 5.2, 4.2))
    styles = {model: marker_style(index) for index, model in enumerate(models["model"])}
    common = {"elinewidth": 1, "capsize": 2, "markersize": 8, "mec": "white", "mew": 0.6}
    for _, row in models.sort_values(cost).iterrows():
        error = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        style = common | styles[row["model"]] | {"linestyle": "none"}
        label = f"{row['model']} ({compact(row[cost])})"
        ax.errorbar(row[cost], row["value"], error, label=label, **style)
    scale = ""
    if models[cost].max() > 4 * models[cost].min():
        scale = ", logarithmic"
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(lambda value, _: compact(value))
    units = {"parameters": "Parameters", "images_per_second": "Training speed (images/s)"}
    quality = f"Cohen's κ of {models['studies'].max():,} studies, 95 % interval"
    ax.set(xlabel=f"{units[cost]}{scale}", ylabel=quality)
    legend(ax, "")
    return ax


def learning_curves(
    curves: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], ax: Axes | None = None
) -> Axes:
    """Draw AUROC against training patients, and what the power law gives for twice as many.

    ``curves`` holds for each model what ``evaluation.learning_curve`` returns.
    """
    ax = open_frame(axes(ax, 6.4, 4.2))
    bars = {"elinewidth": 1, "capsize": 2, "markersize": 7, "linestyle": "none"}
    for index, (name, (points, law)) in enumerate(curves.items()):
        style = marker_style(index)
        twice = law.set_index("quantity").loc["AUROC with twice the patients"]
        shift = 1 + 0.03 * index  # bars of different models would cover each other
        for rows, filled in ((points, True), (pd.DataFrame([twice]), False)):
            patients = points["patients"] if filled else 2 * points["patients"].iloc[[-1]]
            error = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
            filling = {"label": name} if filled else {"markerfacecolor": "white"}
            values = patients * shift, rows["value"], np.clip(error, 0, None)
            ax.errorbar(*values, **(bars | style | filling))
        patients = [*points["patients"], 2 * points["patients"].iloc[-1]]
        law = [*points["law"], twice["value"]]
        ax.plot(patients, law, **line_style(index))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(lambda value, _: compact(value))
    ax.set(xlabel="Training patients, logarithmic", ylabel="AUROC of studies, 95 % interval")
    legend(ax, "")
    return ax


def pointing_bars(
    table: pd.DataFrame, title: str = "Pointing game", ax: Axes | None = None
) -> Axes:
    """Draw how often a map's maximum lies in the finding's box, beside chance.

    ``table`` is what ``evaluation.pointing_table`` returns; groups of fewer than ten images are
    left out.
    """
    table = table[(table["images"] >= 10) | (table["group"] == "all")]
    ax = open_frame(axes(ax, 1.6 + 1.15 * len(table), 4.0))
    share, low, high = table[["accuracy", "low", "high"]].to_numpy(dtype=float).T
    place = np.arange(len(table))
    error = np.clip([share - low, high - share], 0, None)
    ax.bar(place - 0.2, share, 0.38, color=NORMAL, yerr=error, capsize=3, label="in a box")
    hatched = {"color": "#BBBBBB", "hatch": "//", "edgecolor": "white"}
    ax.bar(place + 0.2, table["chance"], 0.38, label="chance (area of the boxes)", **hatched)
    names = table["group"].map(group_name) + table["images"].map("\nn = {:,}".format)
    ax.set_xticks(place, names)
    top = np.nanmax([*high, *table["chance"], 0.1]) * 1.3  # fractures are small: so is chance
    ax.set(
        ylim=(0, min(1, top)), ylabel="Share of images, 95 % interval over patients", title=title
    )
    ax.legend(frameon=False, loc="upper right", fontsize=9)
    return ax


def _dots(ax: Axes, rows: pd.DataFrame, value: str) -> None:
    """Draw one line per model, from the bottom to the top, with the number of its studies."""
    place = np.arange(len(rows))
    ax.hlines(place, rows["low"], rows["high"], color=NORMAL, linewidth=1.6)
    ax.plot(rows[value], place, "o", color=NORMAL, markersize=7, markeredgecolor="white")
    ax.set_yticks(place, rows["model"] + rows["studies"].map(" (n = {:,})".format))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="x", linewidth=0.4, color="#CCCCCC")
    ax.set_axisbelow(True)
