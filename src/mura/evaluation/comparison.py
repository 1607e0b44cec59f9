"""Compare models: runs, their ensembles, and external predictions from CSV files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data import data_root
from mura.data import read as read_manifest
from mura.evaluation import reports
from mura.evaluation.candidates import Studies, evaluated, of_other_data, reference
from mura.evaluation.ensembles import ensemble, greedy_selection
from mura.evaluation.intervals import holm
from mura.evaluation.predictions import (
    AGGREGATIONS,
    PredictionsError,
    exclude_studies,
    from_logit,
    to_logit,
)
from mura.evaluation.published import VALID
from mura.evaluation.reading import read_predictions, read_study_list, read_truth
from mura.evaluation.tables import in_order, paired_differences
from mura.files import InputError, as_named
from mura.phantom.counts import STUDY_COUNTS
from mura.runs import Run, list_runs, models_folder


@dataclass(frozen=True)
class Comparison:
    """Models of one data set, evaluated on the same split.

    Attributes:
        root: The data folder; None where it is missing, so that no image can be shown.
        runs: Run name to run.
        studies: Model name to studies of the evaluated split: runs, ensembles, CSV files.
        tune: Run or ensemble name to studies of the tune part, on which choices are made.
        chosen: The reference run: the highest AUROC on tune of those that predicted the most.
        members: Ensemble name to run name to weight.
        left_out: Run name to why it is not compared.
    """

    root: Path | None
    runs: dict[str, Run]
    studies: Studies
    tune: Studies
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
        return None if self.root is None else read_truth(self.root)


def compare(
    models: str | Path | None = None,
    root: str | Path | None = None,
    names: Sequence[str] = (),
    csv_files: Sequence[str | Path] = (),
) -> Comparison:
    """Collect everything that can be compared with the complete runs of a folder.

    Args:
        models: The folder of the runs; the checkout's ``models/`` when None or "".
        root: The data folder; as ``manifest.data_root`` when None or "". Runs that were made on
            other data are left out; without such a folder, those made on other data than the
            last finished run.
        names: Runs to take; all complete ones when empty.
        csv_files: External predictions (see ``evaluation.read_predictions``).

    Raises:
        InputError: There is no complete run, or none of this data; a CSV file is damaged, has no
            validation studies, or lacks images of a study that it lists.
    """
    models = models_folder(models or None)
    found = [Run.load(name, models) for name in names] or list_runs(models)
    for name, count in Counter(run.name for run in found).items():
        if count > 1:
            raise InputError(f"{name}: {count} runs of this name; rename them, or name one alone.")
    runs, studies, tune, left_out = evaluated(found, models)
    folder = data_root(root or None)
    manifest = read_manifest(folder) if folder.is_dir() else None
    left_out |= (other := of_other_data(runs, folder, manifest))
    runs, studies, tune = (
        {name: of[name] for name in of if name not in other} for of in (runs, studies, tune)
    )
    if not runs:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise InputError(f"{models}: no run that can be evaluated on {folder}: {reasons}")
    chosen = reference(studies, tune)
    members = _ensembles(runs, tune, chosen)
    for name, weights in members.items():
        for tables in (studies, tune):
            tables[name] = ensemble({run: tables[run] for run in weights}, weights)
    for file in map(as_named, csv_files):
        options = (file.stem, file.name, f"{file.parent.name}/{file.name}", str(file))
        name = next((name for name in options if name not in studies), None)
        if name is None:
            raise InputError(f"{file}: named twice among the CSV files; leave one out.")
        predictions = read_predictions(file, manifest)
        studies[name] = reports.csv_studies(predictions, manifest=manifest, name=str(file))
    present = folder if manifest is not None else None
    return Comparison(present, runs, studies, tune, chosen, members, left_out)


def _ensembles(runs: Mapping[str, Run], tune: Studies, chosen: str) -> dict[str, dict[str, float]]:
    """Return the paper's ensemble, the five lowest losses on tune, and a greedy one.

    Their members predicted the same images as the chosen run.
    """
    paths = {name: set(run.predictions["path"]) for name, run in runs.items()}
    peers = [name for name in runs if paths[name] == paths[chosen]]
    if len(peers) < 2:
        return {}
    best = sorted(peers, key=lambda name: _log_loss(runs[name]))[:5]
    label = "five best" if len(peers) > len(best) else f"all {len(best)}"
    greedy = greedy_selection({name: tune[name] for name in peers})
    return {f"ensemble, {label}": dict.fromkeys(best, 1.0), "ensemble, greedy": greedy}


def _log_loss(run: Run) -> float:
    """Return the cross-entropy of abnormal on the tune part: comparable between heads."""
    tune = reports.labelled(run.predictions).query("split == 'tune'")
    probability = from_logit(to_logit(tune["probability"].to_numpy()))
    return float(-np.log(np.where(tune["label"] == 1, probability, 1 - probability)).mean())


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
    formats = {"parameters": "{:,}", "seconds": "{:,.0f}", "images_per_second": "{:.3g}"}
    formats |= dict.fromkeys(("image_size", "fit_images", "epochs"), "{:,}")
    facts = facts.assign(**{name: facts[name].map(form.format) for name, form in formats.items()})
    wide = reports.formatted(chosen).merge(facts, on="model", how="left")
    wide = wide.set_index("model").loc[order].astype(object).fillna("–")
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
    """Return whether the blocks of ``blocks`` and the published ones can be ranked together.

    Others, too, measured on MURA's whole validation set, and on nothing else of it.
    """
    if not _is_official_validation(comparison):
        return "Blocks were measured on different studies: they do not rank each other."
    studies = len(comparison.studies[comparison.chosen])
    return (
        f"The block of the {VALID} is of the same {studies:,} studies as the chosen run;\n"
        "the other published blocks are not, and do not rank with them."
    )


def differences(studies: Studies, base: str, **settings: object) -> pd.DataFrame:
    """Return each model minus the base, on the studies that both predicted.

    Args:
        studies: Model name to studies; models may have predicted different ones.
        base: The model to compare the others with.
        settings: As ``evaluation.paired_differences`` takes them.

    Returns:
        Its columns, Holm's adjustment over all rows of a metric; no rows where no other model
        shares studies of both labels with the base.
    """
    own = studies[base]
    shared: dict[frozenset, list[str]] = {}
    for name, table in studies.items():
        common = frozenset(table["study"]) & frozenset(own["study"])
        if name != base and own[own["study"].isin(common)]["label"].nunique() == 2:
            shared.setdefault(common, []).append(name)
    tables = []
    for common, names in shared.items():
        those = {n: studies[n][studies[n]["study"].isin(common)] for n in (base, *names)}
        tables.append(paired_differences(those, base, **settings))
    if not tables:
        return pd.DataFrame(columns=["model", "reference", "group", "metric", "difference"])
    joined = pd.concat(tables)
    joined["p_holm"] = joined.groupby("metric")["p"].transform(lambda p: holm(p.to_numpy()))
    return in_order(joined, studies)


def choices(run: Run, disputed: str | Path | None = None) -> Studies:
    """Return one run's validation studies, pooled in other ways, and without disputed labels.

    Args:
        run: The run.
        disputed: A list of studies with disputed labels (``evaluation.read_study_list``); it may
            name others as well, such as train's.

    Raises:
        PredictionsError: The list names none of the run's studies, or all of them.
    """
    pooled = {
        f"{method.replace('_', ' ')} of views": reports.run_studies(run, method=method)
        for method in AGGREGATIONS
    }
    if disputed:
        mean = pooled["mean of views"]
        named = set(read_study_list(as_named(disputed)))
        here = named & set(mean["study"])
        if not here:
            raise PredictionsError(
                f"{disputed}: none of its {len(named):,} studies is among the {len(mean):,} that "
                f"{run.name} predicted; give study paths as the predictions have them."
            )
        pooled[f"mean, {len(here)} disputed left out"] = exclude_studies(mean, here)
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
