"""Tables of the reference runs in results/, which README and the evaluation notebook show."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mura.evaluation.bootstrap import RESAMPLES
from mura.evaluation.pointing import pointing_table
from mura.evaluation.repeats import runs_alone, together
from mura.evaluation.reports import counted, run_studies, with_interval
from mura.evaluation.tables import model_table, paired_differences
from mura.runs import Run, list_references, results_folder

SHORTCUTS = "shortcuts.csv"  # what ``shortcut_table`` returned where the data were


def rows_of(runs: Mapping[str, Run]) -> dict[str, tuple[list[str], pd.DataFrame]]:
    """Return each network's first run by its architecture, then its seeds and folds together.

    Returns:
        Title to the names of the runs and their validation studies.
    """
    sets = together(runs)
    later = {name for names, _ in sets.values() for name in names[1:]}
    first = {name: run for name, run in runs.items() if name not in later}
    alone = {r.recipe["architecture"]: ([name], run_studies(r)) for name, r in first.items()}
    return alone | sets


def reference_table(
    data: str, results: str | Path | None = None, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Return what the reference runs of a data set reached, as strings with 95 % intervals.

    Args:
        data: The data set's name, "phantom" or "FracAtlas".
        results: The folder of the reference runs; the checkout's ``results/`` when None.
        resamples: Bootstrap draws of the patients.

    Returns:
        Index: the network, "cnn, 5 seeds" (the seeds' ensemble), "cnn, 5 folds" (out of fold).
        Columns: start, px, epochs, minutes (of the first run), studies; kappa and AUROC, or, where
        the data have shortcuts, the AUROC of all studies, within body parts and without marked
        ones; "runs alone" (their mean AUROC, lowest and highest); "pointing game (chance)".
    """
    runs = {run.folder.name: run for run in list_references(data, results)}
    titled = rows_of(runs)
    studies = {title: table for title, (_, table) in titled.items()}
    file = results_folder(data, results) / SHORTCUTS
    reached = _with_shortcuts(pd.read_csv(file)) if file.is_file() else _reached(studies, resamples)
    alone, rows = runs_alone(runs), {}
    for title, (names, table) in titled.items():
        run = runs[names[0]]
        rows[title] = {
            "start": run.environment["weights"],
            "px": str(run.recipe["image_size"]),
            "epochs": str(run.environment["epochs"]),
            "minutes": f"{run.environment['training_seconds'] / 60:.1f}",
            "studies": counted(len(table), table["label"].sum()),
            "runs alone": alone.get(title),
            "pointing game (chance)": _pointing([runs[name] for name in names]),
        }
    facts = pd.DataFrame.from_dict(rows, orient="index")
    table = facts.iloc[:, :5].join(reached, how="outer").join(facts.iloc[:, 5:])
    rows = [*titled, *reached.index.difference(titled)]
    return table.reindex(rows).fillna("").rename_axis("model")


def pretraining_table(
    data: str, results: str | Path | None = None, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Return what a start from photographs is worth: each control beside its reference run.

    A control has the recipe of its reference run, but random weights.

    Returns:
        Index: the network. Columns, as strings: photographs, random (AUROC), difference (of the
        same resampled patients), p, studies.
    """
    references = list_references(data, results)
    rows = {}
    for control in list_references(f"{data}/controls", results):
        alike = [run for run in references if control.recipe == run.recipe | {"weights": None}]
        if not alike:
            continue
        studies = {"photographs": run_studies(alike[0]), "random": run_studies(control)}
        reached = _reached(studies, resamples)["AUROC"]
        [row] = paired_differences(studies, "random", ["auroc"], resamples).itertuples()
        rows[control.recipe["architecture"]] = {
            **reached,
            "difference": with_interval(row.difference, row.low, row.high),
            "p": f"{row.p:.3f}",
            "studies": counted(row.studies, studies["random"]["label"].sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def _reached(studies: Mapping[str, pd.DataFrame], resamples: int) -> pd.DataFrame:
    table = model_table(studies, ["kappa", "auroc"], resamples).query("group == 'all'")
    return _wide(table, "metric").rename(columns={"kappa": "κ", "auroc": "AUROC"})


def _with_shortcuts(table: pd.DataFrame) -> pd.DataFrame:
    return _wide(table, "of").rename(columns={"all": "AUROC, all"})


def _wide(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return tidy rows as model x column, "0.71 [0.65, 0.76]"."""
    cells = [with_interval(*row) for row in table[["value", "low", "high"]].to_numpy(float)]
    wide = table.assign(cell=cells).pivot(index="model", columns=column, values="cell")
    return wide.loc[table["model"].unique(), table[column].unique()].rename_axis(columns=None)


def _pointing(runs: list[Run]) -> str:
    files = [run.folder / "pointing.csv" for run in runs]
    kept = [pd.read_csv(file) for file in files if file.is_file()]
    if not kept:
        return ""
    row = pointing_table(pd.concat(kept)).iloc[0]
    return f"{with_interval(row['accuracy'], row['low'], row['high'])} ({row['chance']:.3f})"
