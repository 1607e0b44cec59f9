"""Study AUROC against the number of training patients, and what a start is worth, over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES, bootstrap
from mura.evaluation.intervals import bootstrap_p_value, percentile_interval
from mura.evaluation.predictions import PredictionsError
from mura.evaluation.reports import run_studies
from mura.runs import Run

COUNTED = ["patients", "images"]
FEWEST_SHARES = 3  # a straight line through two always fits


def learning_curve(
    runs: Sequence[Run], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Fit a power law to the AUROC of runs that differ in their share of patients and their seed.

    For n patients 1 - AUROC = b n^-c (Hestness et al. 2017, arXiv 1712.00409, section 2), a
    straight line on logarithmic axes. It has no floor, so it says nothing of where the curve ends.

    Returns:
        The points, a row per share: patients, images (the seeds' mean), seeds; value (mean AUROC
        of the seeds), low, high (95 %); law (what the power law gives there). The law: quantity
        ("exponent", "AUROC with twice the patients"), value, low, high.

    Raises:
        PredictionsError: Fewer than three shares, or runs of different validation studies.
    """
    sizes: dict[float, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.recipe["train_fraction"]):
        sizes.setdefault(run.recipe["train_fraction"], []).append(run)
    if len(sizes) < FEWEST_SHARES:
        few = f"a learning curve needs {FEWEST_SHARES} shares of the patients; here {len(sizes)}."
        raise PredictionsError(few)
    counts = [
        {"seeds": len(own)}
        | {n: np.mean([run.environment["data"][n]["fit"] for run in own]) for n in COUNTED}
        for own in sizes.values()
    ]
    points = pd.DataFrame(counts, columns=[*COUNTED, "seeds"])
    patients = points["patients"].to_numpy()
    means = mean_auroc({str(share): own for share, own in sizes.items()}, resamples, seed)
    low, high = percentile_interval(means[:, 1:]).T
    missed = np.log(np.clip(1 - means, 1e-4, None))  # an AUROC of 1 has no logarithm
    slope, offset = np.polyfit(np.log(patients), missed, 1)
    drawn = 1 - np.exp(offset[0] + slope[0] * np.log(patients))
    twice = 1 - np.exp(offset + slope * np.log(2 * patients[-1]))
    points = points.assign(value=means[:, 0], low=low, high=high, law=drawn)
    return points, _rows({"exponent": -slope, "AUROC with twice the patients": twice})


def start_table(
    groups: Mapping[str, Sequence[Run]], base: str, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Return each group's mean AUROC over its seeds, and its difference from that of ``base``.

    Returns:
        Index: the group. Columns: seeds, AUROC, low, high; difference, difference_low,
        difference_high, p (of the same resampled patients; missing for ``base``).

    Raises:
        PredictionsError: Runs of different validation studies.
    """
    means = dict(zip(groups, mean_auroc(groups, resamples, seed), strict=True))
    table = _rows(means).rename(columns={"quantity": "model", "value": "AUROC"}).set_index("model")
    table.insert(0, "seeds", [len(runs) for runs in groups.values()])
    others = {name: values - means[base] for name, values in means.items() if name != base}
    gains = _rows(others).set_index("quantity").add_prefix("difference_")
    gains["p"] = [float(bootstrap_p_value(values[1:])) for values in others.values()]
    return table.join(gains.rename(columns={"difference_value": "difference"}))


def mean_auroc(groups: Mapping[str, Sequence[Run]], resamples: int, seed: int) -> np.ndarray:
    """Return the mean AUROC of each group's runs, float64[groups, 1 + resamples].

    The first column is of the studies and runs as they are. Each resample draws the patients, the
    same for all groups, and of each group's runs as many as there are.
    """
    studies = {
        f"{name} {index}": run_studies(run)
        for name, runs in groups.items()
        for index, run in enumerate(runs)
    }
    result = bootstrap(studies, ["auroc"], resamples=resamples, seed=seed)
    values = np.column_stack([result.point[:, 0, 0], result.resampled[:, 0, 0]])
    generator = np.random.default_rng(seed)
    means, start = [], 0
    for runs in groups.values():
        own = values[start : start + len(runs)]
        start += len(runs)
        drawn = generator.integers(len(runs), size=own.shape)
        drawn[:, 0] = np.arange(len(runs))
        means.append(np.take_along_axis(own, drawn, axis=0).mean(axis=0))
    return np.array(means)


def _rows(values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return values whose first is observed and whose others are resampled, as a table."""
    rows = [(name, row[0], *percentile_interval(row[1:])) for name, row in values.items()]
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high"])
