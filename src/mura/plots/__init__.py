"""Every figure: a function of data that draws into ``ax`` (or a new figure) and returns the Axes.

Colours are safe for colour-blind readers and differ in greyscale, where line styles, markers and
hatching help; labels carry units and the number of studies or images.
"""

from mura.plots.architectures import architecture
from mura.plots.comparisons import (
    cost_against_quality,
    forest,
    kappa_heatmap,
    learning_curves,
    metric_intervals,
    pointing_bars,
)
from mura.plots.images import answer_caption, image_grid, radiograph, view_grid
from mura.plots.results import confusion_matrices, precision_recall, reliability, roc
from mura.plots.style import save
from mura.plots.training import training_curves
