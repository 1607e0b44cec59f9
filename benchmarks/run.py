"""Run every benchmark and write benchmarks/README.md: `make benchmark`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from measure import machine, markdown

HERE = Path(__file__).parent
# one script per table; each runs in a process of its own, so that none warms up the next
SCRIPTS = ("input", "training", "first_step", "prediction", "scale", "evaluation", "gpu_training")

HEAD = """# Benchmarks

Written by `make benchmark`, which runs every script here; do not edit. Each table compares this
project with what one would do instead, in interleaved repetitions of one run. The machines are
shared and noisy: **the ratios are the result**, the figures only say what was seen.

Not part of it, because they take longer: `precision.py` (does the compute policy change how good a
network gets?), `fault_injection.py` (does a killed training continue to the same bytes?) and
`interval_coverage.py` (do the intervals hold the truth as often as they say?), `learnability.py`
(can the phantom be learnt, and shuffled labels not?).

"""


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", nargs="*", help=f"of {', '.join(SCRIPTS)}; all without")
    wanted = parser.parse_args(arguments).script
    if unknown := set(wanted) - set(SCRIPTS):
        parser.error(f"no such script: {', '.join(sorted(unknown))}")
    chosen = [name for name in SCRIPTS if name in wanted or not wanted]
    parts, started = [HEAD, f"Measured on {machine()}.\n"], time.perf_counter()
    if left_out := [f"`{name}.py`" for name in SCRIPTS if name not in chosen]:
        parts.append(f"Not measured in this run: {', '.join(left_out)}.\n")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            print(f"== {name} ({time.perf_counter() - started:.0f} s)", flush=True)
            output = Path(folder) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(output)]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
                continue
            parts.append(f"\n## `{name}.py`\n")
            parts += [markdown(result) for result in json.loads(output.read_text())]
    if failed:
        print(f"failed: {', '.join(failed)}; README.md was left as it was", file=sys.stderr)
        return 1
    minutes = (time.perf_counter() - started) / 60
    parts.append(f"\nAll of it took {minutes:.1f} minutes.")
    (HERE / "README.md").write_text("\n".join(parts).rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
