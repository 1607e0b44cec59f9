"""Kill a training at many moments, continue it, and compare what it ends with.

Run `python benchmarks/fault_injection.py` (about ten minutes for 30 kills on two cores). Every
kill is a SIGKILL of the training process at one numbered event: a file opened for writing,
renamed, removed, or a folder made (in the pixel cache, the checkpoint and the run folder), or the
end of a training step. The process is then started again with `resume=True` until it ends, and
the weights, the history and the predictions are compared with an uninterrupted training's, byte
by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def train_once(workplace: Path) -> None:
    """Train the smallest network on ``workplace/MURA-v1.1`` into ``workplace/models``."""
    from mura.recipes import recipe
    from mura.training import train

    chosen = recipe("cnn", image_size=32, epochs=2, batch_size=16, average_momentum=0.9)
    train(chosen, workplace / "MURA-v1.1", "killed", workplace / "models", resume=True)


def in_child(workplace: Path, kill_at: int | None) -> tuple[bool, int]:
    """Train in a forked process that kills itself at an event; return (finished, events)."""
    counter = workplace / "events"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _kill_at(kill_at, workplace, counter)
            train_once(workplace)
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False, kill_at or 0
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"the training failed by itself in {workplace}")
    return True, counter.stat().st_size


def _kill_at(number: int | None, workplace: Path, counter: Path) -> None:
    import keras

    count = 0
    log = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def happened() -> None:
        nonlocal count
        count += 1
        os.write(log, b".")  # one byte an event, so that the parent can count them
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple) -> None:
        if event not in EVENTS or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not (arguments[1] and set(str(arguments[1])) & set("wax+")):
            return
        path = os.fsdecode(arguments[0])
        if path.startswith(str(workplace)) and path != str(counter):
            happened()

    sys.addaudithook(audit)
    step_ends = keras.callbacks.CallbackList.on_train_batch_end

    def on_train_batch_end(self, *arguments, **named):
        step_ends(self, *arguments, **named)
        happened()

    keras.callbacks.CallbackList.on_train_batch_end = on_train_batch_end


def outcome(workplace: Path) -> str:
    """Return a digest of the weights, the history and the predictions of the finished run."""
    run = workplace / "models" / "killed"
    digest = hashlib.sha256()
    with zipfile.ZipFile(run / "model.keras") as archive:
        digest.update(archive.read("model.weights.h5"))
    for name in ("history.csv", "predictions.csv", "split.csv"):
        digest.update((run / name).read_bytes())
    left_behind = [path.name for path in run.parent.iterdir() if path.name != "killed"]
    digest.update(repr(sorted(name for name in left_behind if ".lock" not in name)).encode())
    return digest.hexdigest()


def survive(data: Path, kill_at: list[int], expected: str) -> int:
    """Kill a training at each event in turn, continue it each time; return the kills it survived.

    Raises:
        AssertionError: It ended with other bytes than the uninterrupted training.
    """
    with tempfile.TemporaryDirectory() as folder:
        workplace = Path(folder)
        shutil.copytree(data, workplace / "MURA-v1.1")
        kills = 0
        for number in kill_at:
            finished, _ = in_child(workplace, number)
            kills += not finished
            if finished:
                break
        else:
            finished, _ = in_child(workplace, None)
        assert outcome(workplace) == expected, f"killed at {kill_at}: another result"
    return kills


def uninterrupted(data: Path) -> tuple[str, int]:
    """Return the digest of a training that nobody kills, and how many events it had."""
    with tempfile.TemporaryDirectory() as folder:
        workplace = Path(folder)
        shutil.copytree(data, workplace / "MURA-v1.1")
        _, events = in_child(workplace, None)
        return outcome(workplace), events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from mura import phantom

    with tempfile.TemporaryDirectory() as folder:
        data = phantom.generate(Path(folder) / "phantom", scale=0.01, progress=False)
        expected, events = uninterrupted(data)
        print(f"uninterrupted: {events} events, result {expected[:12]}")
        draw = random.Random(options.seed)
        # every part of the training is hit: one point in each of as many equal stretches
        points = [
            draw.randint(1 + i * events // options.kills, (i + 1) * events // options.kills)
            for i in range(options.kills)
        ]
        survived = 0
        for point in points:
            survived += survive(data, [point], expected)
            print(f"killed at event {point:4}: continued to the same bytes")
    print(f"{survived} kills survived of {options.kills}")


if __name__ == "__main__":
    main()
