"""Run the cells of a grid on this machine: one process per GPU, or per share of the cores."""

import contextlib
import os
import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path

from mura.files import InputError
from mura.training.grid import Cell, Grid, auroc
from mura.training.start import TrainingError

_GRACE = 30  # seconds that a stopped training has to end by itself


def run_here(grid: Grid, jobs: int | None = None) -> None:
    """Train the cells that are left, and print a line per epoch of each.

    What a cell prints is kept in ``.logs/`` beside the grid's runs. Ctrl-C stops all of them.

    Args:
        grid: The grid.
        jobs: Processes at a time; one per GPU, or one without GPUs, when None.

    Raises:
        TrainingError: Cells failed, whose names and reasons it gives; the others are done.
    """
    gpus = visible_gpus()
    workers = _Workers(grid.left())
    print(f"{grid.folder}: {len(workers.cells)} of {len(grid.cells)} cells to train", flush=True)
    jobs = min(jobs or len(gpus) or 1, max(1, len(workers.cells)))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    threads = []
    for slot in range(jobs):
        share = cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs]
        settings = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        threads.append(threading.Thread(target=workers.work, args=(share, settings)))
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        workers.stop()
    if workers.failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in workers.failed.items())
        raise TrainingError(
            f"{len(workers.failed)} of {len(grid.cells)} cells failed: {reasons}; what they "
            f"printed is in {grid.folder / '.logs'}."
        )


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that trainings may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None and shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        named = subprocess.run(command, capture_output=True, text=True).stdout.replace("\n", ",")
    return [gpu.strip() for gpu in (named or "").split(",") if gpu.strip() not in ("", "-1")]


class _Workers:
    """Threads that take cells from one queue, and the processes that they wait for."""

    def __init__(self, cells: list[Cell]) -> None:
        self.cells, self.failed = cells, {}
        self._left: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        for cell in cells:
            self._left.put(cell)
        self._running: list[subprocess.Popen] = []
        self._stopping, self._lock = False, threading.Lock()

    def work(self, cores: list[int], settings: dict[str, str]) -> None:
        """Train one cell after another on some cores."""
        if cores:
            os.sched_setaffinity(0, cores)  # of this thread, and of what it starts
        with contextlib.suppress(queue.Empty):
            while cell := self._left.get_nowait():
                try:
                    reason = self._train(cell, settings)
                except (InputError, OSError) as error:
                    reason = str(error)
                if self._stopping:
                    return
                if reason:
                    self.failed[cell.name] = reason.removeprefix("mura: ").rstrip(".")
                    print(f"{cell.name}: failed", flush=True)

    def _train(self, cell: Cell, settings: dict[str, str]) -> str:
        """Train a cell; return why it failed, "" if it did not."""
        with self._lock:
            if self._stopping:
                return ""
            process = _started(cell, settings)
            self._running.append(process)
        last = _watched(cell, process)
        if process.wait() == 0 and (run := cell.run()):
            print(f"{cell.name}: done, AUROC {auroc(run) or 'unknown'}", flush=True)
            return ""
        return last or "it printed nothing"

    def stop(self) -> None:
        """End what still runs."""
        with self._lock:
            self._stopping = True
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def _started(cell: Cell, settings: dict[str, str]) -> subprocess.Popen:
    environment = os.environ | settings | {"MURA_PROGRESS": "lines", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        cell.command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _watched(cell: Cell, process: subprocess.Popen) -> str:
    """Keep what a process prints, show a line per epoch, and return the last line."""
    log: Path = cell.folder.parent / ".logs" / f"{cell.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    epoch = last = ""
    with log.open("a", encoding="utf-8") as file:
        for line in process.stdout:
            file.write(line)
            file.flush()
            last = line.strip() or last
            if line.startswith("Epoch "):
                epoch = line.strip().lower()
            elif found := re.match(r"\d+/\d+ - .*?/step - (.*)", line):
                print(f"{cell.name}: {epoch}: {found[1]}", flush=True)
    return last
