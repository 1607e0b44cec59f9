"""Kill a training at many moments, continue it, and compare what it ends with.

Run `python benchmarks/fault_injection.py` (30 kills: about fifteen minutes on
two cores; `--kills 6` for a short one). Every kill is a SIGKILL of the
training process at one numbered event of one kind:

- step: the end of a training step, in the middle of an epoch
- cache, checkpoint, run: a file of these opened for writing, renamed or removed, a folder made
- checkpoint-bytes, run-bytes: half of the bytes of one write to a file of these

The process is then started again with `resume=True` until it ends, and weights, history and
predictions are compared with those of an uninterrupted training, byte by byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EPOCHS = 2
KINDS = ("step", "checkpoint", "checkpoint-bytes", "run", "run-bytes", "cache")
_FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def train_once(workplace: Path) -> None:
    """Train the smallest network on ``workplace/MURA-v1.1`` into ``workplace/models``."""
    from mura.training.recipes import recipe
    from mura.training.train import train

    chosen = recipe("cnn", image_size=32, epochs=EPOCHS, batch_size=32, average_momentum=0.9)
    train(chosen, workplace / "MURA-v1.1", "killed", workplace / "models", resume=True)


def in_child(workplace: Path, kill_at: int | None) -> tuple[bool, list[str]]:
    """Train in a process that kills itself at an event; return whether it ended, and the events.

    The child is forked while no backend is loaded here: it starts its own, threads and all.
    """
    loaded = {"tensorflow", "keras", "jax"} & set(sys.modules)
    if loaded:
        raise RuntimeError(f"{loaded} loaded before the fork; its threads would be missing after")
    log = workplace / "events.log"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _kill_at(kill_at, workplace, log)
            train_once(workplace)
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"the training failed by itself in {workplace}")
    return not os.WIFSIGNALED(status), log.read_text().split()


def _kill_at(number: int | None, workplace: Path, log: Path) -> None:
    """Count this process's events, write them to a log, and end it without warning at one."""
    from mura import backend

    backend.start()
    import keras

    from mura import files
    from mura.training import progress as checkpoints
    from mura.training import train as training

    count = 0
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def happened(kind: str) -> None:
        nonlocal count
        count += 1
        os.write(descriptor, f"{kind}\n".encode())
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def kind_of(path: str) -> str:
        for part, kind in ((".training", "checkpoint"), (".writing-", "run"), ("/cache", "cache")):
            if part in path:
                return kind
        return "run"

    def audit(event: str, arguments: tuple) -> None:
        if event not in _FILE_EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if event == "open":
            _, mode, flags = arguments  # os.open has no mode
            if not (set(mode) & set("wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)):
                return
        path = os.fsdecode(arguments[0])
        if path.startswith(str(workplace)) and path != str(log):
            happened(kind_of(path))

    sys.addaudithook(audit)
    step_ends = keras.callbacks.CallbackList.on_train_batch_end

    def on_train_batch_end(self: Any, *arguments: Any, **named: Any) -> None:
        step_ends(self, *arguments, **named)
        happened("step")

    keras.callbacks.CallbackList.on_train_batch_end = on_train_batch_end
    write_atomically = files.write_atomically

    class HalfWriter:
        def __init__(self, file: Any, kind: str) -> None:
            self.file, self.kind = file, kind

        def write(self, content: Any) -> int:
            half = len(content) // 2
            self.file.write(content[:half])
            self.file.flush()
            happened(self.kind)
            self.file.write(content[half:])
            return len(content)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    @contextlib.contextmanager
    def write_in_halves(path: str | Path, mode: str = "w") -> Any:
        with write_atomically(path, mode) as file:
            yield HalfWriter(file, f"{kind_of(str(path))}-bytes")

    for module in (files, checkpoints, training):
        module.write_atomically = write_in_halves


def outcome(workplace: Path) -> str:
    """Return a digest of the weights, the history and the predictions of the finished run."""
    run = workplace / "models" / "killed"
    digest = hashlib.sha256()
    with zipfile.ZipFile(run / "model.keras") as archive:
        digest.update(archive.read("model.weights.h5"))
    for name in ("history.csv", "predictions.csv", "split.csv", "metrics.json"):
        digest.update((run / name).read_bytes())
    left_behind = [path.name for path in run.parent.iterdir() if path.name != "killed"]
    digest.update(repr(sorted(name for name in left_behind if ".lock" not in name)).encode())
    return digest.hexdigest()


def survives(data: Path, kill_at: int, expected: str, steps: int) -> bool:
    """Kill a training at an event and continue it: whether it does, to the expected bytes."""
    with tempfile.TemporaryDirectory() as folder:
        workplace = Path(folder)
        shutil.copytree(data, workplace / "MURA-v1.1")
        finished, events = in_child(workplace, kill_at)
        if finished:
            raise RuntimeError(f"event {kill_at} never came, only {len(events)} did")
        _, after = in_child(workplace, None)
        # it goes on from the checkpoint: what starts over ends with the same bytes as well
        epoch = steps // EPOCHS
        continued = events.count("step") <= epoch or after.count("step") <= steps - epoch
        return continued and outcome(workplace) == expected


def uninterrupted(data: Path) -> tuple[str, list[str]]:
    """Return the digest of a training that nobody kills, and its events."""
    with tempfile.TemporaryDirectory() as folder:
        workplace = Path(folder)
        shutil.copytree(data, workplace / "MURA-v1.1")
        _, events = in_child(workplace, None)
        return outcome(workplace), events


def kill_points(
    events: list[str], kills: int, seed: int, kinds: Sequence[str] = KINDS
) -> list[int]:
    """Draw event numbers (from 1), as many of each kind as can be."""
    draw = random.Random(seed)
    by_kind = {
        kind: [number for number, event in enumerate(events, 1) if event == kind] for kind in kinds
    }
    for numbers in by_kind.values():
        draw.shuffle(numbers)
    points: list[int] = []
    while len(points) < kills and any(by_kind.values()):
        points += [numbers.pop() for numbers in by_kind.values() if numbers]
    return points[:kills]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="how many")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of events")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    from mura import phantom

    kills = survived = 0
    with tempfile.TemporaryDirectory() as folder:
        data = phantom.generate(Path(folder) / "phantom", scale=0.01, progress=False)
        expected, events = uninterrupted(data)
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(events).items())
        print(f"uninterrupted: {len(events)} events ({counts}), result {expected[:12]}", flush=True)
        for point in kill_points(events, options.kills, options.seed, options.kinds):
            kills += 1
            same = survives(data, point, expected, events.count("step"))
            survived += same
            ending = "the same bytes" if same else "ANOTHER RESULT, OR STARTED OVER"
            print(f"killed at event {point:4} ({events[point - 1]}): {ending}", flush=True)
    print(f"{survived} kills survived of {kills}")
    sys.exit(survived != kills)


if __name__ == "__main__":
    main()
