"""Compare models: runs, their ensembles, and external predictions from CSV files."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mura.data import ManifestError, data_name, data_root
from mura.data import read as read_manifest
from mura.data.sources.mura import read_truth
from mura.evaluation import reports
from mura.evaluation.bootstrap import Studies
from mura.evaluation.ensembles import ensemble, greedy_selection
from mura.evaluation.metrics import metric_values
from mura.evaluation.predictions import from_logit, to_logit
from mura.evaluation.published import VALID
from mura.evaluation.reading import read_predictions
from mura.evaluation.repeats import runs_alone, together
from mura.evaluation.subgroups import phantom_facts, study_facts
from mura.files import InputError, as_named
from mura.phantom.counts import STUDY_COUNTS
from mura.runs import Run, list_references, list_runs, models_folder


@dataclass(frozen=True)
class Comparison:
    """Models of one data set, evaluated on its validation studies.

    Attributes:
        root: The data folder; None where it is missing, so that no image can be shown.
        studies: Model name to validation studies: runs, ensembles, CSV files.
        tune: Run or ensemble name to studies of the tune part, on which choices are made.
        chosen: The reference run: the highest AUROC on tune of those that predicted the most.
        members: Ensemble name to run name to weight.
        left_out: Run name to why it is not compared.
        repeated: Further seeds and folds of runs, which ``sets`` and ``repeat_table`` take.
        sets: Title of seeds or folds taken as one (``together``) to the names of their runs.
    """

    root: Path | None
    runs: dict[str, Run]
    studies: Studies
    tune: Studies
    chosen: str
    members: dict[str, dict[str, float]]
    left_out: dict[str, str]
    repeated: dict[str, Run] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)

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

    @property
    def note(self) -> str:
        """What every table of these results has to say about the data; mostly nothing."""
        return self.runs[self.chosen].environment["data"].get("note", "")

    def facts(self) -> pd.DataFrame | None:
        """Return what the data say of each study, for ``subgroup_tables``; None without them."""
        if self.root is None:
            return None
        truth = read_truth(self.root)
        return study_facts(read_manifest(self.root)) if truth is None else phantom_facts(truth)


def compare(
    models: str | Path | None = None,
    root: str | Path | None = None,
    names: Sequence[str] = (),
    csv_files: Sequence[str | Path] = (),
) -> Comparison:
    """Collect everything that can be compared with the complete runs of a folder.

    Args:
        models: The folder of the runs; the checkout's ``models/`` when None or "".
        root: The data folder; as ``data.data_root`` when None or "". Runs of other data are left
            out; without such a folder, those of other data than the last finished run.
        names: Runs to take; all complete ones, and the data's reference runs, when empty: of
            seeds and folds the first, and all of them as one model.
        csv_files: External predictions (see ``evaluation.read_predictions``).

    Raises:
        InputError: There is no complete run, or none of this data; a CSV file is damaged, has no
            validation studies, or lacks images of a study that it lists.
    """
    models, folder = models_folder(models or None), data_root(root or None)
    found = [Run.load(name, models) for name in names]
    found = found or [*list_runs(models), *list_references(data_name(folder))]
    for name, count in Counter(run.name for run in found).items():
        if count > 1:
            raise InputError(f"{name}: {count} runs of this name; rename them, or name one alone.")
    runs, studies, tune, left_out = _evaluated(found, models)
    manifest = read_manifest(folder) if folder.exists() else None
    other = _of_other_data(runs, folder, manifest)
    left_out |= other
    for of in (runs, studies, tune):
        for name in other:
            del of[name]
    if not runs:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise InputError(f"{models}: no run that can be evaluated on {folder}: {reasons}")
    sets, repeated = together(runs), {}
    for title, (repeats, joined) in sets.items():
        studies[title] = joined
        for name in [] if names else set(repeats[1:]) & set(runs):
            repeated[name] = runs.pop(name)
            del studies[name], tune[name]
    chosen = _reference({name: studies[name] for name in runs}, tune)
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
        studies[name] = reports.csv_studies(predictions, manifest, str(file))
    present = folder if manifest is not None else None
    sets = {title: repeats for title, (repeats, _) in sets.items()}
    return Comparison(present, runs, studies, tune, chosen, members, left_out, repeated, sets)


def best_run(models: str | Path | None = None, root: str | Path | None = None) -> Run:
    """Return the reference run, as ``compare(models, root).chosen``, even if the data are damaged.

    Without a run of these data, the choice is among the runs of the last finished run's data.

    Raises:
        InputError: There is no complete run that can be read.
    """
    runs, studies, tune, _ = _evaluated(list_runs(models or None), models_folder(models or None))
    folder, manifest = data_root(root or None), None
    with contextlib.suppress(FileNotFoundError, ManifestError):
        manifest = read_manifest(folder)
    other = _of_other_data(runs, folder, manifest)
    if len(other) == len(runs):
        other = _of_other_data(runs, None, None)
    return runs[_reference({name: studies[name] for name in runs if name not in other}, tune)]


def _evaluated(found: Sequence[Run], models: Path) -> tuple[dict, Studies, Studies, dict]:
    """Return the usable runs, their valid and tune studies, and why others are left out."""
    if not found:
        raise InputError(f"{models}: no complete runs yet; `mura train cnn` makes one.")
    runs, studies, tune, left_out = {}, {}, {}, {}
    for run in found:
        try:
            both = reports.run_studies(run), reports.run_studies(run, "tune")
            reports.run_facts([run])  # raises where the facts are damaged
            runs[run.name], (studies[run.name], tune[run.name]) = run, both
        except InputError as error:  # a damaged run does not stop the others
            left_out[run.name] = f"cannot be evaluated: {error}"
    if not runs:
        raise InputError(f"{models}: {'; '.join(left_out.values())}")
    return runs, studies, tune, left_out


def _of_other_data(
    runs: Mapping[str, Run], root: Path | None, manifest: pd.DataFrame | None
) -> dict[str, str]:
    """Return run name to why it is not of the data of ``root``, or else of the last run's."""
    if root is not None and root.exists():
        here = data_name(root)
    else:
        last = max(runs.values(), key=lambda run: run.environment.get("finished") or "")
        here = last.environment["data"]["name"]
    left_out = {}
    for name, run in runs.items():
        data = run.environment["data"]["name"]
        if data != here:
            left_out[name] = f"was made on {data}, not {here}"
        elif manifest is not None:
            listed = run.predictions.set_index("path")["label"]
            labels = manifest.set_index("path")["label"].reindex(listed.index)
            if unknown := int((~listed.index.isin(manifest["path"])).sum()):
                left_out[name] = f"predicted {unknown:,} images that this {here} does not list"
            elif not listed.equals(labels):
                left_out[name] = f"was made on a {here} with other labels"
    return left_out


def _reference(studies: Studies, tune: Studies) -> str:
    """Return the run with the highest AUROC on tune, of those that predicted the most studies."""
    most = max(map(len, studies.values()))
    areas = {
        name: metric_values(tune[name]["label"], tune[name]["probability"])["auroc"]
        for name, table in studies.items()
        if len(table) == most
    }
    return max(areas, key=lambda name: np.nan_to_num(areas[name], nan=-np.inf))


def _ensembles(runs: Mapping[str, Run], tune: Studies, chosen: str) -> dict[str, dict[str, float]]:
    """Return the paper's ensemble, the five lowest losses on tune, and a greedy one."""
    paths = {name: set(run.predictions["path"]) for name, run in runs.items()}
    peers = [name for name in runs if paths[name] == paths[chosen]]  # of the same images
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


def results(compared: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    """Return kappa and AUROC beside what each model is and cost, the highest kappa first.

    ``table`` is what ``model_table`` returns. Where there are sets of seeds or folds, a column
    tells what their runs reach alone: the mean AUROC, the lowest and the highest.
    """
    chosen = table[table["metric"].isin(["kappa", "auroc"])]
    overall = chosen[(chosen["group"] == "all") & (chosen["metric"] == "kappa")]
    order = overall.sort_values("value", ascending=False, kind="stable")["model"]
    facts = reports.run_facts(list(compared.runs.values())).drop(columns="data")
    forms = dict.fromkeys(("image_size", "parameters", "fit_images", "epochs"), "{:,}")
    forms |= {"seconds": "{:,.0f}", "images_per_second": "{:.3g}"}
    facts = facts.assign(**{name: facts[name].map(form.format) for name, form in forms.items()})
    wide = reports.formatted(chosen).merge(facts, on="model", how="left")
    if compared.sets:
        repeated = {name for names in compared.sets.values() for name in names}
        every = compared.runs | compared.repeated
        alone = runs_alone({name: run for name, run in every.items() if name in repeated})
        wide.insert(4, "runs alone (AUROC)", wide["model"].map(alone))
    wide = wide.set_index("model").loc[order].astype(object).fillna("–")
    return wide.rename(columns=lambda name: name.replace("_", " ")).rename_axis(None)


def blocks(compared: Comparison, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a table with models as rows by the studies that they were measured on.

    Returns titles to rows, the most studies first, as ``plots.kappa_heatmap`` takes them.
    """
    measured: dict[frozenset, list[str]] = {}
    for name in table.index:
        measured.setdefault(frozenset(compared.studies[name]["study"]), []).append(name)
    titled: dict[str, pd.DataFrame] = {}
    for studies, names in sorted(measured.items(), key=lambda pair: len(pair[0]), reverse=True):
        title = f"here: {compared.data}, validation ({len(studies):,} studies)"
        while title in titled:  # as many, but others
            title += ", others"
        titled[title] = table.loc[names]
    return titled


def block_note(compared: Comparison) -> str:
    """Return whether the blocks of ``blocks`` and the published ones can be ranked together.

    They can where the chosen run predicted as many studies of each kind as MURA's validation set.
    """
    studies = compared.studies[compared.chosen]
    found = studies.astype({"body_part": str})[["split", "body_part", "label"]].value_counts()
    expected = {
        ("valid", part, label): count
        for part, counts in STUDY_COUNTS["valid"].items()
        for label, count in enumerate(counts)
    }
    if compared.data != "MURA-v1.1" or found.to_dict() != expected:
        return "Blocks were measured on different studies: they do not rank each other."
    return (
        f"The block of the {VALID} is of the same {len(studies):,} studies as the chosen run;\n"
        "the other published blocks are not, and do not rank with them."
    )
