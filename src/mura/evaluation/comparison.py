"""Put the models that can be compared side by side: runs, their ensembles, anybody's CSV files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mura import evaluation
from mura.data.manifest import data_root, read_manifest
from mura.evaluation import reports
from mura.evaluation.candidates import judged, of_other_data, standing_for_all
from mura.evaluation.predictions import from_logit, to_logit
from mura.files import InputError, as_named
from mura.phantom.counts import STUDY_COUNTS, VALID
from mura.runs import Run, list_runs, models_folder

MISSING = "–"


@dataclass(frozen=True)
class Comparison:
    """Models of one data set, evaluated on the same split.

    Attributes:
        root: The data folder; None where it is not at hand, so that no image can be shown.
        runs: Run name to run.
        studies: Model name to studies of the evaluated split: runs, ensembles, CSV files.
        tune: Run or ensemble name to studies of the tune part: what choices are made on.
        chosen: The run with the highest AUROC on the tune part, of those that predicted the most.
        members: Ensemble name to run name to weight.
        left_out: Run name to why it is not compared.
    """

    root: Path | None
    runs: dict[str, Run]
    studies: dict[str, pd.DataFrame]
    tune: dict[str, pd.DataFrame]
    chosen: str
    members: dict[str, dict[str, float]]
    left_out: dict[str, str]

    @property
    def data(self) -> str:
        """The data set's name: "phantom", "MURA-v1.1"."""
        return self.runs[self.chosen].environment["data"]["name"]

    @property
    def alike(self) -> list[str]:
        """The models, of any kind, that predicted the same studies as the chosen run."""
        same = set(self.studies[self.chosen]["study"])
        return [name for name, table in self.studies.items() if set(table["study"]) == same]

    @property
    def peers(self) -> dict[str, Run]:
        """The runs that predicted the same studies as the chosen one."""
        return {name: self.runs[name] for name in self.alike if name in self.runs}

    def truth(self) -> pd.DataFrame | None:
        """Return what is known of a phantom's images; None for radiographs."""
        return None if self.root is None else evaluation.read_truth(self.root)


def compare(
    models: str | Path | None = None,
    root: str | Path | None = None,
    names: Sequence[str] = (),
    csv_files: Sequence[str | Path] = (),
    split: str = "valid",
) -> Comparison:
    """Collect everything that can be compared with the complete runs of a folder.

    Args:
        models: The folder of the runs; the checkout's ``models/`` when None or "".
        root: The data folder; as ``manifest.data_root`` when None or "". Runs that were made on
            other data are left out; where there is no such folder, those that were made on
            other data than the last finished run.
        names: Runs to take; all complete ones when empty.
        csv_files: Anybody's probabilities (see ``evaluation.read_predictions``).
        split: Which split's studies are evaluated.

    Raises:
        InputError: There is no complete run, or none of this data; a CSV file is damaged, is of
            other splits alone, or lacks images of a study that it lists.
    """
    models = models_folder(models or None)
    found = [Run.load(name, models) for name in names] or list_runs(models)
    if not found:
        raise InputError(f"{models}: no complete runs to evaluate; `mura train cnn` makes one.")
    for name, count in Counter(run.name for run in found).items():
        if count > 1:
            raise InputError(f"{name}: {count} runs of this name; rename them, or name one alone.")
    folder = data_root(root or None)
    manifest = read_manifest(folder) if folder.is_dir() else None
    runs, studies, tune, left_out = judged(found, split)
    for name, reason in of_other_data(list(runs.values()), folder, manifest).items():
        left_out[name] = reason
        del runs[name], studies[name], tune[name]
    if not runs:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise InputError(f"{models}: no run that can be evaluated on {folder}: {reasons}")
    chosen = standing_for_all(studies, tune)
    paths = {name: set(run.predictions["path"]) for name, run in runs.items()}
    peers = [name for name in runs if paths[name] == paths[chosen]]
    members = _ensembles(runs, tune, peers)
    for name, weights in members.items():
        for tables in (studies, tune):
            tables[name] = evaluation.ensemble(
                {peer: tables[peer] for peer in weights}, weights=weights
            )
    for file in map(as_named, csv_files):
        names = (file.stem, file.name, f"{file.parent.name}/{file.name}", str(file))
        name = next((name for name in names if name not in studies), None)
        if name is None:
            raise InputError(f"{file}: named twice among the CSV files; leave one out.")
        predictions = evaluation.read_predictions(file, manifest)
        studies[name] = reports.csv_studies(predictions, split, manifest, str(file))
    at_hand = folder if manifest is not None else None
    return Comparison(at_hand, runs, studies, tune, chosen, members, left_out)


def results(comparison: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    """Return kappa and AUROC beside what each model is and cost, the highest kappa first.

    Args:
        comparison: As ``compare`` returns it.
        table: As ``reports.leaderboard`` returns it.
    """
    chosen = table[table["metric"].isin(["kappa", "auroc"])]
    overall = chosen[(chosen["group"] == "all") & (chosen["metric"] == "kappa")]
    order = overall.sort_values("value", ascending=False, kind="stable")["model"]
    facts = reports.run_facts(list(comparison.runs.values())).drop(columns="data")
    for name in ("image_size", "fit_images", "epochs"):
        facts[name] = [f"{count:,}" for count in facts[name]]
    facts["parameters"] = [f"{count / 1e6:.2f} M" for count in facts["parameters"]]
    facts["seconds"] = [f"{seconds:,.0f}" for seconds in facts["seconds"]]
    facts["images_per_second"] = [f"{speed:.3g}" for speed in facts["images_per_second"]]
    wide = reports.formatted(chosen).merge(facts, on="model", how="left")
    wide = wide.set_index("model").loc[order].astype(object).fillna(MISSING)
    return wide.rename(columns=lambda name: name.replace("_", " ")).rename_axis(None)


def blocks(comparison: Comparison, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a table with models as rows by the studies that they were measured on.

    Returns:
        A title that says which studies to their rows, the most studies first, as
        ``plots.kappa_heatmap`` takes them.
    """
    measured: dict[frozenset, list[str]] = {}
    for name in table.index:
        measured.setdefault(frozenset(comparison.studies[name]["study"]), []).append(name)
    titled: dict[str, pd.DataFrame] = {}
    for studies, names in sorted(measured.items(), key=lambda pair: len(pair[0]), reverse=True):
        title = f"here: {comparison.data}, validation ({len(studies):,} studies)"
        while title in titled:  # as many, but others
            title += ", others"
        titled[title] = table.loc[names]
    return titled


def block_note(comparison: Comparison) -> str:
    """Return whether the blocks of ``blocks`` and of the published results rank each other.

    Only MURA's validation set, whole, is what others measured on, too.
    """
    if not _is_official_validation(comparison):
        return "Blocks were measured on different studies: they do not rank each other."
    studies = len(comparison.studies[comparison.chosen])
    return (
        f"The block of the {VALID} is of the same {studies:,} studies as the chosen run;\n"
        "the other published blocks are not, and do not rank with them."
    )


def differences(
    studies: dict[str, pd.DataFrame], reference: str, **settings: object
) -> pd.DataFrame:
    """Return each model minus the reference, on the studies that both predicted.

    Args:
        studies: Model name to studies; models may have predicted different ones.
        reference: A name among them.
        settings: As ``evaluation.paired_differences`` takes them.

    Returns:
        Its columns, Holm's adjustment over all rows of a metric and group; no rows where no other
        model shares studies of both labels with the reference.
    """
    shared: dict[frozenset, list[str]] = {}
    for name, table in studies.items():
        common = frozenset(table["study"]) & frozenset(studies[reference]["study"])
        if name != reference and common:
            shared.setdefault(common, []).append(name)
    tables = []
    for common, names in shared.items():
        those = {
            name: studies[name][studies[name]["study"].isin(common)] for name in [reference, *names]
        }
        if those[reference]["label"].nunique() == 2:
            tables.append(evaluation.paired_differences(those, reference, **settings))
    if not tables:
        return pd.DataFrame(columns=["model", "reference", "group", "metric", "difference"])
    joined = pd.concat(tables, ignore_index=True)
    joined["p_holm"] = joined.groupby(["group", "metric"])["p"].transform(
        lambda p: evaluation.holm(p.to_numpy())
    )
    order = {name: index for index, name in enumerate(studies)}
    return joined.sort_values("model", key=lambda m: m.map(order), kind="stable", ignore_index=True)


def choices(
    run: Run, split: str = "valid", disputed: str | Path | None = None
) -> dict[str, pd.DataFrame]:
    """Return one run's studies with its views pooled otherwise, and without disputed labels.

    Args:
        run: The run.
        split: Which split's studies.
        disputed: A list of studies whose labels are doubted (``evaluation.read_study_list``);
            it may name others as well, such as train's.

    Raises:
        PredictionsError: The list names none of the run's studies, or all of them.
    """
    pooled = {
        f"{method.replace('_', ' ')} of views": reports.run_studies(run, split, method)
        for method in evaluation.AGGREGATIONS
    }
    if disputed:
        mean = reports.run_studies(run, split)
        named = set(evaluation.read_study_list(as_named(disputed)))
        here = named & set(mean["study"])
        if not here:
            raise evaluation.PredictionsError(
                f"{disputed}: none of its {len(named):,} studies is among the {len(mean):,} that "
                f"{run.name} predicted; give study paths as the predictions have them."
            )
        pooled[f"mean, {len(here)} disputed left out"] = evaluation.exclude_studies(mean, here)
    return pooled


def _is_official_validation(comparison: Comparison) -> bool:
    """Whether the chosen run predicted MURA's validation studies, as many of each kind."""
    studies = comparison.studies[comparison.chosen]
    kinds = studies[["body_part", "label"]].astype({"body_part": str})
    found = kinds.value_counts().to_dict()
    expected = {
        (part, label): count
        for part, counts in STUDY_COUNTS["valid"].items()
        for label, count in enumerate(counts)
    }
    whole = found == expected and set(studies["split"]) == {"valid"}
    return whole and comparison.data == "MURA-v1.1"


def _ensembles(
    runs: dict[str, Run], tune: dict[str, pd.DataFrame], peers: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the paper's ensemble and a greedy one, of runs with the same images."""
    if len(peers) < 2:
        return {}
    best = evaluation.five_best({name: _log_loss(runs[name]) for name in peers})
    label = "five best" if len(peers) > len(best) else f"all {len(best)}"
    greedy = evaluation.greedy_selection({name: tune[name] for name in peers})
    return {
        f"ensemble, {label}": dict.fromkeys(best, 1.0),
        "ensemble, greedy": {name: float(count) for name, count in greedy.items()},
    }


def _log_loss(run: Run) -> float:
    """Return the cross-entropy of abnormal on the tune part: it compares runs of any head."""
    tune = reports.labelled(run.predictions).query("split == 'tune'")
    probability = from_logit(to_logit(tune["probability"].to_numpy()))
    abnormal = tune["label"].to_numpy() == 1
    return float(-np.log(np.where(abnormal, probability, 1 - probability)).mean())
