"""Side-by-side measurement: every candidate in turn, several times, as medians and ratios.

Machines are shared and noisy, so what is compared is measured in interleaved repetitions of one
run, and the ratio is the result.
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
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

CPUINFO = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")  # where Linux lists those of NVIDIA's driver
# by which processors of the same name differ: Linux's flag for each, the best first
INSTRUCTIONS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
OURS = "this project"
_prepared: list[Callable[[], float]] = []  # in a process that measures
Aim = tuple[str, str, float, str]  # a row, "at least" or "at most", a limit; of "ratio" or "median"


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


def process_seconds(command: list[str]) -> Callable[[], float]:
    """Return a function that measures a process, which starts without this project's settings."""
    environment = os.environ.copy()
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)  # mura's setting
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return lambda: seconds(lambda: subprocess.run(command, check=True, env=environment, **quiet))


def plain_model(name: str, size: int) -> Any:
    """Return a network as Keras compiles it by default: float32, its own kernels and AdamW."""
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)  # mura's setting; TensorFlow reads it once
    import keras

    from mura import models

    model = models.build(name, size)
    metrics = [keras.metrics.AUC()]  # as in the recipe
    model.compile(keras.optimizers.AdamW(), "binary_crossentropy", metrics=metrics)
    return model


def project_model(name: str, size: int, profile: str = "quick", **settings: Any) -> Any:
    """Return a network as ``mura train`` compiles it, with augmentation in front."""
    from mura import training
    from mura.training import device, loop

    recipe = training.recipe(name, profile, image_size=size, weights="none", **settings)
    if device.device_kind() == "cpu":
        device.keep_freed_memory()
    trainer = training.compose(training.build(recipe), recipe)
    optimizer = loop._optimizer(recipe, "all", recipe.learning_rate, steps=1000)
    optimizer.build(trainer.trainable_variables)
    trainer.compile(optimizer, loop._loss(recipe), metrics=loop._metrics(recipe))
    return trainer


@contextlib.contextmanager
def apart(candidates: Mapping[str, tuple]) -> Iterator[dict[str, Callable[[], float]]]:
    """Keep every candidate in a process of its own, so that no setting of one reaches the others.

    Args:
        candidates: By name, a function that prepares a candidate and returns what measures it,
            and the function's arguments.

    Yields:
        Functions that let a candidate's process measure once, while the others wait.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {name: stack.enter_context(ProcessPoolExecutor(1, context)) for name in candidates}
        for name, prepared in candidates.items():
            pools[name].submit(_prepare, *prepared).result()
        yield {
            name: lambda pool=pool: pool.submit(_measure).result() for name, pool in pools.items()
        }


def _prepare(prepare: Callable[..., Callable[[], float]], *arguments: Any) -> None:
    _prepared.append(prepare(*arguments))


def _measure() -> float:
    return _prepared[0]()


def table(
    title: str,
    unit: str,
    figures: Mapping[str, list[float]],
    reference: str,
    note: str = "",
    *aims: Aim,
) -> dict[str, Any]:
    """Return a result: per candidate the median, the spread and the ratio to the reference.

    ``figures`` holds a figure per repetition. Below the table stand the note, and for each aim
    whether it was met.
    """
    base = statistics.median(figures[reference])
    rows = {
        name: {
            "name": name,
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "count": len(values),
            "ratio": statistics.median(values) / base,
        }
        for name, values in figures.items()
    }
    note = " ".join([note, *(_judged(rows[name], *aim) for name, *aim in aims)]).strip()
    rows = list(rows.values())
    return {"title": title, "unit": unit, "reference": reference, "note": note, "rows": rows}


def _judged(row: Mapping[str, Any], bound: str, limit: float, of: str) -> str:
    """Say whether a figure is what it should be, and whether the repetitions leave that open."""
    ends = [row[of] * row[end] / row["median"] for end in ("low", "high")]
    met = [end >= limit if bound == "at least" else end <= limit for end in ends]
    said = "met" if all(met) else "within the spread" if any(met) else "**missed**"
    return f"Aim of *{row['name']}*: {of} {bound} {limit:g}, here {shown(row[of])}: {said}."


def markdown(result: Mapping[str, Any]) -> str:
    """Return a result as a Markdown table; what was not measured has no rows and a note alone."""
    lines = [f"### {result['title']}", ""]
    if result["rows"]:
        header = f"| | {result['unit']} (median) | spread | x {result['reference']} |"
        lines += [header, "|---|---|---|---|"]
    for row in result["rows"]:
        spread = "measured once"
        if row["count"] > 1:
            spread = f"{shown(row['low'])} to {shown(row['high'])}"
        figures = f"{shown(row['median'])} | {spread} | {shown(row['ratio'])}"
        lines.append(f"| {row['name']} | {figures} |")
    return "\n".join([*lines, *(["", result["note"]] if result["note"] else []), ""])


def shown(value: float) -> str:
    """Return a figure in three digits, or more if it is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    versions = []
    for name in ("tensorflow", "keras", "jax", "torch", "numpy", "ai-edge-litert"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    files = sorted(GPUS.glob("*/information"))
    model = re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE)
    gpus = [name for file in files for name in model.findall(file.read_text())]
    python = f"Python {platform.python_version()}"
    facts = [datetime.date.today().isoformat(), f"commit {commit()}", processor(), *gpus, python]
    return ", ".join(facts + versions)


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
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    found = set(facts.get("flags", "").split())
    best = next((f" ({words})" for flag, words in INSTRUCTIONS.items() if flag in found), "")
    return f"{name}{best}, {cores} cores"


def report(*results: Mapping[str, Any]) -> None:
    """Print results, and write them where ``--json FILE`` says (for ``run.py``)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options, _ = parser.parse_known_args()
    for result in results:
        print(markdown(result), flush=True)
    if options.json:
        options.json.write_text(json.dumps(list(results)))
