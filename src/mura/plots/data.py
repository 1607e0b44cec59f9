"""Figures of the data set: counts, views, sizes and intensities."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mura.plots.style import (
    ABNORMAL,
    GREY,
    NORMAL,
    axes,
    group_name,
    legend,
    line_style,
    open_frame,
)

SPLIT_COLOURS = {"train": NORMAL, "valid": ABNORMAL}


def body_part_bars(manifest: pd.DataFrame, split: str = "train", ax: Axes | None = None) -> Axes:
    """Draw the normal and abnormal images of each body part side by side, with their counts.

    Args:
        manifest: As ``read_manifest`` returns it.
        split: Which split to count.
        ax: Where to draw.
    """
    ax = open_frame(axes(ax, 8.0, 4.2))
    chosen = manifest[manifest["split"] == split]
    counts = chosen.groupby(["body_part", "label"], observed=False).size().unstack(fill_value=0)
    place = np.arange(len(counts))
    shown = ((0, "normal", NORMAL, -0.21, None), (1, "abnormal", ABNORMAL, 0.21, "//"))
    for label, name, colour, shift, hatch in shown:
        images = counts[label] if label in counts else 0 * place
        style = {"width": 0.4, "color": colour, "hatch": hatch, "edgecolor": "white"}
        bars = ax.bar(place + shift, images, label=f"{name} (n = {images.sum():,})", **style)
        ax.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
    ax.set_xticks(place, [group_name(part) for part in counts.index])
    ax.set(ylabel="Images", title=f"{split}: images per body part")
    ax.margins(y=0.1)
    ax.legend(frameon=False)
    return ax


def views_per_study(manifest: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the share of studies that have one, two, three ... views, for each split."""
    ax = open_frame(axes(ax, 7.0, 4.0))
    views = manifest.groupby(["split", "study"], observed=True).size()
    splits = manifest["split"].unique()
    width = 0.84 / len(splits)
    for index, split in enumerate(splits):
        counts = views[split].value_counts().sort_index()
        share = 100 * counts / counts.sum()
        bars = ax.bar(
            share.index + (index - (len(splits) - 1) / 2) * width,
            share,
            width=width * 0.95,
            color=SPLIT_COLOURS.get(split, GREY),
            hatch=(None, "//", "..")[index % 3],
            edgecolor="white",
            label=f"{split} (n = {counts.sum():,} studies)",
        )
        ax.bar_label(bars, [f"{count:,}" for count in counts], fontsize=7, padding=2, rotation=90)
    ax.set_xticks(range(1, int(views.max()) + 1))
    ax.set(
        xlabel="Views in the study",
        ylabel="Share of the split's studies (%)",
        title="Views per study",
    )
    ax.margins(y=0.14)
    ax.legend(frameon=False)
    return ax


def image_sizes(sizes: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw widths against heights; the larger the circle, the more images have that size.

    Args:
        sizes: Columns ``width`` and ``height`` in pixels, one row per image.
        ax: Where to draw.
    """
    ax = open_frame(axes(ax, 5.2, 4.8))
    counts = sizes.groupby(["width", "height"]).size().reset_index(name="images")
    area = 8 + 500 * counts["images"] / counts["images"].sum()
    ax.scatter(counts["width"], counts["height"], s=area, color=NORMAL, alpha=0.35, linewidth=0)
    limit = 1.06 * max(counts["width"].max(), counts["height"].max())
    ax.plot([0, limit], [0, limit], color=GREY, linewidth=0.8, linestyle=":", label="square")
    ax.set(
        xlim=(0, limit),
        ylim=(0, limit),
        aspect="equal",
        xlabel="Width (pixels)",
        ylabel="Height (pixels)",
        title=f"Image sizes (n = {len(sizes):,} images, {len(counts):,} sizes)",
    )
    ax.legend(frameon=False, loc="upper left")
    return ax


def intensity_histograms(
    images: Mapping[str, np.ndarray], bins: int = 64, ax: Axes | None = None
) -> Axes:
    """Draw how gray values are distributed, one line per group of images.

    Args:
        images: Group (a body part, say) to uint8[N, H, W]. Pure black is left out: most of it is
            padding and the collimator's shadow, and it would dwarf everything else.
        bins: Of the 255 other values.
        ax: Where to draw.
    """
    ax = open_frame(axes(ax, 5.6, 4.2))
    edges = np.linspace(1, 256, bins + 1)
    for index, (group, pixels) in enumerate(images.items()):
        counts = np.bincount(np.asarray(pixels).ravel(), minlength=256)[1:]
        share, _ = np.histogram(np.arange(1, 256), edges, weights=100 * counts / counts.sum())
        centres = (edges[:-1] + edges[1:]) / 2
        ax.plot(
            centres,
            share,
            linewidth=1.6,
            label=f"{group_name(group)} (n = {len(pixels):,})",
            **line_style(index),
        )
    ax.set(
        xlim=(0, 256),
        ylim=(0, None),
        xlabel="Gray value (1-255; black left out)",
        ylabel=f"Share of pixels per {255 / bins:.0f} values (%)",
        title="Intensities",
    )
    legend(ax, "Images")
    return ax
