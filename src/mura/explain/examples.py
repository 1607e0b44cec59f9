"""Cases to look at: an example, confident errors, and what models disagree about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mura.data import data_name, data_root, image_files, study_images
from mura.data.image_checks import read_noted
from mura.data.images import left_out
from mura.evaluation import best_run
from mura.explain.cam import View, look
from mura.files import InputError, as_named
from mura.runs import Run, list_runs

FINDINGS = ("normal", "abnormal")


@dataclass(frozen=True)
class Case:
    """One study, or one image alone."""

    files: list[Path]
    label: int | None  # 0 normal, 1 abnormal, None where it is not known
    data: str  # the data set's name, "own" of what was named by its path


def choose_run(
    name: str | Path = "", models: str | Path | None = None, root: str | Path | None = None
) -> Run:
    """Return a run by name or folder; without a name ``evaluation.best_run(models, root)``.

    Raises:
        InputError: There is no such run, or none at all.
    """
    return Run.load(name, models or None) if name else best_run(models, root)


def open_case(path: str | Path, run: Run, root: str | Path | None = None, seed: int = 0) -> Case:
    """Return an image file or a study's folder as a case; without a path an example.

    The example is an abnormal study with several views, drawn at random from the run's validation
    studies in the data folder ``root`` (as ``data.data_root`` when None or "").

    Raises:
        InputError: The folder holds no image, an image is blank or cannot be read, or the
            example's files are missing.
    """
    if path:
        path = as_named(path)
        files = study_images(path) if path.is_dir() else [path]
        for file in files:
            if note := read_noted(file)[1]:
                print(f"{file.name}: {note}")
        if path.is_dir() and (left := left_out(path)):
            print(f"left out: {', '.join(left)}")
        return Case(files, None, "own")
    valid = run.predictions[run.predictions["split"] == "valid"]
    if valid.empty:
        raise InputError(
            f"{run.name}: predicted no validation study to show; name an image or a study's folder."
        )
    several = valid[valid.groupby("study")["path"].transform("size") > 1]
    pools = several[several["label"] == 1], several, valid
    pool = next(rows for rows in pools if len(rows))
    study = pool["study"].sample(1, random_state=seed).iloc[0]
    rows, root = valid[valid["study"] == study], data_root(root or None)
    files = image_files(root, rows["path"]) if root.exists() else [root]
    if not files[0].is_file():
        raise InputError(
            f"{files[0]}: not here; name an image or a study's folder, or the data folder that "
            f"{run.name} was trained on."
        )
    label = rows["label"].iloc[0]
    return Case(files, None if pd.isna(label) else int(label), data_name(root))


def confident_errors(
    run: Run, studies: pd.DataFrame, root: str | Path, count: int = 8
) -> tuple[list[View], list[str]]:
    """Return the wrongly called studies farthest from 0.5, the worst first, ``count`` at most.

    Args:
        run, studies, root: A run, its studies (``evaluation.run_studies``) and its data folder.

    Returns:
        The view of each study with the most wrong probability, and captions with the study's
        truth, answer and probability, for ``plots.view_grid``.
    """
    wrong = studies[(studies["probability"] > 0.5) != (studies["label"] == 1)]
    distance = (wrong["probability"] - 0.5).abs()
    errors = wrong.loc[distance.sort_values(ascending=False, kind="stable").index[:count]]
    views = run.predictions[run.predictions["study"].isin(errors["study"])]
    error = (views["label"] - views["probability"]).abs().astype(float)
    rows = views.loc[error.groupby(views["study"]).idxmax()[errors["study"]]]
    captions = [
        f"✗ {_part(row.body_part)}, {FINDINGS[row.label]},\n"
        f"called {FINDINGS[1 - row.label]} ({row.probability:.2f})"
        for row in errors.itertuples()
    ]
    return look(run, root, rows), captions


def disagreements(
    runs: Mapping[str, Run], studies: Mapping[str, pd.DataFrame], root: str | Path, count: int = 4
) -> tuple[list[View], list[str]]:
    """Return the studies on which runs disagree most, twice each.

    Args:
        runs, studies: By run name, of at least two runs that predicted the same studies.
        root, count: As for ``confident_errors``.

    Returns:
        For each study the view that divides the two farthest runs most, with the map of the run
        that says abnormal; then the same views with the map of the one that says normal; and
        captions, for ``plots.view_grid(..., columns=count)``.
    """
    answers = pd.DataFrame({name: studies[name].set_index("study")["probability"] for name in runs})
    spread = (answers.max(axis=1) - answers.min(axis=1)).sort_values(ascending=False, kind="stable")
    answers = answers.loc[spread.index[:count]]
    high, low = answers.idxmax(axis=1), answers.idxmin(axis=1)
    tables = {name: run.predictions.set_index("path", drop=False) for name, run in runs.items()}
    facts = next(iter(tables.values()))
    views = pd.DataFrame({name: table["probability"] for name, table in tables.items()})
    paths = [
        (views[high[study]] - views[low[study]])[facts["study"] == study].idxmax()
        for study in answers.index
    ]
    rows = facts.loc[paths]
    seen = {name: look(runs[name], root, rows) for name in sorted({*high, *low})}
    plan = [(name, number) for side in (high, low) for number, name in enumerate(side)]
    titles = [f"{_part(row.body_part)}, {FINDINGS[row.label]}:\n" for row in rows.itertuples()]
    captions = [f"{titles[i]}{name} {answers[name].iloc[i]:.2f}" for name, i in plan]
    return [seen[name][number] for name, number in plan], captions


def right_calls(
    run: Run, root: str | Path, count: int = 8, seed: int = 0
) -> tuple[list[View], list[str]]:
    """Return validation images that were correctly called abnormal, drawn at random.

    Returns ``count`` views at most, of different studies, and captions with body part and
    probability, for ``plots.view_grid``.
    """
    rows = run.predictions.query("split == 'valid' and label == 1 and probability > 0.5")
    rows = rows.sample(frac=1, random_state=seed).drop_duplicates("study").head(count)
    captions = [
        f"{_part(row.body_part)}: abnormal ({row.probability:.2f})" for row in rows.itertuples()
    ]
    return look(run, root, rows), captions


def trained(names: Iterable[str], like: Run, models: str | Path | None = None) -> list[Run]:
    """Return those of the named runs that are complete and were made on the data of another run.

    ``models`` is the folder of the runs; the checkout's ``models/`` when None or "".
    """
    wanted, data = set(names), like.environment["data"]["name"]
    found = [run for run in list_runs(models or None) if run.name in wanted]
    return [run for run in found if run.environment["data"]["name"] == data]


def _part(body_part: str) -> str:
    return str(body_part).removeprefix("XR_").capitalize()
