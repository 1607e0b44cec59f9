"""Numbers from predictions: study-level metrics with intervals, per body part and per model.

Functions on DataFrames, without Keras: they serve a run, an ensemble and external predictions
alike.
"""

from mura.evaluation.bootstrap import RESAMPLES, bootstrap, patient_weights
from mura.evaluation.calibration import CALIBRATIONS, calibrate, fit_calibration, reliability_table
from mura.evaluation.comparison import best_run, block_note, blocks, compare, results
from mura.evaluation.decisions import coverage_table, fit_decisions
from mura.evaluation.intervals import percentile_interval
from mura.evaluation.learning_curves import learning_curve, start_table
from mura.evaluation.metrics import METRICS, metric_values
from mura.evaluation.operating_points import (
    operating_point_table,
    operating_points,
    threshold_curve,
)
from mura.evaluation.pointing import pointing_table
from mura.evaluation.predictions import PREDICTION_COLUMNS, PredictionsError, study_predictions
from mura.evaluation.published import published_kappa
from mura.evaluation.reading import read_external, read_predictions
from mura.evaluation.references import pretraining_table, reference_table, rows_of
from mura.evaluation.repeats import out_of_fold, repeat_table, runs_alone, together
from mura.evaluation.reports import (
    SHOWN,
    body_part_intervals,
    by_body_part,
    choices,
    counted,
    csv_studies,
    formatted,
    labelled,
    results_table,
    run_facts,
    run_metrics,
    run_studies,
    to_json,
    with_interval,
)
from mura.evaluation.shortcuts import ALONE, body_part_alone, shortcut_table
from mura.evaluation.subgroups import subgroup_tables
from mura.evaluation.tables import (
    body_part_groups,
    differences,
    metric_table,
    model_table,
    paired_differences,
)
