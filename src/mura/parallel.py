"""Work through many files on all cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # where Linux lists a container's (cgroup v2)


def available_cores() -> int:
    """Return the number of cores this process may use, a container's share of them rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:  # microseconds of work in so many; "max" where there is no limit
        quota, period = map(int, CPU_QUOTA.read_text(encoding="ascii").split())
        return max(1, min(cores, -(-quota // period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def map_unordered(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    progress: bool = True,
    block: int = 16,
    done: int = 0,
    jobs: int | None = None,
) -> Iterator[list[Result]]:
    """Apply ``work`` to every item on all cores; yield blocks of results as they are finished.

    Threads, not processes: decoding, scaling and hashing release the interpreter's lock, and
    threads neither import TensorFlow anew nor outlive a killed parent. An exception or Ctrl-C
    ends all of them within one item.

    Args:
        work: Called from several threads at once.
        items: What it is called with.
        description: Of the progress bar.
        progress: Whether to show one, counting images.
        block: Items handed to a thread at a time.
        done: Items that were finished before, for the bar.
        jobs: Threads; all cores when None.
    """
    from tqdm.auto import tqdm  # here, so that a cold `mura predict` does not wait for it

    stopped = threading.Event()

    def work_through(start: int) -> list[Result]:
        results = []
        for item in items[start : start + block]:
            if stopped.is_set():
                break
            results.append(work(item))
        return results

    with (
        tqdm(
            desc=description,
            total=len(items) + done,
            initial=done,
            unit="image",
            disable=not progress,
        ) as bar,
        ThreadPoolExecutor(jobs or available_cores()) as pool,
    ):
        try:
            blocks = [pool.submit(work_through, start) for start in range(0, len(items), block)]
            for finished in as_completed(blocks):
                results = finished.result()
                yield results
                bar.update(len(results))
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
