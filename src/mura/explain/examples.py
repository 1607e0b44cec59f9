"""The cases to look at: an example, confident errors, and what models disagree about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mura import evaluation
from mura.data.folders import data_name
from mura.data.manifest import data_root, image_files
from mura.evaluation.candidates import best_run
from mura.explain.cam import View, look
from mura.files import InputError, as_named
from mura.predict import study_images
from mura.runs import Run, list_runs

FINDINGS = ("normal", "abnormal")


@dataclass(frozen=True)
class Case:
    """One study, or one image alone.

    Attributes:
        files: Its images.
        label: 0 normal, 1 abnormal, None where it is not known.
        data: The data set's name (``datasets.data_name``), "own" of what was named by its path.
    """

    files: list[Path]
    label: int | None
    data: str


def choose_run(
    name: str | Path = "", models: str | Path | None = None, root: str | Path | None = None
) -> Run:
    """Return a run by name or folder; without a name the one that stands for all.

    That is, of those that were made on this data and predicted the most, the one with the highest
    AUROC on its tune patients (``candidates.best_run``).

    Args:
        name: A run's name or folder; "": the one that stands for all.
        models: The folder of the runs; the checkout's ``models/`` when None or "".
        root: The data folder; as ``manifest.data_root`` when None or "".

    Raises:
        InputError: There is no such run, or none at all.
    """
    return Run.load(name, models or None) if name else best_run(models, root)


def open_case(path: str | Path, run: Run, root: str | Path | None = None, seed: int = 0) -> Case:
    """Return an image file or a study folder as a case; without a path an example.

    Args:
        path: An image, or the folder of one study (``files.as_named``); "": an abnormal
            validation study of several views, drawn at random.
        run: The run whose validation studies the example comes from.
        root: Their data folder; as ``manifest.data_root`` when None or "".
        seed: Of the draw.

    Raises:
        InputError: The folder holds no image, or the example's files are not here.
    """
    if path:
        path = as_named(path)
        return Case(study_images(path) if path.is_dir() else [path], None, "own")
    valid = run.predictions[run.predictions["split"] == "valid"]
    several = valid[valid.groupby("study")["path"].transform("size") > 1]
    pool = several[several["label"] == 1]
    pool = next((rows for rows in (pool, several, valid) if len(rows)), None)
    if pool is None:
        raise InputError(
            f"{run.name}: predicted no validation study to show; name an image or a study's folder."
        )
    study = pool["study"].sample(1, random_state=seed).iloc[0]
    rows = valid[valid["study"] == study]
    root = data_root(root or None)
    files = image_files(root, rows["path"])
    if not files[0].is_file():
        raise InputError(
            f"{files[0]}: not here; name an image or a study's folder, or the data folder that "
            f"{run.name} was trained on."
        )
    label = rows["label"].iloc[0]
    return Case(files, None if pd.isna(label) else int(label), data_name(root))


def confident_errors(
    run: Run,
    studies: pd.DataFrame,
    root: str | Path,
    count: int = 8,
    threshold: float = 0.5,
) -> tuple[list[View], list[str]]:
    """Return the wrongly called studies farthest from the threshold, the worst first.

    Args:
        run: The run that made the predictions.
        studies: Its studies (``reports.run_studies``).
        root: Its data folder.
        count: Studies at most.
        threshold: Studies with a probability above it are called abnormal.

    Returns:
        Of each study the view that speaks loudest for the wrong answer, and captions with the
        study's truth, answer and probability, for ``plots.view_grid``.
    """
    errors = evaluation.confident_errors(studies, count, threshold)
    called = (errors["probability"] > threshold).to_numpy()
    rows = pd.concat(
        [
            _view(run.predictions, study, loudest=abnormal)
            for study, abnormal in zip(errors["study"], called, strict=True)
        ]
        or [run.predictions.head(0)]
    )
    captions = [
        f"✗ {_part(row.body_part)}, {FINDINGS[row.label]},\n"
        f"called {FINDINGS[1 - row.label]} ({row.probability:.2f})"
        for row in errors.itertuples()
    ]
    return look(run, root, rows), captions


def disagreements(
    runs: Mapping[str, Run],
    studies: Mapping[str, pd.DataFrame],
    root: str | Path,
    count: int = 4,
) -> tuple[list[View], list[str]]:
    """Return the studies on which runs disagree most, twice each.

    Args:
        runs: Run name to run, at least two that predicted the same studies.
        studies: Run name to its studies.
        root: Their data folder.
        count: Studies at most.

    Returns:
        First, for each study, the view that divides the two farthest runs most, with the map of
        the run that says abnormal; then the same views with the map of the one that says normal;
        and captions, for ``plots.view_grid(..., columns=count)``.
    """
    widest = evaluation.disagreements({name: studies[name] for name in runs}, count)
    views: dict[int, View] = {}
    captions: dict[int, str] = {}
    places: dict[str, list[tuple[int, str]]] = {}
    for place, (_, row) in enumerate(widest.iterrows()):
        order = row[list(runs)].astype(float).sort_values()
        for run, index in ((order.index[-1], place), (order.index[0], place + len(widest))):
            path = _dividing_view(runs[order.index[-1]], runs[order.index[0]], row["study"])
            places.setdefault(run, []).append((index, path))
            captions[index] = f"{_part(row['body_part'])}, {FINDINGS[row['label']]}:\n" + (
                f"{run} {row[run]:.2f}"
            )
    for run, wanted in places.items():  # each model is loaded once
        table = runs[run].predictions.set_index("path", drop=False)
        rows = table.loc[[path for _, path in wanted]]
        for (index, _), view in zip(wanted, look(runs[run], root, rows), strict=True):
            views[index] = view
    return [views[i] for i in range(len(views))], [captions[i] for i in range(len(captions))]


def right_calls(
    run: Run, root: str | Path, count: int = 8, threshold: float = 0.5, seed: int = 0
) -> tuple[list[View], list[str]]:
    """Return validation images that were rightly called abnormal, drawn at random.

    Args:
        run: The run that made the predictions.
        root: Its data folder.
        count: Images at most, of different studies.
        threshold: Images with a probability above it are called abnormal.
        seed: Of the draw.

    Returns:
        The views, and captions with body part and probability, for ``plots.view_grid``.
    """
    rows = run.predictions.query("split == 'valid' and label == 1 and probability > @threshold")
    rows = rows.sample(frac=1, random_state=seed).drop_duplicates("study").head(count)
    captions = [
        f"{_part(row.body_part)}: abnormal ({row.probability:.2f})" for row in rows.itertuples()
    ]
    return look(run, root, rows), captions


def trained(names: Iterable[str], like: Run, models: str | Path | None = None) -> list[Run]:
    """Return the complete runs of these names that were made on the data of another run.

    Args:
        names: Of runs, where there are any.
        like: The other run.
        models: The folder of the runs; the checkout's ``models/`` when None or "".
    """
    wanted, data = set(names), like.environment["data"]["name"]
    found = [run for run in list_runs(models or None) if run.name in wanted]
    return [run for run in found if run.environment["data"]["name"] == data]


def _view(predictions: pd.DataFrame, study: str, loudest: bool) -> pd.DataFrame:
    """Return the study's view with the highest probability, or the lowest."""
    views = predictions[predictions["study"] == study].sort_values("probability", kind="stable")
    return views.tail(1) if loudest else views.head(1)


def _dividing_view(one: Run, other: Run, study: str) -> str:
    views = one.predictions[one.predictions["study"] == study].set_index("path")["probability"]
    return str((views - other.predictions.set_index("path")["probability"][views.index]).idxmax())


def _part(body_part: str) -> str:
    return str(body_part).removeprefix("XR_").capitalize()
