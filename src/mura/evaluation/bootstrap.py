"""The bootstrap over patients: every model, group and metric under the same resampled weights.

Studies of one patient are alike (the same bones, the same exposure, often the same finding), so
what is drawn with replacement is patients, each with all their studies. Drawing patients is
weighting them by how often they were drawn; weights are generated in chunks, and each chunk is
used for all models, groups and metrics, so that differences between models are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mura.evaluation.metrics import WeightedMetrics
from mura.evaluation.predictions import PredictionsError, aligned

RESAMPLES = 2000
# Resamples per chunk: the cumulative weights of a few hundred studies then fit the cache.
CHUNK = 250


@dataclass(frozen=True)
class Bootstrap:
    """Metrics as they are, resampled, and with each patient left out.

    Attributes:
        models, groups, metrics: What the first three axes of the arrays stand for.
        point: float64[models, groups, metrics].
        resampled: float64[models, groups, metrics, resamples].
        jackknife: float64[models, groups, metrics, patients]; no patients unless asked for. NaN
            for patients that the group does not have.
        studies, patients: int[groups], how many each group has.
        abnormal: int[groups], how many of the studies are abnormal.
        behind: int[models, groups, metrics], of how many patients a proportion is; 0 for other
            metrics and for the macro mean.
    """

    models: tuple[str, ...]
    groups: tuple[str, ...]
    metrics: tuple[str, ...]
    point: np.ndarray
    resampled: np.ndarray
    jackknife: np.ndarray
    studies: np.ndarray
    patients: np.ndarray
    abnormal: np.ndarray
    behind: np.ndarray


def bootstrap(
    studies_by_model: Mapping[str, pd.DataFrame],
    metrics: Sequence[str],
    threshold: float | Mapping[str, float] = 0.5,
    groups: Mapping[str, np.ndarray] | None = None,
    macro: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    jackknife: bool = False,
) -> Bootstrap:
    """Evaluate models on patients drawn with replacement.

    Args:
        studies_by_model: Model name to studies, all of the same studies in any order.
        metrics: Names out of ``METRICS``.
        threshold: One for all models, or one for each by name.
        groups: Group name to bool[studies] in the first model's order; groups may overlap. One
            group ``"all"`` when ``None``.
        macro: Add a group of this name: the mean over the other groups except ``"all"``.
        resamples: How many times patients are drawn.
        seed: Same seed, same draws.
        jackknife: Also leave out each patient in turn, for BCa intervals.

    Raises:
        PredictionsError: Models with different studies, or several splits in one table.
    """
    base, probabilities = aligned(studies_by_model)
    _refuse_mixed_splits(base)
    if groups is None:
        groups = {"all": np.ones(len(base), dtype=bool)}
    code, people = pd.factorize(base["patient"])
    labels = base["label"].to_numpy(dtype=int)
    members, evaluators = [], []  # per group; per model and group
    thresholds = _thresholds(threshold, studies_by_model)
    for chosen in groups.values():
        patients, local = np.unique(code[chosen], return_inverse=True)
        members.append(patients)
        evaluators.append(
            [
                WeightedMetrics(labels[chosen], row[chosen], local, metrics, limit)
                for row, limit in zip(probabilities, thresholds, strict=True)
            ]
        )
    names = tuple(groups)
    averaged = [index for index, name in enumerate(names) if name != "all"]

    def evaluate(weights: np.ndarray) -> np.ndarray:
        """Return float64[models, groups, metrics, R] for weights float[P, R]."""
        values = []
        for patients, row in zip(members, evaluators, strict=True):
            of_group = weights[patients]
            values.append([evaluator(of_group) for evaluator in row])
        values = np.swapaxes(np.array(values), 0, 1)
        if macro is None:
            return values
        return np.concatenate([values, values[:, averaged].mean(axis=1, keepdims=True)], axis=1)

    point = evaluate(np.ones((len(people), 1)))
    resampled = np.empty((*point.shape[:3], resamples))
    done = 0
    for weights in patient_weights(len(people), resamples, seed):
        resampled[..., done : done + weights.shape[1]] = evaluate(weights)
        done += weights.shape[1]
    left_out = np.empty((*point.shape[:3], len(people) if jackknife else 0))
    for start in range(0, left_out.shape[-1], CHUNK):
        columns = np.arange(start, min(start + CHUNK, len(people)))
        weights = np.ones((len(people), len(columns)))
        weights[columns, columns - start] = 0
        left_out[..., columns] = evaluate(weights)
    if jackknife:
        for index, patients in enumerate(members):
            others = np.setdiff1d(np.arange(len(people)), patients)
            left_out[:, index, :, others] = np.nan
    counts = [
        (chosen.sum(), len(patients), labels[chosen].sum())
        for chosen, patients in zip(groups.values(), members, strict=True)
    ]
    behind = np.array([[of.patients_behind() for of in row] for row in evaluators])
    behind = np.swapaxes(behind, 0, 1)
    if macro is not None:
        behind = np.concatenate([behind, np.zeros_like(behind[:, :1])], axis=1)
        names = (*names, macro)
        counts.append((len(base), len(people), labels.sum()))
    studies, patients, abnormal = np.array(counts, dtype=int).T
    return Bootstrap(
        tuple(studies_by_model),
        names,
        tuple(metrics),
        point[..., 0],
        resampled,
        left_out,
        studies,
        patients,
        abnormal,
        behind,
    )


def patient_weights(patients: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield float32[patients, up to CHUNK]: how often each patient was drawn in each resample."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        columns = min(CHUNK, resamples - start)
        drawn = generator.integers(patients, size=(patients, CHUNK))[:, :columns]
        cell = drawn * columns + np.arange(columns)
        counts = np.bincount(cell.ravel(), minlength=patients * columns)
        yield counts.reshape(patients, columns).astype(np.float32)


def _thresholds(
    threshold: float | Mapping[str, float], studies_by_model: Mapping[str, pd.DataFrame]
) -> list[float]:
    if not isinstance(threshold, Mapping):
        return [float(threshold)] * len(studies_by_model)
    missing = [name for name in studies_by_model if name not in threshold]
    if missing:
        raise PredictionsError(f"no threshold for {', '.join(missing)}; give one for each model.")
    return [float(threshold[name]) for name in studies_by_model]


def _refuse_mixed_splits(base: pd.DataFrame) -> None:
    splits = sorted(base["split"].unique())
    if len(splits) > 1:
        raise PredictionsError(
            f"the studies mix the splits {', '.join(splits)}; evaluate one of them, for example "
            f"studies[studies['split'] == {splits[-1]!r}]."
        )
