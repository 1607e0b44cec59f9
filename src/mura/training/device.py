"""What to train with on the device at hand: XLA or not, in which precision, with whose kernels.

``make benchmark`` prints the figures behind these choices (benchmarks/README.md).
"""

import ctypes
import functools
import os
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path

import keras

from mura.training.recipes import Recipe

_FLOAT32_ON_CPU = ("efficientnet",)  # slower in bfloat16 at small sizes
_CPUINFO = Path("/proc/cpuinfo")  # where Linux lists the processor's instructions
# where Linux, and WSL 2, have an NVIDIA driver
_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/usr/lib/wsl/lib/libcuda.so.1"))
_BFLOAT16_SINCE = 8  # compute capability (Ampere); XLA computes in float32 instead before that
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt(3)


@dataclass(frozen=True)
class Plan:
    """What a network is trained with."""

    device: str  # "cpu" or "gpu"
    jit_compile: bool  # XLA
    precision: str  # a Keras dtype policy: "float32" or "mixed_bfloat16"
    fused: bool  # TensorFlow's fused kernels (``training.fused``)


def plan(recipe: Recipe) -> Plan:
    """Choose XLA, precision and kernels for a recipe, unless it names them itself."""
    device, backend = device_kind(), keras.backend.backend()
    if device == "gpu":
        jit_compile = True
        precision = "mixed_bfloat16" if _gpu_has_bfloat16() else "float32"
    else:
        # XLA's convolutions on a CPU do not use oneDNN's kernels. JAX has no other way to run.
        jit_compile = backend == "jax"
        gains = backend == "tensorflow" and _cpu_gains_by_bfloat16()
        gains = gains and not recipe.architecture.startswith(_FLOAT32_ON_CPU)
        precision = "mixed_bfloat16" if gains else "float32"
    # Keras never compiles with XLA for TensorFlow where there is no GPU
    if recipe.jit_compile is not None and (device == "gpu" or backend != "tensorflow"):
        jit_compile = recipe.jit_compile
    fused = device == "cpu" and not jit_compile if recipe.fused is None else recipe.fused
    fused = fused and backend == "tensorflow"
    return Plan(device, jit_compile, recipe.precision or precision, fused)


@functools.cache
def device_kind() -> str:
    """Return "gpu" when the Keras backend sees an accelerator, else "cpu"."""
    kinds = {device.split(":")[0].lower() for device in keras.distribution.list_devices()}
    return "gpu" if kinds & {"gpu", "cuda", "rocm", "tpu"} else "cpu"


def warn_of_idle_gpu() -> None:
    """Warn where there is an NVIDIA GPU, nobody hid it, and the training does not use it."""
    gpus = len(keras.distribution.list_devices()) if device_kind() == "gpu" else 0
    if gpus > 1 and keras.distribution.distribution() is None:
        how = "KERAS_BACKEND=jax and --devices all train on all (`make jax-gpu`)"
        how += "; `mura grid` trains a network on each."
        warnings.warn(f"Found {gpus} GPUs but training on one; {how}", stacklevel=2)
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    hidden = hidden or os.environ.get("JAX_PLATFORMS") == "cpu"
    if device_kind() == "cpu" and not hidden and any(driver.exists() for driver in _DRIVERS):
        target = "jax-gpu" if keras.backend.backend() == "jax" else "gpu"
        warnings.warn(
            f"Found an NVIDIA GPU but training on the CPU; try `make {target}`.", stacklevel=2
        )


def keep_freed_memory() -> None:
    """Let glibc, where it is there, keep the large blocks that each training step needs again."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)  # no block is mapped on its own
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # bytes at the heap's end that are kept
        mallopt(_TOP_PAD, 2**26)  # bytes that the heap grows by


def _gpu_has_bfloat16() -> bool:
    """Whether the GPU convolves in bfloat16; True where the backend does not tell."""
    capability = None
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
        capability = details.get("compute_capability", (None,))[0]  # (7, 5)
    elif keras.backend.backend() == "jax":
        import jax

        # "7.5"; a TPU has none, and an AMD GPU's is a name such as "gfx90a"
        major = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")[0]
        capability = int(major) if major.isdecimal() else None
    return capability is None or capability >= _BFLOAT16_SINCE


def _cpu_gains_by_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 faster: with AMX, or an AMD with AVX-512 BF16."""
    # an Intel Xeon with AVX-512 BF16 and without AMX trains slower in bfloat16 than in float32
    if not _CPUINFO.is_file():
        return False
    words = set(_CPUINFO.read_text(encoding="utf-8", errors="replace").split())
    return "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words
