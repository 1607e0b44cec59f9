"""Figures of one model or several: ROC, precision-recall, reliability, decisions."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mura import evaluation
from mura.data.manifest import BODY_PARTS
from mura.evaluation.operating_points import threshold_curve
from mura.phantom.counts import PAPER_OPERATING_POINT, PAPER_RADIOLOGISTS
from mura.plots.style import (
    GREY,
    axes,
    empty_frame,
    group_name,
    legend,
    line_style,
    marker_style,
    of_studies,
    open_frame,
)


def roc(
    models: Mapping[str, pd.DataFrame] | pd.DataFrame,
    operating_point: float | Mapping[str, float] | None = 0.5,
    published: bool = False,
    title: str = "ROC",
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves of studies, AUROC and its patient-clustered interval in the legend.

    The interval is DeLong's, which needs no resampling; the tables' bootstrap gives slightly
    different bounds.

    Args:
        models: Model name to studies, or one model's studies.
        operating_point: Threshold to mark on each curve, one for all or one per model.
        published: Also mark the MURA paper's model, and the region where decisions agree with
            the truth as well as its radiologists did: both measured on other studies.
        title: Above the curves.
        ax: Where to draw.
    """
    models = _by_name(models)
    ax = open_frame(axes(ax, 5.6, 5.2))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for index, (name, studies) in enumerate(models.items()):
        curve = threshold_curve(studies)
        labels, probabilities = studies["label"], studies["probability"]
        area = evaluation.delong(labels, probabilities, studies["patient"])
        low, high = np.clip(area.interval, 0, 1)
        bounds = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"
        label = f"{name} {area.auroc:.3f}{bounds}".strip()
        ax.plot(
            1 - curve["specificity"],
            curve["sensitivity"],
            linewidth=1.8,
            label=label,
            **line_style(index),
        )
        threshold = operating_point.get(name) if isinstance(operating_point, Mapping) else (
            operating_point
        )  # fmt: skip
        if threshold is not None:
            point = evaluation.metric_values(labels, probabilities, threshold)
            x, y = 1 - point["specificity"], point["sensitivity"]
            ax.plot(x, y, markersize=8, mec="white", mew=0.6, zorder=3, **marker_style(index))
    if published:
        share = _share_abnormal(models)
        _radiologists(ax, lambda x, y: kappa_of_rates(y, 1 - x, share))
        sensitivity, specificity = PAPER_OPERATING_POINT
        label = "MURA paper's ensemble (hidden test set)"
        ax.plot(
            1 - specificity,
            sensitivity,
            "*",
            color="black",
            markersize=13,
            mec="white",
            label=label,
            zorder=4,
        )
    ax.set(
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
        xlabel="1 - specificity",
        ylabel="Sensitivity",
        title=f"{title} ({_sizes(models)})",
    )
    legend(ax, "AUROC [95 % interval, DeLong]", "lower right")
    return ax


def precision_recall(
    models: Mapping[str, pd.DataFrame] | pd.DataFrame,
    published: bool = False,
    title: str = "Precision and recall",
    ax: Axes | None = None,
) -> Axes:
    """Draw precision against recall of studies; the dotted line is calling all abnormal.

    Args:
        models: Model name to studies, or one model's studies.
        published: Also mark the region where decisions agree with the truth as well as the MURA
            paper's radiologists did, who were measured on other studies.
        title: Above the curves.
        ax: Where to draw.
    """
    models = _by_name(models)
    ax = open_frame(axes(ax, 5.6, 5.0))
    share = _share_abnormal(models)
    if published:
        _radiologists(ax, lambda recall, precision: _kappa_of_precision(recall, precision, share))
    ax.axhline(share, color=GREY, linewidth=0.8, linestyle=":")
    ax.text(0.0, share, " share abnormal", color=GREY, fontsize=8, va="bottom")
    for index, (name, studies) in enumerate(models.items()):
        curve = threshold_curve(studies).dropna()
        average = evaluation.average_precision(studies["label"], studies["probability"])
        ax.step(
            curve["sensitivity"],
            curve["precision"],
            where="post",
            linewidth=1.8,
            label=f"{name} {average:.3f}".strip(),
            **line_style(index),
        )
    ax.set(
        xlim=(-0.01, 1.01),
        ylim=(0, 1.02),
        xlabel="Recall (sensitivity)",
        ylabel="Precision (positive predictive value)",
        title=f"{title} ({_sizes(models)})",
    )
    legend(ax, "Average precision", "lower left")
    return ax


def reliability(
    models: Mapping[str, pd.DataFrame] | pd.DataFrame,
    bins: int = 10,
    title: str = "Reliability",
    ax: Axes | None = None,
) -> Axes:
    """Draw how often studies of a probability are abnormal; on the diagonal, they are calibrated.

    Vertical lines are 95 % Wilson intervals, which take studies as independent; bars along the
    bottom say how the first model's studies spread over the bins, the legend how many the tallest
    holds.
    """
    models = _by_name(models)
    ax = open_frame(axes(ax, 5.6, 5.2))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for index, (name, studies) in enumerate(models.items()):
        table = evaluation.reliability_table(studies, bins)
        if index == 0:
            most = table["studies"].max()
            height = 0.2 * table["studies"] / most
            whose = f"studies{f' of {name}' if name else ''} (tallest bar: {most:,})"
            bar = {"align": "edge", "color": "#DDDDDD", "ec": "white", "label": whose}
            ax.bar(table["low"], height, 1 / bins, **bar)
        table = table[table["studies"] > 0]
        error = evaluation.expected_calibration_error(studies["label"], studies["probability"])
        down = (table["abnormal"] - table["abnormal_low"]).clip(lower=0)
        up = (table["abnormal_high"] - table["abnormal"]).clip(lower=0)
        ax.errorbar(
            table["probability"],
            table["abnormal"],
            yerr=(down, up),
            elinewidth=0.8,
            markersize=5,
            label=f"{name} {error:.3f}".strip(),
            **line_style(index) | marker_style(index),
        )
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="Mean predicted probability of abnormal",
        ylabel="Share of abnormal studies, 95 % Wilson interval over studies",
        title=f"{title} ({_sizes(models)})",
    )
    # several lines leave no corner free
    legend(ax, "Expected calibration error\n(10 bins)", "upper left" if len(models) == 1 else None)
    return ax


def confusion_matrices(
    studies: pd.DataFrame, threshold: float = 0.5, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw truth against answer, overall and for each body part, as counts and row shares."""
    groups = evaluation.body_part_groups(studies)
    ax = empty_frame(axes(ax, 9.6, 5.4))
    called = (studies["probability"] > threshold).to_numpy()
    abnormal = studies["label"].to_numpy() == 1
    for index, group in enumerate(name for name in ("all", *BODY_PARTS) if name in groups):
        row, column = divmod(index, 4)
        left, top = 2.75 * column, 3.1 * row
        chosen = groups[group]
        ax.text(
            left + 1,
            top - 0.42,
            f"{group_name(group)} (n = {chosen.sum():,})",
            ha="center",
            va="bottom",
            fontweight="bold",
        )
        for truth in (0, 1):
            name = ("normal", "abnormal")[truth]
            ax.text(left + truth + 0.5, top - 0.06, name, ha="center", va="bottom", fontsize=8)
            ax.text(left - 0.06, top + truth + 0.5, name, ha="right", va="center", fontsize=8,
                    rotation=90)  # fmt: skip
            total = (chosen & (abnormal == truth)).sum()
            for answer in (0, 1):
                count = (chosen & (abnormal == truth) & (called == answer)).sum()
                share = count / total if total else 0.0
                corners = (left + answer, left + answer + 1, top + truth + 1, top + truth)
                ax.imshow([[share]], cmap="Blues", vmin=0, vmax=1.15, extent=corners)
                ax.text(
                    left + answer + 0.5,
                    top + truth + 0.5,
                    f"{count:,}\n{share:.0%}" if total else f"{count:,}",
                    ha="center",
                    va="center",
                    color="white" if share > 0.6 else "black",
                )
    rows = -(-len(groups) // 4)
    columns = min(4, len(groups))
    ax.set(xlim=(-0.35, 2.75 * columns - 0.6), ylim=(3.1 * rows - 0.8, -0.85), aspect="equal")
    ax.set_xlabel(f"Answer at a threshold of {threshold:.2f} (columns)")
    ax.set_ylabel("Truth (rows)")
    ax.set_title(title)
    return ax


def kappa_of_rates(sensitivity: np.ndarray, specificity: np.ndarray, share: float) -> np.ndarray:
    """Return Cohen's kappa of decisions with these rates where a share of studies is abnormal."""
    agreement = share * sensitivity + (1 - share) * specificity
    called = share * sensitivity + (1 - share) * (1 - specificity)
    expected = share * called + (1 - share) * (1 - called)
    return (agreement - expected) / (1 - expected)


def _kappa_of_precision(recall: np.ndarray, precision: np.ndarray, share: float) -> np.ndarray:
    """Return kappa in the plane of precision and recall; NaN where no decisions lie."""
    with np.errstate(divide="ignore", invalid="ignore"):
        false_positive = share * recall * (1 - precision) / precision / (1 - share)
    false_positive = np.where(false_positive <= 1, false_positive, np.nan)
    return kappa_of_rates(recall, 1 - false_positive, share)


def _radiologists(ax: Axes, kappa: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Shade where kappa lies between the lowest and the highest of the paper's radiologists."""
    x, y = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    low, high = PAPER_RADIOLOGISTS
    style = {"facecolor": "#D9D9D9", "edgecolor": "#8C8C8C", "hatch": "...", "linewidth": 0}
    ax.contourf(x, y, kappa(x, y), [low, high], colors=[style["facecolor"]], zorder=0)
    ax.contourf(x, y, kappa(x, y), [low, high], colors="none", hatches=[style["hatch"]], zorder=0)
    label = f"κ {low:.2f}–{high:.2f}: MURA paper's radiologists (hidden test set)"
    ax.fill([np.nan], [np.nan], label=label, **style)  # for the legend


def _share_abnormal(models: Mapping[str, pd.DataFrame]) -> float:
    return float(np.mean([studies["label"].mean() for studies in models.values()]))


def _by_name(models: Mapping[str, pd.DataFrame] | pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    return {"": models} if isinstance(models, pd.DataFrame) else models


def _sizes(models: Mapping[str, pd.DataFrame]) -> str:
    """Return the number of studies, a range where models have different ones."""
    counts = sorted({of_studies(studies["label"].to_numpy()) for studies in models.values()})
    return counts[0] if len(counts) == 1 else "studies differ"
