"""Every figure: a function of data that draws into ``ax`` (or a new figure) and returns the Axes.

Colours are safe for colour-blind readers and differ in greyscale, where line styles, markers and
hatching help; labels carry units and the number of studies or images.
"""

from mura.plots.architectures import architecture
from mura.plots.comparisons import (
    cost_against_quality,
    forest,
    kappa_heatmap,
    metric_intervals,
    pointing_bars,
)
from mura.plots.data import body_part_bars, image_sizes, intensity_histograms, views_per_study
from mura.plots.images import answer_caption, radiograph, sample_grid, view_grid
from mura.plots.results import (
    confusion_matrices,
    precision_recall,
    reliability,
    roc,
)
from mura.plots.style import metric_name, save
from mura.plots.training import training_curves

__all__ = [
    "answer_caption",
    "architecture",
    "body_part_bars",
    "confusion_matrices",
    "cost_against_quality",
    "forest",
    "image_sizes",
    "intensity_histograms",
    "kappa_heatmap",
    "metric_intervals",
    "metric_name",
    "pointing_bars",
    "precision_recall",
    "radiograph",
    "reliability",
    "roc",
    "sample_grid",
    "save",
    "training_curves",
    "view_grid",
    "views_per_study",
]
