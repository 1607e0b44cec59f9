"""Time of the patient bootstrap on a validation set of MURA's size, beside a plain loop.

python benchmarks/evaluation.py        about a minute on two cores

10 models x 8 groups (all studies and seven body parts) x 10,000 resamples of 783 patients with
1,199 studies and 3,197 images, one core. The plain loop draws patients, gathers their studies and
calls scikit-learn, as an evaluation notebook would. It is timed on a few resamples of one model
and *extrapolated* to the whole, as its row says.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one core, whatever the machine has
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
from measure import OURS, interleaved, report, seconds, table
from sklearn.metrics import accuracy_score, cohen_kappa_score, recall_score, roc_auc_score

from mura import evaluation
from mura.data import BODY_PARTS

IMAGES, STUDIES, PATIENTS = 3197, 1199, 783
METRICS = ("kappa", "auroc", "accuracy", "sensitivity", "specificity")
LOOP_RESAMPLES = 10
LOOP = "plain scikit-learn loop (extrapolated)"


def simulate(models: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return predictions of models that agree more with each other than with the truth."""
    random = np.random.default_rng(seed)
    others = random.integers(PATIENTS, size=STUDIES - PATIENTS)
    owner = np.concatenate([np.arange(PATIENTS), others])
    part = random.choice(BODY_PARTS, STUDIES)
    label = random.integers(0, 2, size=STUDIES)
    views = 1 + random.multinomial(IMAGES - STUDIES, np.full(STUDIES, 1 / STUDIES))
    of = np.repeat(np.arange(STUDIES), views)
    patient = np.array([f"patient{11185 + index}" for index in owner])
    study = np.array([f"MURA-v1.1/valid/{part[i]}/{patient[i]}/study{i}" for i in range(STUDIES)])
    images = pd.DataFrame(
        {
            "study": study[of],
            "view": np.arange(IMAGES) - np.repeat(np.cumsum(views) - views, views) + 1,
            "body_part": part[of],
            "patient": patient[of],
            "split": "valid",
            "label": label[of],
        }
    )
    images["path"] = images["study"] + "/image" + images["view"].astype(str) + ".png"
    shared = 2 * label - 1 + random.normal(size=STUDIES) + random.normal(size=PATIENTS)[owner]
    odds = {f"model {m}": shared[of] + random.normal(size=IMAGES) for m in range(models)}
    return {name: images.assign(probability=1 / (1 + np.exp(-x))) for name, x in odds.items()}


def plain_loop(studies: pd.DataFrame, resamples: int) -> None:
    """Draw patients, gather their studies, call scikit-learn for every group and metric."""
    random = np.random.default_rng(0)
    rows = [index.to_numpy() for index in studies.groupby("patient").groups.values()]
    for _ in range(resamples):
        drawn = np.concatenate([rows[i] for i in random.integers(len(rows), size=len(rows))])
        sample = studies.iloc[drawn]
        for group in (sample, *(sample[sample["body_part"] == part] for part in BODY_PARTS)):
            label, probability = group["label"], group["probability"]
            called = (probability > 0.5).astype(int)
            cohen_kappa_score(label, called)
            roc_auc_score(label, probability)
            accuracy_score(label, called)
            recall_score(label, called)
            recall_score(label, called, pos_label=0)


def measured(models: int, resamples: int) -> dict:
    """Return the result: the bootstrap of all models beside the loop."""
    predictions = simulate(models)
    studies = {name: evaluation.study_predictions(table) for name, table in predictions.items()}
    base = studies["model 0"]

    def ours() -> None:
        groups = evaluation.body_part_groups(base)
        evaluation.bootstrap(studies, METRICS, groups=groups, resamples=resamples)

    def loop() -> float:
        one = seconds(lambda: plain_loop(base, LOOP_RESAMPLES)) / LOOP_RESAMPLES
        return one * resamples * models

    plain_loop(base, 1)  # imports and caches
    figures = interleaved({LOOP: loop, OURS: lambda: seconds(ours)})
    whole = seconds(lambda: evaluation.model_table(studies, resamples=resamples))
    return table(
        f"Patient bootstrap, {resamples:,} resamples x 8 groups x {models} models, one core",
        "seconds",
        figures,
        LOOP,
        f"The loop is timed on {LOOP_RESAMPLES} resamples of one model and extrapolated. The whole "
        f"table with {len(evaluation.METRICS)} metrics and intervals takes {whole:.1f} s.",
    )


if __name__ == "__main__":
    report(measured(models=10, resamples=10_000))
