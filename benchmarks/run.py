"""Run every benchmark and write benchmarks/README.md: `make benchmark`."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import first_step
import input as feeding
import pandas as pd
import prediction
import scale
from measure import OURS, machine, markdown, processor, shown

HERE = Path(__file__).parent
RECORDS = "processors.csv"  # how much faster training is, also on machines of earlier runs
# one script per table; each runs in a process of its own, so that none warms up the next
SCRIPTS = ("input", "training", "first_step", "prediction", "scale", "evaluation", "gpu_training")

# A line that says what was found, and its figures: a title's beginning, a row, and which figure.
FINDINGS = (
    (
        "Training is {} times as fast as Keras's default for DenseNet-121, {} times for ResNet-50, "
        "{} times for VGG-16 and {} times for the custom CNN.",
        *(
            (f"Training {name},", OURS, "ratio")
            for name in ("densenet121", "resnet50", "vgg16", "cnn")
        ),
    ),
    (
        "DenseNet-121 makes its first training step {} s after the start of Python; with Keras's "
        "default that takes {} s.",
        ("A process's first", OURS, "median"),
        ("A process's first", first_step.DEFAULT, "median"),
    ),
    (
        "The pixel cache feeds {} times as many images per second as ImageDataGenerator, {} times "
        "with augmentation on the device.",
        ("Feeding", OURS, "ratio"),
        ("Feeding", feeding.AUGMENTED, "ratio"),
    ),
    (
        "A cold `mura predict` of the custom CNN takes {} of the time that loading the model by "
        "hand takes, and with an exported run {} of it.",
        ("A cold prediction, cnn", prediction.PREDICT, "ratio"),
        ("A cold prediction, cnn", prediction.EXPORTED_RUN, "ratio"),
    ),
    (
        "10,000 bootstrap resamples of ten models take {} s; going through as many pixels as MURA "
        "has takes {} MB of memory.",
        ("Patient bootstrap", OURS, "median"),
        ("Peak memory", scale.WHOLE, "median"),
    ),
)

HEAD = """
Written by `make benchmark`; do not edit. Each table compares this project with what one would do
instead, in interleaved repetitions of one run unless a note says otherwise. The machines are shared
and noisy: **the ratios are the result**, the figures only say what was seen.

Some take longer, so `make benchmark` leaves them out: `precision.py` (do the precision and kernels
of a device change how good a network gets?), `interval_coverage.py` (do the intervals hold the
truth as often as they say?), `coverage.py` (is at most a tenth of a class called the other?),
`novelty.py` (are photographs told from radiographs?), `flip.py` (what does the mirror image add?),
`learnability.py` (can the phantom be learnt, and shuffled labels not?), `ablation.py` (which recipe
for radiographs?) and, with JAX, `scaling.py` (how fast is a training that several devices share?).
"""


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", nargs="*", help=f"of {', '.join(SCRIPTS)}; default: all")
    wanted = parser.parse_args(arguments).script
    if unknown := set(wanted) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    chosen = [name for name in SCRIPTS if name in wanted or not wanted]
    results: dict[str, list[dict[str, Any]]] = {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            print(f"== {name} ({time.perf_counter() - started:.0f} s)", flush=True)
            output = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(output)]
            if subprocess.run(command, check=False).returncode:
                print(f"{name} failed; README.md was left as it was", file=sys.stderr)
                return 1
            results[name] = json.loads(output.read_text())
    everything = [result for of_script in results.values() for result in of_script]
    parts = ["# Benchmarks\n", *(f"- {line}" for line in findings(everything)), HEAD]
    minutes = (time.perf_counter() - started) / 60
    parts.append(f"Measured on {machine()}, in {minutes:.1f} minutes.\n")
    if left_out := [f"`{name}.py`" for name in SCRIPTS if name not in chosen]:
        parts.append(f"Not measured in this run: {', '.join(left_out)}.\n")
    for name, of_script in results.items():
        parts += [f"\n## `{name}.py`\n", *map(markdown, of_script)]
    gains = [result["gain"] for result in everything if "gain" in result]
    kept = with_earlier(gains, HERE / RECORDS)
    if not kept.empty:
        kept.to_csv(HERE / RECORDS, index=False, float_format="%.4g")
        parts.append(processors_table(kept))
    (HERE / "README.md").write_text("\n".join(parts).rstrip() + "\n")
    return 0


def findings(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines whose figures were all measured."""
    lines = []
    for text, *wanted in FINDINGS:
        figures = [
            shown(row[of])
            for beginning, name, of in wanted
            for result in results
            for row in result["rows"]
            if result["title"].startswith(beginning) and row["name"] == name
        ]
        if len(figures) == len(wanted):
            lines.append(text.format(*figures))
    return lines


def with_earlier(gains: Sequence[Mapping[str, Any]], file: Path) -> pd.DataFrame:
    """Return a row per processor, precision and network; new ones replace what a file holds."""
    earlier = [pd.read_csv(file)] if file.is_file() else []
    here = {"processor": processor(), "measured": datetime.date.today().isoformat()}
    rows = pd.concat([*earlier, pd.DataFrame([here | gain for gain in gains])])
    if rows.empty:
        return rows
    keys = ["processor", "precision", "network"]
    return rows.drop_duplicates(keys, keep="last").sort_values(keys, kind="stable")


def processors_table(rows: pd.DataFrame) -> str:
    """Return the gains as a Markdown table with a row per processor and precision."""
    networks = list(dict.fromkeys(rows["network"]))
    lines = ["\n## Training, by processor\n"]
    lines.append(f"| processor | precision | measured | {' | '.join(networks)} |")
    lines.append("|---" * (3 + len(networks)) + "|")
    for (name, precision), group in rows.groupby(["processor", "precision"]):
        gains = group.set_index("network")["gain"].reindex(networks)
        figures = ["" if pd.isna(gain) else f"{gain:.2f}" for gain in gains]
        lines.append(f"| {name} | {precision} | {max(group['measured'])} | {' | '.join(figures)} |")
    lines.append(
        "\nTimes as fast as Keras's default, in the newest run on each machine; `make benchmark` "
        f"keeps them in `{RECORDS}`. `mura.training.device` takes bfloat16 where the processor "
        "gains by it, float32 elsewhere."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
