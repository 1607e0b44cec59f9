"""Write a phantom to disk: MURA-v1.1's folders and CSV files, and a truth table beside them."""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mura.files import InputError, only_one, permit, read_json, write_json
from mura.parallel import available_cores
from mura.phantom.findings import FINDINGS, HIDDEN_VIEWS, VARIANTS
from mura.phantom.plan import StudyPlan, plan_studies
from mura.phantom.rendering import render

# 169 validation studies: enough for an interval that says something, drawn in a minute or two.
DEFAULT_SCALE = 0.14
# Part of what makes two phantoms the same: raise it when drawing changes a byte.
VERSION = 5
NAME = "MURA-v1.1"

RGB_ENCODED = 0.04  # share of images that are gray in three channels, as some of MURA's
_PROJECTIONS = ("frontal", "lateral", "oblique")
_TRUTH = (
    *("path", "finding", "variant", "visible", "x0", "y0", "x1", "y1"),
    *("inverted", "projection"),
)


class PhantomError(InputError):
    """A phantom cannot be drawn there."""


def generate(
    root: str | Path,
    scale: float = DEFAULT_SCALE,
    seed: int = 0,
    jobs: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw a phantom, unless the same one stands there already.

    Args:
        root: The folder to write, e.g. ``data/phantom``: ``root/MURA-v1.1/`` is the data set,
            ``root/truth.csv`` has each image's finding and its box in pixels.
        scale: Share of MURA's studies; 1 gives the published counts exactly.
        seed: The same seed and scale give the same bytes, whatever the number of processes.
        jobs: Processes; all available cores when None.
        progress: Whether to show a progress bar.

    Returns:
        The data folder, ``root/MURA-v1.1``.

    Raises:
        PhantomError: The scale, the seed or the number of processes is impossible, another data
            set stands there, or the system killed a process that drew.
    """
    if not 0 < scale <= 1:
        raise PhantomError(f"scale {scale}: must be above 0 and at most 1, all of MURA's studies.")
    if seed < 0:
        raise PhantomError(f"seed {seed}: must be a whole number, 0 or more.")
    if jobs is not None and jobs < 1:
        raise PhantomError(f"jobs {jobs}: at least one process is needed.")
    named, root = Path(root), Path(root).resolve()  # a linked folder is drawn where it is
    if os.path.ismount(root):  # Path has none on Windows before Python 3.12
        raise PhantomError(f"{named}: a disk is mounted there; name a new folder on it.")
    facts = {"scale": float(scale), "seed": int(seed), "version": VERSION}
    if _stands(root, facts):
        return named / NAME
    root.parent.mkdir(parents=True, exist_ok=True)
    with only_one(root.parent / f".{root.name}.lock", f"{root}: another process is drawing it"):
        if not _stands(root, facts):
            _draw(root, facts, jobs, progress)
    return named / NAME


def is_current(root: str | Path) -> bool:
    """Whether a phantom was drawn as this version draws, at whatever scale and seed."""
    file = Path(root) / "phantom.json"
    facts = read_json(file) if file.is_file() else None
    return isinstance(facts, dict) and facts.get("version") == VERSION


def _stands(root: Path, facts: dict[str, Any]) -> bool:
    """Whether the phantom of these facts is there; raise where something else is."""
    if not root.exists() or not any(root.iterdir()):
        return False
    found = read_json(root / "phantom.json") if (root / "phantom.json").is_file() else None
    if found == facts:
        if (root / NAME).is_dir():
            return True
        raise PhantomError(f"{root}: its {NAME} is gone; delete the folder to have it drawn anew.")
    was = f"the phantom {found}" if found else "no phantom of this project"
    raise PhantomError(
        f"{root}: holds {was}; delete the folder to draw {facts}, or choose another --out."
    )


def _draw(root: Path, facts: dict[str, Any], jobs: int | None, progress: bool) -> None:
    drawing = f".{root.name}.drawing-"
    for left in root.parent.iterdir():  # by a process that was killed: nobody else draws now
        if left.name.startswith(drawing):
            shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=drawing))
    try:
        _write(temporary, facts["scale"], facts["seed"], jobs, progress)
        write_json(temporary / "phantom.json", facts)
        permit(temporary, 0o755)  # mkdtemp makes it private
        if root.exists():
            root.rmdir()
        temporary.rename(root)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, BrokenProcessPool):
            fewer = min(2, (jobs or available_cores()) - 1)
            raise PhantomError(
                f"{root}: a process that drew it was killed, probably for want of memory; repeat "
                f"it with fewer: `mura phantom` with `--jobs {fewer}`."
            ) from error
        raise


def _write(folder: Path, scale: float, seed: int, jobs: int | None, progress: bool) -> None:
    studies = plan_studies(scale, seed)
    data = folder / NAME
    data.mkdir()
    tasks = [(data, index, study, seed) for index, study in enumerate(studies)]
    rows: list[list[dict[str, Any]]] = []
    bar = tqdm(
        total=sum(study.views for study in studies),
        desc="drawing the phantom",
        unit="image",
        disable=not progress,
    )
    # closing: when interrupted, all processes have ended before the folder is removed
    with bar, contextlib.closing(_map(draw_study, tasks, jobs)) as studies_drawn:
        for drawn in studies_drawn:
            rows.append(drawn)
            bar.update(len(drawn))
    _write_lists(data, studies)
    with (folder / "truth.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, _TRUTH, lineterminator="\n")
        table.writeheader()
        table.writerows(row for drawn in rows for row in drawn)


def _map(function: Any, tasks: list, jobs: int | None) -> Generator:
    """Map in order, in processes where there is more than one."""
    jobs = jobs or available_cores()
    if jobs == 1 or len(tasks) < 20:  # starting processes would take longer than the drawing
        yield from map(function, tasks)
        return
    # spawn: a process that has TensorFlow loaded must not be forked
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_end_with_parent)
    try:
        with _interrupts_held_back(), _script_hidden():  # this starts the processes
            results = pool.map(function, tasks, chunksize=8)
        yield from results
    finally:  # after an interruption, nothing that has not begun
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end when the one that started it is gone, however that was killed.

    It would else draw on into a folder that the next drawing removes, and then wait for ever:
    every process holds both ends of the pipe that tasks come through, and Ctrl-C is held back.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile; processes started in between never see it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Have new processes not run the caller's script again, of which drawing needs nothing.

    A script that does not ask ``if __name__ == "__main__"`` would draw anew in each of them, and
    wait there for ever for the first to end.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def draw_study(task: tuple[Path, int, StudyPlan, int]) -> list[dict[str, Any]]:
    """Draw one study's views into its folder; return their rows of the truth table."""
    data, index, study, seed = task
    folder = data / study.folder
    folder.mkdir(parents=True)
    random = np.random.default_rng([seed, index])
    finding = str(random.choice(list(FINDINGS), p=list(FINDINGS.values())))
    finding = finding if study.label else "none"
    variant = str(random.choice(list(VARIANTS), p=list(VARIANTS.values())))
    shown = random.uniform(size=study.views) >= HIDDEN_VIEWS
    if not shown.any():
        shown[0] = True  # an abnormal study shows its finding somewhere
    rows = []
    for view in range(study.views):
        projection = _PROJECTIONS[view % 3] if study.views > 1 else "frontal"
        picture = render(
            study.body_part,
            projection,
            finding if shown[view] else "none",
            variant,
            study_seed=(seed, index, 1),
            view_seed=(seed, index, 2, view),
        )
        image = Image.fromarray(picture.image)
        if random.uniform() < RGB_ENCODED:
            image = image.convert("RGB")
        path = f"{study.folder}/image{view + 1}.png"
        # level 1: half the time of the default for noise that hardly compresses anyway
        image.save(data / path, compress_level=1)
        box = picture.box or ("", "", "", "")
        rows.append(
            {
                "path": f"{NAME}/{path}",
                "finding": finding,
                "variant": variant,
                "visible": int(picture.box is not None),
                **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
                "inverted": int(picture.inverted),
                "projection": projection,
            }
        )
    return rows


def _write_lists(data: Path, studies: list[StudyPlan]) -> None:
    """Write the four CSV files as MURA has them: no header, LF, paths from the folder's name."""
    for split in ("train", "valid"):
        chosen = [study for study in studies if study.split == split]
        images = [
            f"{NAME}/{study.folder}/image{view + 1}.png\n"
            for study in chosen
            for view in range(study.views)
        ]
        labels = [f"{NAME}/{study.folder}/,{study.label}\n" for study in chosen]
        for name, lines in (("image_paths", images), ("labeled_studies", labels)):
            with (data / f"{split}_{name}.csv").open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
