"""Run every benchmark and write benchmarks/README.md: `make benchmark`."""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import epochs
import pandas as pd
from measure import machine, markdown, processor

HERE = Path(__file__).parent
# by key of a result: the file that keeps what was measured, also by earlier runs elsewhere
RECORDS = {"gain": "processors.csv", "epoch": "epochs.csv"}
# one script per table; each runs in a process of its own, so that none warms up the next
SCRIPTS = ("input", "training", "epochs", "first_step", "prediction", "scale", "evaluation")
SCRIPTS += ("gpu_training",)

HEAD = """# Benchmarks

Written by `make benchmark`; do not edit. Each table compares this project with what one would do
instead, in interleaved repetitions of one run unless a note says otherwise. The machines are shared
and noisy: **the ratios are the result**, the figures only say what was seen.

Not run by it, because they take longer: `precision.py` (does the compute policy change how good a
network gets?), `fault_injection.py` (does a killed training continue to the same bytes?),
`interval_coverage.py` (do the intervals hold the truth as often as they say?) and `learnability.py`
(can the phantom be learnt, and shuffled labels not?).

"""


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", nargs="*", help=f"of {', '.join(SCRIPTS)}; all without")
    parser.add_argument("--every", action="store_true", help="epochs of every architecture")
    options = parser.parse_args(arguments)
    wanted = options.script
    if unknown := set(wanted) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    chosen = [name for name in SCRIPTS if name in wanted or not wanted]
    parts, started = [HEAD, f"Measured on {machine()}.\n"], time.perf_counter()
    if left_out := [f"`{name}.py`" for name in SCRIPTS if name not in chosen]:
        parts.append(f"Not measured in this run: {', '.join(left_out)}.\n")
    failed: list[str] = []
    records: dict[str, list[dict[str, Any]]] = {key: [] for key in RECORDS}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            print(f"== {name} ({time.perf_counter() - started:.0f} s)", flush=True)
            output = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(output)]
            command += ["--every"] if options.every and name == "epochs" else []
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
                continue
            results = json.loads(output.read_text())
            shown = [markdown(result) for result in results if "epoch" not in result]
            parts += [f"\n## `{name}.py`\n", *shown] if shown else []
            for key, rows in records.items():
                rows += [result[key] for result in results if key in result]
    if failed:
        print(f"failed: {', '.join(failed)}; README.md was left as it was", file=sys.stderr)
        return 1
    minutes = (time.perf_counter() - started) / 60
    every = ", with every architecture's epochs," if options.every else ""
    parts.append(f"\nAll of it{every} took {minutes:.1f} minutes.\n")
    for key, list_of in LISTS.items():
        kept = with_earlier(records[key], HERE / RECORDS[key])
        if not kept.empty:
            kept.to_csv(HERE / RECORDS[key], index=False, float_format="%.4g")
            parts.append(list_of(pd.read_csv(HERE / RECORDS[key])))  # as anybody can repeat
    (HERE / "README.md").write_text("\n".join(parts).rstrip() + "\n")
    return 0


def with_earlier(records: Sequence[dict[str, Any]], file: Path) -> pd.DataFrame:
    """Return a row per processor, precision and network; new ones replace what a file holds."""
    earlier = [pd.read_csv(file)] if file.is_file() else []
    here = {"processor": processor(), "measured": datetime.date.today().isoformat()}
    rows = pd.concat([*earlier, pd.DataFrame([here | record for record in records])])
    if rows.empty:
        return rows
    keys = ["processor", "precision", "network"]
    return rows.drop_duplicates(keys, keep="last").sort_values(keys, kind="stable")


def processors_table(rows: pd.DataFrame) -> str:
    """Return the gains as a Markdown table with a row per processor and precision."""
    lines = ["\n## Training, by processor\n"]
    networks = list(dict.fromkeys(rows["network"]))
    lines.append(f"| processor | precision | measured | {' | '.join(networks)} |")
    lines.append("|---" * (3 + len(networks)) + "|")
    for (name, precision), group in rows.groupby(["processor", "precision"]):
        gains = group.set_index("network")["gain"].reindex(networks)
        shown = ["" if pd.isna(gain) else f"{gain:.2f}" for gain in gains]
        lines.append(f"| {name} | {precision} | {max(group['measured'])} | {' | '.join(shown)} |")
    lines.append(
        "\nTimes as fast as Keras's default, of the newest run on each: `make benchmark` keeps "
        f"them in `{RECORDS['gain']}`. bfloat16 is used where the processor gains by it, float32 "
        "elsewhere (`mura.compute`).\n"
    )
    return "\n".join(lines)


def epochs_table(rows: pd.DataFrame) -> str:
    """Return the epochs of networks as a Markdown table with a row per processor and network."""
    ways = [name for name in rows.columns if name.endswith(", s")]
    columns = ["processor", "measured", "network", "precision", "px", "images", *ways]
    _, bound, limit = epochs.AIM
    aim = f"aim: {bound} {limit:g}"
    lines = ["\n## Epochs, fed from memory and from the cache\n"]
    lines.append(f"| {' | '.join([*columns, 'cache / tf.data', aim])} |")
    lines.append("|---" * (len(columns) + 2) + "|")
    for row in rows.to_dict("records"):
        shown = [f"{row[name]:.3g}" if name in ways else row[name] for name in columns]
        lines.append(f"| {' | '.join(map(str, shown))} | {row['ratio']:.3f} | {row['aim']} |")
    lines.append(
        f"\nThe newest run of each, of `epochs.py` (`--every`: all architectures), kept in "
        f"`{RECORDS['epoch']}`: medians of interleaved repetitions. {epochs.NOTE}\n"
    )
    return "\n".join(lines)


LISTS = {"gain": processors_table, "epoch": epochs_table}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
