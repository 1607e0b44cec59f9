"""Whether 90 % is 90 %: the conformal answers over random splits of patients, and calibration.

python benchmarks/coverage.py RUN [RUN ...]        seconds; with FracAtlas's reference runs

A run's tune and valid patients are dealt anew into halves, as if they had been one group:
the bounds come from one half, and the other says how often they hold. The two last columns are the
calibration error on the validation studies, before and after calibration on the tune studies.
"""

import sys

import numpy as np
import pandas as pd

from mura.evaluation import fit_decisions, metric_values, run_studies
from mura.evaluation.decisions import calibrated, conformal_bounds, decide
from mura.runs import Run, list_references

SPLITS = 200


def coverage(studies: pd.DataFrame, random: np.random.Generator) -> tuple[float, float, float]:
    """Return the shares of normal and abnormal studies covered, and the share answered."""
    patients = studies["patient"].unique()
    chosen = random.permutation(patients)[: len(patients) // 2]
    half = studies["patient"].isin(chosen)
    said = decide(studies.loc[~half, "probability"], conformal_bounds(studies[half]))
    truth = studies.loc[~half, "label"].to_numpy()
    normal, abnormal = (said[truth == 0] != "abnormal"), (said[truth == 1] != "normal")
    return normal.mean(), abnormal.mean(), (said != "not sure").mean()


def main(names: list[str]) -> None:
    print("run                              covered: normal  abnormal  answered   ECE  calibrated")
    for run in [*map(Run.load, names), *list_references("FracAtlas")]:
        tune, valid = run_studies(run, "tune"), run_studies(run, "valid")
        both, random = pd.concat([tune, valid]), np.random.default_rng(0)
        shares = np.mean([coverage(both, random) for _ in range(SPLITS)], axis=0)
        probability, decisions = valid["probability"].to_numpy(), fit_decisions(tune)
        answers = probability, calibrated(probability, decisions)
        errors = [metric_values(valid["label"].to_numpy(), each)["ece"] for each in answers]
        values = "".join(f"{share:10.1%}" for share in shares)
        print(f"{run.name:38}{values}{errors[0]:8.3f}{errors[1]:8.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
