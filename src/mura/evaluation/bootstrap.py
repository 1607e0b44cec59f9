"""The bootstrap over patients: all models, groups and metrics share the same resamples.

Studies of one patient resemble each other, so patients are drawn with replacement, each with all
their studies: a resample weights each patient by how often it drew them. All models see the same
weights, so their differences are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mura.evaluation.metrics import WeightedMetrics
from mura.evaluation.predictions import PredictionsError, aligned

Studies = dict[str, pd.DataFrame]  # model name to its studies
RESAMPLES = 2000
CHUNK = 250  # resamples at a time: cumulative weights of some hundred studies fit the cache


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of the studies as they are, and resampled.

    Attributes:
        models, groups, metrics: Names along the axes of the arrays.
        point: float64[models, groups, metrics]; ``resampled`` adds an axis of resamples.
        studies, patients, abnormal: int[groups], how many of each a group has.
        behind: int[models, groups, metrics], how many patients a proportion is based on; else 0.
    """

    models: tuple[str, ...]
    groups: tuple[str, ...]
    metrics: tuple[str, ...]
    point: np.ndarray
    resampled: np.ndarray
    studies: np.ndarray
    patients: np.ndarray
    abnormal: np.ndarray
    behind: np.ndarray


def bootstrap(
    studies_by_model: Mapping[str, pd.DataFrame],
    metrics: Sequence[str],
    threshold: float = 0.5,
    groups: Mapping[str, np.ndarray] | None = None,
    macro: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Bootstrap:
    """Evaluate models on patients drawn with replacement.

    Args:
        studies_by_model: Model name to studies, all of the same studies in any order.
        metrics, threshold: As in ``metric_table``.
        groups: Group name to bool[studies] in the first model's order; ``"all"`` when None.
        macro: Add a group ``"macro"``: the mean over the other groups except ``"all"``.
        resamples, seed: How many times patients are drawn; the same seed, the same draws.

    Raises:
        PredictionsError: Models with different studies, or several splits in one table.
    """
    base, probabilities = aligned(studies_by_model)
    splits = sorted(base["split"].unique())
    if len(splits) > 1:
        raise PredictionsError(
            f"the studies mix the splits {', '.join(splits)}; evaluate one of them, for example "
            f"studies[studies['split'] == {splits[-1]!r}]."
        )
    if groups is None:
        groups = {"all": np.ones(len(base), dtype=bool)}
    code, people = pd.factorize(base["patient"])
    labels = base["label"].to_numpy(dtype=int)
    members, evaluators, counts = [], [], []
    for chosen in groups.values():
        truth = labels[chosen]
        patients, local = np.unique(code[chosen], return_inverse=True)
        members.append(patients)
        counts.append((len(truth), len(patients), truth.sum()))
        rest = local, metrics, threshold
        evaluators.append([WeightedMetrics(truth, row[chosen], *rest) for row in probabilities])
    names = tuple(groups)
    averaged = [index for index, name in enumerate(names) if name != "all"]
    behind = np.array([[of.patients_behind() for of in row] for row in evaluators]).swapaxes(0, 1)
    if macro:
        names = (*names, "macro")
        counts.append((len(base), len(people), labels.sum()))
        behind = np.concatenate([behind, np.zeros_like(behind[:, :1])], axis=1)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        """Return float64[models, groups, metrics, R] for weights float[P, R]."""
        drawn = (weights[patients] for patients in members)
        values = [[of(own) for of in row] for row, own in zip(evaluators, drawn, strict=True)]
        values = np.array(values).swapaxes(0, 1)
        if macro:
            mean = values[:, averaged].mean(axis=1, keepdims=True)
            values = np.concatenate([values, mean], axis=1)
        return values

    point = evaluate(np.ones((len(people), 1)))
    resampled = [evaluate(weights) for weights in patient_weights(len(people), resamples, seed)]
    drawn = np.concatenate([point[..., :0], *resampled], axis=-1)
    axes = tuple(studies_by_model), names, tuple(metrics)
    return Bootstrap(*axes, point[..., 0], drawn, *np.array(counts, dtype=int).T, behind)


def patient_weights(patients: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield float32[patients, up to CHUNK]: how often each resample drew each patient."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        columns = min(CHUNK, resamples - start)
        drawn = generator.integers(patients, size=(patients, CHUNK))[:, :columns]
        cell = drawn * columns + np.arange(columns)
        counts = np.bincount(cell.ravel(), minlength=patients * columns)
        yield counts.reshape(patients, columns).astype(np.float32)
