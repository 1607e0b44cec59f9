"""Side-by-side measurement: every candidate in turn, several times, as medians and ratios.

Machines are shared and noisy. What is compared is therefore measured in interleaved repetitions of
one run, and the ratio is the result; the figures beside it only say what was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mura.training import device as compute

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

GPUS = Path("/proc/driver/nvidia/gpus")  # where Linux lists those of NVIDIA's driver
# by which processors of the same name differ: Linux's flag for each, the best first
INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


def interleaved(
    candidates: Mapping[str, Callable[[], float]], repetitions: int = 3
) -> dict[str, list[float]]:
    """Call every candidate once per repetition, in turn; each returns its own figure."""
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repetitions):
        for name, measure in candidates.items():
            figures[name].append(measure())
    return figures


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a piece of work took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def forget_onednn() -> None:
    """Leave oneDNN to TensorFlow, as without this project: before TensorFlow is imported."""
    os.environ.pop(compute.ONEDNN, None)


def without_onednn() -> dict[str, str]:
    """Return the environment of a process that leaves oneDNN to TensorFlow."""
    return {name: value for name, value in os.environ.items() if name != compute.ONEDNN}


@contextlib.contextmanager
def apart(candidates: Mapping[str, tuple]) -> Iterator[dict[str, Callable[[], float]]]:
    """Keep every candidate in a process of its own, so that no setting of one reaches the others.

    Args:
        candidates: By name, a function that prepares a candidate and returns what measures it,
            and the function's arguments.

    Yields:
        Functions that let a candidate's process measure once, while the others wait.

    Raises:
        RuntimeError: A candidate's process ended; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []

    def receive(name: str) -> float | None:
        try:
            return pipes[name].recv()
        except EOFError:
            raise RuntimeError(f"{name}: the process that measures it ended.") from None

    def measure(name: str) -> float | None:
        pipes[name].send(True)
        return receive(name)

    try:
        for name, (prepare, *arguments) in candidates.items():
            pipes[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(theirs, prepare, arguments)))
            processes[-1].start()
            theirs.close()
        for name in candidates:
            receive(name)  # prepared
        yield {name: lambda name=name: measure(name) for name in candidates}
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join()


def _serve(pipe: Connection, prepare: Callable[..., Callable[[], float]], arguments: list) -> None:
    measure = prepare(*arguments)
    pipe.send(None)
    with contextlib.suppress(EOFError):  # the other end was closed: done
        while pipe.recv():
            pipe.send(measure())


def table(
    title: str,
    unit: str,
    figures: Mapping[str, list[float]],
    reference: str,
    note: str = "",
    *aims: tuple[str, str, float],
) -> dict[str, Any]:
    """Return a result: per candidate the median, the spread and the ratio to the reference.

    The ratio is of medians of this one run, candidate / reference.

    Args:
        title: Above the table.
        unit: Of the figures.
        figures: By candidate, one per repetition.
        reference: The candidate that the ratios are to.
        note: Below the table.
        aims: A candidate, "at least" or "at most", and what its ratio should be; below the table
            stands whether it was.
    """
    base = statistics.median(figures[reference])
    rows = [
        {
            "name": name,
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "count": len(values),
            "ratio": statistics.median(values) / base,
        }
        for name, values in figures.items()
    ]
    by_name = {row["name"]: row for row in rows}
    note = " ".join([note, *(_aim(by_name[name], *aim) for name, *aim in aims)])
    return {"title": title, "unit": unit, "reference": reference, "note": note, "rows": rows}


def judged(row: Mapping[str, Any], bound: str, limit: float) -> str:
    """Say whether a ratio is what it should be, and whether the repetitions leave that open."""
    ends = [row["ratio"] * row[end] / row["median"] for end in ("low", "high")]
    met = [ratio >= limit if bound == "at least" else ratio <= limit for ratio in ends]
    return "met" if all(met) else "within the spread" if any(met) else "**missed**"


def _aim(row: Mapping[str, Any], bound: str, limit: float) -> str:
    said = judged(row, bound, limit)
    return f"Aim of *{row['name']}*: {bound} {limit:g}, here {row['ratio']:.3f}: {said}."


def markdown(result: Mapping[str, Any]) -> str:
    """Return a result as a Markdown table; what was not measured has no rows and a note alone."""
    if not result["rows"]:
        return f"### {result['title']}\n\n{result['note']}\n"
    lines = [
        f"### {result['title']}",
        "",
        f"| | {result['unit']} (median) | spread | x {result['reference']} |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        spread = f"{_figure(row['low'])} to {_figure(row['high'])}"
        spread = "measured once" if row["count"] == 1 else spread
        lines.append(
            f"| {row['name']} | {_figure(row['median'])} | {spread} | {_ratio(row['ratio'])} |"
        )
    return "\n".join([*lines, "", *([result["note"], ""] if result["note"] else [])])


def built(name: str, size: int, precision: str) -> Any:
    """Return a network built in a precision, with random weights."""
    import keras

    from mura.models import architectures

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    model = architectures.build(name, size)
    keras.config.set_dtype_policy(before)
    return model


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    versions = []
    for name in ("tensorflow", "keras", "jax", "torch", "numpy", "ai-edge-litert"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return (
        f"{datetime.date.today().isoformat()}, commit {commit()}, "
        f"{', '.join([processor(), *accelerators()])}, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def commit() -> str:
    """Return the commit that is measured; "-dirty" where code differs from it, figures may."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        folder = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)

    name = git("describe", "--always").stdout.strip()
    code = (":/src", ":/benchmarks/*.py")
    changed = git("diff", "--quiet", "HEAD", "--", *code).returncode
    return f"{name}{'-dirty' if changed else ''}" if name else "unknown"


def processor() -> str:
    """Return the processor's name and instructions, and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = compute.CPUINFO.read_text().splitlines() if compute.CPUINFO.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    found = set(facts.get("flags", "").split())
    best = next((f" ({words})" for flag, words in INSTRUCTIONS.items() if flag in found), "")
    return f"{name}{best}, {cores} cores"


def accelerators() -> list[str]:
    """Return the names of NVIDIA's GPUs; of Linux, so that no backend has to be started.

    WSL 2 does not list them: "NVIDIA GPU" where it has a driver for one.
    """
    found = [
        re.search(r"^Model:\s*(.+?)\s*$", file.read_text(errors="replace"), re.MULTILINE)
        for file in sorted(GPUS.glob("*/information"))
    ]
    names = [model[1] for model in found if model]
    return names or (["NVIDIA GPU"] if compute.WSL_DRIVER.exists() else [])


def report(*results: Mapping[str, Any]) -> None:
    """Print results, and write them where ``--json FILE`` says (for ``run.py``)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options, _ = parser.parse_known_args()
    for result in results:
        print(markdown(result), flush=True)
    if options.json:
        options.json.write_text(json.dumps(list(results)))


def _figure(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
