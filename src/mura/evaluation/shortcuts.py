"""Shortcuts: what a model's AUROC owes to something else than the finding.

Where body parts differ in their share of abnormal studies, naming the body part alone ranks
studies. Three figures belong beside a model's AUROC: that of the body part alone; the model's own
within body parts, over pairs of studies of one part; and its AUROC without the studies that a
shortcut marks, such as those with hardware.
"""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES, patient_weights
from mura.evaluation.intervals import percentile_interval
from mura.evaluation.metrics import WeightedMetrics

ALONE = "body part alone"


def body_part_alone(studies: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Return the studies, answered by naming their body part.

    The probability is the share of *train*'s images of that body part that are abnormal (columns
    body_part, label); 0.5 where there are none.
    """
    shares = train.groupby(train["body_part"].astype(str))["label"].mean()
    return studies.assign(probability=studies["body_part"].astype(str).map(shares).fillna(0.5))


def shortcut_table(
    studies_by_model: Mapping[str, pd.DataFrame],
    without: Mapping[str, Collection[str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Return each model's AUROC overall, within body parts and without marked studies.

    Args:
        studies_by_model: Model name to one split's studies. Names that begin with ``ALONE`` are of
            ``body_part_alone``, which ranks nothing within body parts.
        without: Title to the studies (their keys) that a row leaves out.
        resamples, seed: Bootstrap draws of the patients.

    Returns:
        Columns model, of ("all", "within body parts", a title of ``without``), value, low, high
        (95 %), studies, abnormal.
    """
    rows = []
    for model, studies in studies_by_model.items():
        chosen = {"all": studies}
        if not model.startswith(ALONE):
            chosen["within body parts"] = studies
        for title, keys in (without or {}).items():
            chosen[title] = studies[~studies["study"].isin(keys)]
        for of, rest in chosen.items():
            strata = rest["body_part"].astype(str) if of == "within body parts" else None
            value, low, high = stratified_auroc(rest, strata, resamples, seed)
            rows.append((model, of, value, low, high, len(rest), int(rest["label"].sum())))
    columns = ["model", "of", "value", "low", "high", "studies", "abnormal"]
    return pd.DataFrame(rows, columns=columns)


def stratified_auroc(
    studies: pd.DataFrame,
    strata: pd.Series | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the share of pairs, within strata, that a model ranks rightly, and its interval.

    Args:
        studies: One model's studies.
        strata: Of each study, aligned; None: one stratum, which gives the usual AUROC.
        resamples, seed: Bootstrap draws of the patients, over 95 % of which the interval is.
    """
    strata = pd.Series("", studies.index) if strata is None else strata
    code, people = pd.factorize(studies["patient"])
    labels = studies["label"].to_numpy(dtype=int)
    probability = studies["probability"].to_numpy(dtype=float)
    parts = [(strata == stratum).to_numpy() for stratum in strata.unique()]
    parts = [of for of in parts if 0 < labels[of].sum() < of.sum()]  # others have no pairs

    def value(weights: np.ndarray) -> np.ndarray:
        ordered = pairs = np.zeros(weights.shape[1])
        for of in parts:
            members, local = np.unique(code[of], return_inverse=True)
            evaluate = WeightedMetrics(labels[of], probability[of], local, ["auroc"])
            drawn = weights[code[of]]
            count = drawn[labels[of] == 1].sum(axis=0) * drawn[labels[of] == 0].sum(axis=0)
            ordered = ordered + np.nan_to_num(evaluate(weights[members])[0]) * count
            pairs = pairs + count
        return np.divide(ordered, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    drawn = [value(weights) for weights in patient_weights(len(people), resamples, seed)]
    low, high = percentile_interval(np.concatenate(drawn)) if drawn else (np.nan, np.nan)
    return float(value(np.ones((len(people), 1)))[0]), float(low), float(high)
