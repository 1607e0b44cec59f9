"""Numbers from predictions: study-level metrics with intervals, per body part and per model.

Functions on DataFrames, without Keras: they serve a run, an ensemble and external predictions
alike.
"""

from mura.evaluation.bootstrap import RESAMPLES, bootstrap, patient_weights
from mura.evaluation.calibration import CALIBRATIONS, calibrate, fit_calibration, reliability_table
from mura.evaluation.candidates import best_run
from mura.evaluation.comparison import (
    Comparison,
    block_note,
    blocks,
    choices,
    compare,
    differences,
    results,
)
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
from mura.evaluation.reports import (
    body_part_intervals,
    by_body_part,
    counted,
    csv_studies,
    formatted,
    leaderboard,
    results_table,
    run_facts,
    run_metrics,
    run_studies,
    to_json,
    with_interval,
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
    "Comparison",
    "PredictionsError",
    "UnknownStudyError",
    "UnlabelledError",
    "best_run",
    "block_note",
    "blocks",
    "body_part_groups",
    "body_part_intervals",
    "bootstrap",
    "by_body_part",
    "calibrate",
    "check_predictions",
    "choices",
    "compare",
    "confident_errors",
    "counted",
    "csv_studies",
    "differences",
    "disagreements",
    "ensemble",
    "exclude_studies",
    "fit_calibration",
    "formatted",
    "greedy_selection",
    "holm",
    "in_order",
    "leaderboard",
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
    "results",
    "results_table",
    "run_facts",
    "run_metrics",
    "run_studies",
    "study_predictions",
    "subgroup_tables",
    "threshold_curve",
    "to_json",
    "with_interval",
]
