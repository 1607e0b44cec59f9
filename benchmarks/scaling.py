"""One training on one and on several devices and processes, beside plain Keras on one. Needs JAX.

python benchmarks/scaling.py           on GPUs: one, two, four ... of them, and as many processes
                                       on a CPU: two virtual devices share its cores, so that what
                                       is measured is the cost of sharing and no gain
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys

from measure import interleaved, plain_model, project_model, report, seconds, table

KERAS, ONE = "Keras's own loop, one device", "this project, one device"
PROCESS = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
STEPS = 32  # of an epoch


def measured(name: str, size: int, batch: int, devices: str | None, plain: bool) -> float:
    """Return images/s of an epoch, the one before having compiled the step."""
    import numpy as np

    from mura.data import RadiographBatches
    from mura.training import devices as spreading

    with spreading.spread(devices):
        model = plain_model(name, size) if plain else project_model(name, size)
        random, count = np.random.default_rng(0), STEPS * batch
        pixels = random.integers(0, 256, (count, size, size), np.uint8)
        targets = random.integers(0, 2, (count, 1)).astype("float32")
        shares = {"devices": spreading.count(), "shard": spreading.process()}
        rows = np.arange(count)
        batches = RadiographBatches(pixels, rows, targets, None, batch, 0, **shares)

        def epoch() -> None:
            model.fit(batches, verbose=0, shuffle=False)

        epoch()
        return count / seconds(epoch)


def candidate(options: argparse.Namespace, processes: int, **settings: object):
    """Return a function that measures one way in processes of its own."""
    asked = {"name": options.architecture, "size": options.size, "batch": options.batch}
    command = [sys.executable, __file__, "--measure", json.dumps(asked | settings)]

    def measure() -> float:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        started = []
        for index in range(processes):
            told = (address, str(processes), str(index)) if processes > 1 else ()
            told = {f"KERAS_DISTRIBUTION_{key}": v for key, v in zip(PROCESS, told, strict=False)}
            if processes > 1 and options.gpus:
                told["CUDA_VISIBLE_DEVICES"] = str(index)
            environment = os.environ | {"KERAS_BACKEND": "jax"} | told
            started.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            )
        printed = [process.communicate()[0] for process in started]
        return float(printed[0].split()[-1])  # the first process alone prints

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--architecture", default="cnn")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--gpus", type=int, default=0, help="of this machine; 0: the processor")
    parser.add_argument("--repetitions", type=int, default=3)
    options, _ = parser.parse_known_args()
    if options.measure:
        print(measured(**options.measure))
        return
    ways = {KERAS: candidate(options, 1, devices=None, plain=True)}
    ways[ONE] = candidate(options, 1, devices=None, plain=False)
    numbers = [2**power for power in range(1, 8) if 2**power <= max(2, options.gpus)]
    for number in numbers:
        devices = str(number) if options.gpus else f"cpu:{number}"
        ways[f"{number} devices"] = candidate(options, 1, devices=devices, plain=False)
        ways[f"{number} processes"] = candidate(options, number, devices="all", plain=False)
    of = f"{options.architecture}, {options.size} px, batches of {options.batch}"
    note = "" if options.gpus else "The devices are virtual: they share the cores of one processor."
    figures = interleaved(ways, options.repetitions)
    report(table(f"Sharing one training: {of}", "images/s", figures, ONE, note))


if __name__ == "__main__":
    main()
