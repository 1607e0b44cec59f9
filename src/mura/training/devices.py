"""Spread one training over devices and processes: JAX alone, each device with a share of a batch.

Every process is told its share of each batch; the first one writes checkpoint and run.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

import keras

from mura.files import InputError
from mura.training.start import TrainingError

_HEARTBEAT = 60  # seconds of silence after which JAX takes a process for dead and ends the others
# who we are where no Slurm says it: Keras's own variables
_ADDRESS, _COUNT, _INDEX = (
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


@contextlib.contextmanager
def spread(devices: str | None) -> Iterator[None]:
    """Let a network that is built and fitted in this block train on several devices.

    Args:
        devices: "all", or a number of them; "cpu:2" takes the processor for two, to try it out.
            None, and "1" alone, leave everything as it is.

    Raises:
        TrainingError: There are not so many, or the backend is not JAX.
    """
    if devices in (None, "1"):
        yield
        return
    if keras.backend.backend() != "jax":
        raise TrainingError(
            f"--devices {devices}: {keras.backend.backend()} trains on one device; set "
            "KERAS_BACKEND=jax (`make jax-gpu` installs it)."
        )
    _join()
    names = _named(devices)
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    try:
        with distribution.scope():
            yield
    except Exception as error:
        index, count = process()
        if count == 1:
            raise
        said = str(error)
        if not isinstance(error, InputError):  # XLA's reason stands at the end of a long line
            said = f"process {index} of {count} stopped ({' '.join(said.split())[-200:]}), and all "
            said += "end with it; the same command with --resume goes on from the last epoch."
        print(f"mura: {said}", file=sys.stderr, flush=True)
        os._exit(2)  # by the usual way JAX would wait for processes that wait for this one


def count() -> int:
    """Return over how many devices the block of ``spread`` spreads a batch."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.num_model_replicas


def process() -> tuple[int, int]:
    """Return this process's index, and how many train together."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def wait_for_all(what: str) -> None:
    """Wait until every process is here; JAX ends this one if another one dies."""
    if process()[1] > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def refuse_ragged(batch_size: int) -> None:
    """Raise TrainingError where a batch cannot be dealt out evenly."""
    devices = count()
    if left := batch_size % devices:
        sizes = [size for size in (batch_size - left, batch_size - left + devices) if size]
        raise TrainingError(
            f"batch_size {batch_size}: {devices} devices cannot share it evenly; take "
            f"{' or '.join(map(str, sizes))}."
        )


def _join() -> None:
    """Join the processes that Slurm, or the environment, says train together; print in one."""
    import jax

    bounds = {"heartbeat_timeout_seconds": _HEARTBEAT}
    if jax.distributed.is_initialized():
        return
    if _COUNT in os.environ:
        address, *_ = os.environ[_ADDRESS].split(",")
        index = int(os.environ[_INDEX])
        jax.distributed.initialize(address, int(os.environ[_COUNT]), index, **bounds)
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        jax.distributed.initialize(**bounds)
    if jax.distributed.is_initialized() and jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (until the process ends)


def _named(devices: str) -> list[str]:
    """Return Keras's names of the devices to take."""
    import jax

    kind, _, number = devices.rpartition(":")
    if kind == "cpu" and number.isdecimal():
        with contextlib.suppress(RuntimeError):  # the devices were counted already
            jax.config.update("jax_num_cpu_devices", int(number))
    known = keras.distribution.list_devices(kind or None)
    if devices == "all" or process()[1] > 1:  # each process has to have its share
        return known
    if kind not in ("", "cpu", "gpu") or not number.isdecimal() or not int(number):
        raise TrainingError(f"--devices {devices!r}: expected a number, all or cpu:2.")
    if int(number) > len(known):
        raise TrainingError(f"--devices {devices}: there are {len(known)}: {', '.join(known)}.")
    return known[: int(number)]
