"""Numbers from predictions: study-level metrics with intervals, per body part and per model.

Pure functions on DataFrames (NumPy, pandas, SciPy, scikit-learn); neither Keras nor files of
this project are involved, so the same code serves a run, an ensemble and anybody's CSV.
"""

from mura.evaluation.bootstrap import RESAMPLES, Bootstrap, bootstrap, patient_weights
from mura.evaluation.calibration import (
    CALIBRATIONS,
    Isotonic,
    Logistic,
    Temperature,
    calibrate,
    fit_calibration,
    reliability_table,
)
from mura.evaluation.delong import DeLong, DeLongTest, delong, delong_covariance, delong_test
from mura.evaluation.ensembles import ENSEMBLES, ensemble, five_best, greedy_selection
from mura.evaluation.intervals import (
    INTERVALS,
    Interval,
    bca_interval,
    bootstrap_p_value,
    holm,
    kappa_interval,
    percentile_interval,
    wilson_interval,
)
from mura.evaluation.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    WeightedMetrics,
    auroc,
    average_precision,
    expected_calibration_error,
    kappa,
    metric_values,
)
from mura.evaluation.operating_points import (
    operating_point_table,
    operating_points,
    threshold_curve,
)
from mura.evaluation.predictions import (
    AGGREGATIONS,
    PREDICTION_COLUMNS,
    STUDY_COLUMNS,
    PredictionsError,
    aligned,
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
from mura.evaluation.subgroups import (
    confident_errors,
    disagreements,
    study_facts,
    subgroup_table,
    subgroup_tables,
)
from mura.evaluation.tables import (
    body_part_groups,
    metric_table,
    model_table,
    paired_differences,
)

__all__ = [
    "AGGREGATIONS",
    "CALIBRATIONS",
    "ENSEMBLES",
    "INTERVALS",
    "LOWER_IS_BETTER",
    "METRICS",
    "PREDICTION_COLUMNS",
    "RESAMPLES",
    "STUDY_COLUMNS",
    "Bootstrap",
    "DeLong",
    "DeLongTest",
    "Interval",
    "Isotonic",
    "Logistic",
    "PredictionsError",
    "Temperature",
    "UnknownStudyError",
    "UnlabelledError",
    "WeightedMetrics",
    "aligned",
    "auroc",
    "average_precision",
    "bca_interval",
    "body_part_groups",
    "bootstrap",
    "bootstrap_p_value",
    "calibrate",
    "check_predictions",
    "confident_errors",
    "delong",
    "delong_covariance",
    "delong_test",
    "disagreements",
    "ensemble",
    "exclude_studies",
    "expected_calibration_error",
    "fit_calibration",
    "five_best",
    "greedy_selection",
    "holm",
    "kappa",
    "kappa_interval",
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
    "study_facts",
    "study_predictions",
    "subgroup_table",
    "subgroup_tables",
    "threshold_curve",
    "wilson_interval",
]
