"""Numbers from predictions: study-level metrics with intervals, per body part and per model.

Functions on DataFrames, without Keras: they serve a run, an ensemble and external predictions
alike.
"""

from mura.evaluation.bootstrap import RESAMPLES, bootstrap, patient_weights
from mura.evaluation.calibration import CALIBRATIONS, calibrate, fit_calibration, reliability_table
from mura.evaluation.ensembles import ensemble, greedy_selection
from mura.evaluation.intervals import holm, percentile_interval
from mura.evaluation.metrics import METRICS, metric_values
from mura.evaluation.operating_points import (
    operating_point_table,
    operating_points,
    threshold_curve,
)
from mura.evaluation.predictions import (
    AGGREGATIONS,
    PREDICTION_COLUMNS,
    PredictionsError,
    check_predictions,
    exclude_studies,
    refuse_leakage,
    study_predictions,
)
from mura.evaluation.published import published_kappa
from mura.evaluation.reading import (
    UnknownStudyError,
    UnlabelledError,
    read_predictions,
    read_study_list,
    read_truth,
)
from mura.evaluation.subgroups import confident_errors, disagreements, subgroup_tables
from mura.evaluation.tables import (
    body_part_groups,
    in_order,
    metric_table,
    model_table,
    paired_differences,
)

__all__ = [
    "AGGREGATIONS",
    "CALIBRATIONS",
    "METRICS",
    "PREDICTION_COLUMNS",
    "RESAMPLES",
    "PredictionsError",
    "UnknownStudyError",
    "UnlabelledError",
    "body_part_groups",
    "bootstrap",
    "calibrate",
    "check_predictions",
    "confident_errors",
    "disagreements",
    "ensemble",
    "exclude_studies",
    "fit_calibration",
    "greedy_selection",
    "holm",
    "in_order",
    "metric_table",
    "metric_values",
    "model_table",
    "operating_point_table",
    "operating_points",
    "paired_differences",
    "patient_weights",
    "percentile_interval",
    "published_kappa",
    "read_predictions",
    "read_study_list",
    "read_truth",
    "refuse_leakage",
    "reliability_table",
    "study_predictions",
    "subgroup_tables",
    "threshold_curve",
]
