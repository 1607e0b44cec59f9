"""How often the 95 % intervals hold the truth, on simulated studies whose AUROC is known.

python benchmarks/interval_coverage.py        about 30 s on one core

A patient has 1 to 4 studies of 3 views each. Probabilities share a part per patient and a part
per study, and a patient's studies tend to have the same label, as in MURA. An interval that
takes studies, or even images, for independent is too narrow: it holds the truth less often than it
says.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy.special import ndtr

from mura import evaluation

VIEWS = 3
STUDIES = np.arange(1, 5)
SHARES = (0.55, 0.2, 0.15, 0.1)  # of patients with 1 to 4 studies
# Spread of the parts of a score: the patient's, the study's, the view's.
PATIENT, STUDY, VIEW = 1.0, 0.5, 0.7
SAME_LABEL = 0.85  # chance that a further study repeats the label of the patient's first
SHIFT = 2.0  # between abnormal and normal
RESAMPLES = 1000


def true_auroc(views: int) -> float:
    """AUROC of the mean of ``views`` views, for studies of different patients."""
    variance = PATIENT**2 + STUDY**2 + VIEW**2 / views
    return float(ndtr(SHIFT / np.sqrt(2 * variance)))


def simulate(patients: int, random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return studies, and images as if each were a study of its own."""
    patient = np.repeat(np.arange(patients), random.choice(STUDIES, patients, p=SHARES))
    first = random.integers(0, 2, size=patients)[patient]
    repeats = random.uniform(size=len(patient)) < SAME_LABEL
    label = np.where(repeats, first, 1 - first)
    score = SHIFT * label + PATIENT * random.normal(size=patients)[patient]
    score += STUDY * random.normal(size=len(patient))
    scores = score[:, None] + VIEW * random.normal(size=(len(patient), VIEWS))
    studies = pd.DataFrame({"patient": patient, "split": "valid", "label": label})
    images = studies.loc[studies.index.repeat(VIEWS)].reset_index(drop=True)
    return (
        studies.assign(study=studies.index, probability=ndtr(scores.mean(axis=1))),
        images.assign(study=images.index, probability=ndtr(scores.ravel())),
    )


def intervals(studies: pd.DataFrame, images: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """Return the percentile interval by what is drawn: patients, studies or images."""
    drawn = {
        "patients": studies,
        "studies": studies.assign(patient=studies["study"]),
        "images": images.assign(patient=images["study"]),
    }
    found = {}
    for unit, table in drawn.items():
        result = evaluation.bootstrap({"": table}, ("auroc",), resamples=RESAMPLES, seed=seed)
        found[unit] = evaluation.percentile_interval(result.resampled[0, 0, 0])
    return found


def main(simulations: int = 1000, patients: int = 200) -> None:
    hits: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for seed in range(simulations):
        studies, images = simulate(patients, np.random.default_rng(seed))
        for name, (low, high) in intervals(studies, images, seed).items():
            truth = true_auroc(1 if name == "images" else VIEWS)
            hits.setdefault(name, []).append(low <= truth <= high)
            widths.setdefault(name, []).append(high - low)
    error = 1.96 * np.sqrt(0.95 * 0.05 / simulations)
    print(f"{simulations} simulations of {patients} patients, {RESAMPLES} resamples")
    print("drawn     coverage  mean width")
    for name, hit in hits.items():
        print(f"{name:9} {np.mean(hit):8.1%} {np.mean(widths[name]):11.3f}")
    print(f"nominal 95 %, Monte-Carlo error +- {error:.1%}")


if __name__ == "__main__":
    main()
