"""Figures of one model or several: ROC, precision-recall, reliability, decisions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from mura import evaluation
from mura.evaluation.metrics import kappa_of_counts
from mura.evaluation.published import PAPER_OPERATING_POINT, PAPER_RADIOLOGISTS
from mura.plots.style import (
    GREY,
    axes,
    group_name,
    legend,
    line_style,
    marker_style,
    open_frame,
    panels,
)

Models = Mapping[str, pd.DataFrame]  # model name to studies


def roc(models: Models, published: bool = False, ax: Axes | None = None) -> Axes:
    """Draw ROC curves of studies, with AUROC and its 95 % interval over patients in the legend.

    Args:
        models: Model name to studies. A mark on each curve shows the decisions at 0.5.
        published: Also mark the MURA paper's model, and the region where decisions agree with
            the truth as well as its radiologists did: both measured on other studies.
    """
    ax = open_frame(axes(ax, 5.6, 5.2))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    areas = evaluation.model_table(models, metrics=("auroc",)).query("group == 'all'")
    areas = areas.set_index("model")
    for index, (name, studies) in enumerate(models.items()):
        curve = evaluation.threshold_curve(studies)
        area = evaluation.with_interval(*areas.loc[name, ["value", "low", "high"]])
        style = line_style(index) | {"linewidth": 1.8, "label": f"{name} {area}".strip()}
        ax.plot(1 - curve["specificity"], curve["sensitivity"], **style)
        point = evaluation.metric_values(studies["label"], studies["probability"])
        x, y = 1 - point["specificity"], point["sensitivity"]
        ax.plot(x, y, markersize=8, mec="white", mew=0.6, zorder=3, **marker_style(index))
    if published:
        _radiologists(ax, _share_abnormal(models))
        sensitivity, specificity = PAPER_OPERATING_POINT
        style = {"color": "black", "markersize": 13, "mec": "white", "zorder": 4}
        label = "MURA paper's ensemble (hidden test set)"
        ax.plot(1 - specificity, sensitivity, "*", label=label, **style)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set(xlabel="1 - specificity", ylabel="Sensitivity", title=f"ROC ({_sizes(models)})")
    legend(ax, "AUROC [95 % interval]", "lower right")
    return ax


def precision_recall(models: Models, published: bool = False, ax: Axes | None = None) -> Axes:
    """Draw precision against recall of studies; the dotted line is calling all abnormal.

    ``published`` also marks where decisions would agree with the truth as well as the MURA paper's
    radiologists did, who were measured on other studies.
    """
    ax = open_frame(axes(ax, 5.6, 5.0))
    share = _share_abnormal(models)
    if published:
        _radiologists(ax, share, precision=True)
    ax.axhline(share, color=GREY, linewidth=0.8, linestyle=":")
    ax.text(0.0, share, " share abnormal", color=GREY, fontsize=8, va="bottom")
    for index, (name, studies) in enumerate(models.items()):
        curve = evaluation.threshold_curve(studies).dropna()
        values = evaluation.metric_values(studies["label"], studies["probability"])
        label = f"{name} {values['average_precision']:.3f}".strip()
        style = line_style(index) | {"linewidth": 1.8, "label": label}
        ax.step(curve["sensitivity"], curve["precision"], where="post", **style)
    ax.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), title=f"Precision and recall ({_sizes(models)})")
    ax.set(xlabel="Recall (sensitivity)", ylabel="Precision (positive predictive value)")
    legend(ax, "Average precision", "lower left")
    return ax


def reliability(models: Models, bins: int = 10, ax: Axes | None = None) -> Axes:
    """Draw how often studies of a probability are abnormal; on the diagonal, they are calibrated.

    Vertical lines are 95 % Wilson intervals, which take studies as independent. Bars along the
    bottom show how the first model's studies spread over the bins; the legend gives the count of
    the tallest.
    """
    ax = open_frame(axes(ax, 5.6, 5.2))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for index, (name, studies) in enumerate(models.items()):
        table = evaluation.reliability_table(studies, bins)
        if index == 0:
            most = table["studies"].max()
            whose = f"studies{f' of {name}' if name else ''} (tallest bar: {most:,})"
            bar = {"align": "edge", "color": "#DDDDDD", "ec": "white", "label": whose}
            ax.bar(table["low"], 0.2 * table["studies"] / most, 1 / bins, **bar)
        table = table[table["studies"] > 0]
        error = evaluation.metric_values(studies["label"], studies["probability"])["ece"]
        down = (table["abnormal"] - table["abnormal_low"]).clip(lower=0)
        up = (table["abnormal_high"] - table["abnormal"]).clip(lower=0)
        style = line_style(index) | marker_style(index) | {"elinewidth": 0.8, "markersize": 5}
        label = f"{name} {error:.3f}".strip()
        ax.errorbar(table["probability"], table["abnormal"], (down, up), label=label, **style)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"Reliability ({_sizes(models)})")
    ax.set_xlabel("Mean predicted probability of abnormal")
    ax.set_ylabel("Share of abnormal studies, 95 % Wilson interval over studies")
    # several lines leave no corner free
    legend(ax, "Expected calibration error\n(10 bins)", "upper left" if len(models) == 1 else None)
    return ax


def confusion_matrices(studies: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw truth against the answer at 0.5, overall and per body part: counts and row shares."""
    groups = evaluation.body_part_groups(studies)
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    ax = axes(ax, 0.4 + 2.3 * columns, 0.4 + 2.5 * rows)
    names = ["normal", "abnormal"]
    called = np.where(studies["probability"] > 0.5, *names[::-1])
    truth = np.where(studies["label"] == 1, *names[::-1])
    grid = panels(ax, rows, columns, 0.15, 0.3)
    for panel in grid[len(groups) :]:
        panel.remove()
    for panel, (group, chosen) in zip(grid, groups.items(), strict=False):
        counts = pd.crosstab(truth[chosen], called[chosen]).reindex(
            names, columns=names, fill_value=0
        )
        share = counts.div(counts.sum(axis=1), axis=0)
        cells = counts.map("{:,}".format) + share.map(lambda s: "" if np.isnan(s) else f"\n{s:.0%}")
        look = {"cmap": "Blues", "vmin": 0, "vmax": 1.15, "cbar": False, "square": True}
        sns.heatmap(share.fillna(0), ax=panel, annot=cells, fmt="", **look)
        panel.tick_params(length=0, labelsize=8, top=False, labeltop=True, labelbottom=False)
        panel.set(xlabel="", ylabel="")
        panel.set_title(f"{group_name(group)} (n = {chosen.sum():,})", fontsize=10, weight="bold")
    ax.set(xlabel="Answer at a threshold of 0.50 (columns)", ylabel="Truth (rows)")
    ax.yaxis.labelpad = 24
    return ax


def _radiologists(ax: Axes, share: float, precision: bool = False) -> None:
    """Shade where kappa is as the paper's radiologists', if this share of studies is abnormal."""
    x, y = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    if precision:
        true = share * x
        with np.errstate(divide="ignore", invalid="ignore"):
            false = true * (1 - y) / y
        false = np.where(false <= 1 - share, false, np.nan)  # there are no such decisions
    else:
        true, false = share * y, (1 - share) * x
    kappa = kappa_of_counts((1 - share - false, false, share - true, true))
    low, high = PAPER_RADIOLOGISTS
    ax.contourf(x, y, kappa, [low, high], colors=["#D9D9D9"], zorder=0)
    ax.contourf(x, y, kappa, [low, high], colors="none", hatches=["..."], zorder=0)
    label = f"κ {low:.2f}–{high:.2f}: MURA paper's radiologists (hidden test set)"
    style = {"facecolor": "#D9D9D9", "edgecolor": "#8C8C8C", "hatch": "...", "linewidth": 0}
    ax.fill([np.nan], [np.nan], label=label, **style)  # for the legend


def _share_abnormal(models: Models) -> float:
    return float(np.mean([studies["label"].mean() for studies in models.values()]))


def _sizes(models: Models) -> str:
    """Return "n = 1,199 studies, 538 abnormal", or that the models' studies differ."""
    counts = {(len(studies), int(studies["label"].sum())) for studies in models.values()}
    if len(counts) > 1:
        return "studies differ"
    [(studies, abnormal)] = counts
    return f"n = {studies:,} studies, {abnormal:,} abnormal"
