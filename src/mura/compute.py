"""How to compute on the device at hand: XLA or not, in which precision, with whose kernels.

Measured, not assumed; `make benchmark` prints the figures behind every choice here
(benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# One network of each family was measured in bfloat16, on an AMD EPYC with its instructions. At 96
# px, batches of 16, all gain: 1.05 times (ConvNeXt-Tiny, whose depthwise convolutions were XLA's
# then) to 1.3 times (Xception) and more.
# EfficientNetV2-B0 gained 1.07 times there and lost a fifth at 64 px, batches of 32.
_FLOAT32_ON_CPU = ("efficientnet",)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

CPUINFO = Path("/proc/cpuinfo")  # where Linux lists the processor's instructions

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")  # where Linux says that it is loaded
WSL_DRIVER = Path("/usr/lib/wsl/lib/libcuda.so.1")  # where WSL 2, which lacks that, has Windows's
# What each backend computes on an NVIDIA GPU with, and the install that brings it.
_CUDA = {
    "tensorflow": "TensorFlow's CUDA libraries (`make gpu`)",
    "jax": "JAX's CUDA plugin (`make jax-gpu`)",
}
_BFLOAT16_SINCE = 8  # compute capability (Ampere); XLA computes in float32 instead before that

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow reads it once, while it is imported
# Instructions of which any lets TensorFlow 2.21 for Linux take oneDNN's kernels by itself.
_ONEDNN_BY_ITSELF = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile"}


@dataclass(frozen=True)
class ComputePolicy:
    """What a model is compiled with.

    Threads are left to TensorFlow: with one thread per operation instead of one per core, on two
    cores, ResNet-50 and DenseNet-121 trained somewhat faster at 64 px and somewhat slower at 96.
    """

    device: str  # "cpu" or "gpu"
    jit_compile: bool  # XLA
    precision: str  # a Keras dtype policy: "float32" or "mixed_bfloat16"
    fused: bool = False  # train with ``mura.fused``'s kernels
    onednn: bool | None = None  # what ``ONEDNN`` told TensorFlow; None: it chose by itself

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


@functools.cache
def device_kind() -> str:
    """Return "gpu" when the Keras backend sees an accelerator, else "cpu"."""
    import keras

    kinds = {device.split(":")[0].lower() for device in keras.distribution.list_devices()}
    return "gpu" if kinds & {"gpu", "cuda", "rocm", "tpu"} else "cpu"


def warn_of_idle_gpu(device: str) -> None:
    """Say that an NVIDIA GPU is there where the CPU is computed on instead.

    Without CUDA's libraries both backends do so, and ``mura.backend`` hides what they say of it.
    Nothing is said where whoever runs it hid the GPU.

    Args:
        device: What is computed on, as ``device_kind`` returns it.

    Warns:
        RuntimeWarning: The GPU is not used; which install is likely to be missing.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if device != "cpu" or hidden or not (NVIDIA_DRIVER.exists() or WSL_DRIVER.exists()):
        return
    import keras

    backend = keras.backend.backend()
    if backend not in _CUDA or (backend == "jax" and os.environ.get("JAX_PLATFORMS") == "cpu"):
        return
    warnings.warn(
        "an NVIDIA GPU is there, but the CPU is computed on: probably for want of "
        f"{_CUDA[backend]}. TF_CPP_MIN_LOG_LEVEL=0 shows the reason.",
        RuntimeWarning,
        stacklevel=2,
    )


def gpu_has_bfloat16() -> bool:
    """Whether the GPU convolves in bfloat16: not an NVIDIA GPU before compute capability 8.0.

    That is, not a T4, a V100 or an RTX 20xx. True where the backend does not tell.
    """
    major = _compute_capability()
    return major is None or major >= _BFLOAT16_SINCE


def _compute_capability() -> int | None:
    """Return the first number of the first GPU's CUDA compute capability, where there is one."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
        return details.get("compute_capability", (None,))[0]  # (7, 5)
    if backend == "jax":
        import jax

        # "7.5"; a TPU has none, and an AMD GPU's is a name such as "gfx90a"
        major = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")[0]
        return int(major) if major.isdecimal() else None
    return None


def cpu_gains_by_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32.

    It does with AMX (not measured here), and with the AVX-512 BF16 instructions of an AMD EPYC.
    With those of an Intel Xeon, whose AMX a virtual machine hid, networks of every family trained
    slower than in float32: 0.4 times (the custom CNN) to 0.7 times as fast.

    False where the system does not tell (not Linux): float32 is then right, if perhaps slower.
    """
    words = _processor_words()
    return "amx_bf16" in words or {"AuthenticAMD", "avx512_bf16"} <= words


def use_onednn() -> None:
    """Have TensorFlow compute with oneDNN's kernels where they gain and it would not by itself.

    On Linux TensorFlow uses them by itself only where a processor has instructions made for neural
    networks. On two cores of an AMD EPYC that has AVX2 alone, one network of each family trained
    1.07 (ConvNeXt-Tiny) to 1.8 times (the custom CNN) as fast with them, by Keras's own layers
    1.13 to 2.7 times (ResNet-50), and none predicted slower; medians of interleaved repetitions.

    Without effect on other processors, and where the environment says already (``ONEDNN``: 0 or
    1). Importing ``mura`` calls this.

    Warns:
        RuntimeWarning: TensorFlow was imported before, and no longer heeds it.
    """
    words = _processor_words()
    if "avx2" not in words or words & _ONEDNN_BY_ITSELF or ONEDNN in os.environ:
        return
    if "tensorflow" not in sys.modules:
        os.environ[ONEDNN] = "1"
        return
    warnings.warn(
        "TensorFlow was imported before mura and computes with its slower kernels on this "
        f"processor: import mura before keras and tensorflow, or set {ONEDNN}=1.",
        RuntimeWarning,
        stacklevel=3,
    )


def share_gpu_memory() -> None:
    """Have a GPU's memory taken as it is needed, so that notebooks can stay open side by side.

    By default TensorFlow and JAX take most of it with the first step and keep it until the process
    ends: the next notebook finds none. What the environment says already stays. Importing
    ``mura`` calls this; what it costs on a GPU was not measured.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # tensorflow.org/guide/gpu
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX's "GPU memory allocation"


def _processor_words() -> set[str]:
    """Return what the system says of the processor; nothing where it does not (not Linux)."""
    if not CPUINFO.is_file():
        return set()
    return set(CPUINFO.read_text(encoding="utf-8", errors="replace").split())


def policy(
    architecture: str | None = None,
    precision: str | None = None,
    jit_compile: bool | None = None,
    fused: bool | None = None,
) -> ComputePolicy:
    """Choose XLA, precision and kernels for an architecture on the device at hand.

    Args:
        architecture: A registry name; None for prediction with any loaded model.
        precision: Overrides the choice.
        jit_compile: Overrides the choice.
        fused: Overrides the choice; without effect unless the backend is TensorFlow.
    """
    import keras

    device, backend = device_kind(), keras.backend.backend()
    if device == "gpu":
        chosen_jit = True
        chosen_precision = "mixed_bfloat16" if gpu_has_bfloat16() else "float32"
    else:
        # XLA's convolutions on a CPU do not use oneDNN's kernels. JAX has no other way to run.
        chosen_jit = backend == "jax"
        # What is loaded to predict stays as it is.
        gains = architecture is not None and not architecture.startswith(_FLOAT32_ON_CPU)
        usable = backend == "tensorflow" and cpu_gains_by_bfloat16()
        chosen_precision = "mixed_bfloat16" if gains and usable else "float32"
    precision = precision or chosen_precision
    jit_compile = chosen_jit if jit_compile is None else jit_compile
    # On a GPU the kernels were not measured; XLA fuses by itself.
    chosen_fused = device == "cpu" and not jit_compile
    fused = backend == "tensorflow" and (chosen_fused if fused is None else fused)
    return ComputePolicy(device, jit_compile, precision, fused, _onednn(device, backend))


def _onednn(device: str, backend: str) -> bool | None:
    if device != "cpu" or backend != "tensorflow" or ONEDNN not in os.environ:
        return None
    return os.environ[ONEDNN].lower() in ("1", "true")  # as TensorFlow reads it


def for_prediction(model: Any) -> Any:
    """Return a model that gives the same answers in less time, or the model itself.

    ConvNeXt's convolutions take TensorFlow's depthwise kernel (``mura.depthwise``).
    """
    if not hasattr(model, "layers"):  # an exported model
        return model
    from mura.depthwise import with_depthwise_kernels

    faster = with_depthwise_kernels(model)
    if faster is not model:
        faster.compile(jit_compile=policy().jit_compile)
    return faster


def answering(model: Any, few: bool) -> Callable[[Any], Any]:
    """Return what answers a batch of images in the least time.

    Args:
        model: A network, or an exported model.
        few: Whether there is so little to answer that a graph, which takes seconds to trace, is not
            earned back. JAX compiles whatever it computes: operation by operation DenseNet-121's
            first answer took 38 seconds, as a graph 6 (three images of 96 px, two cores).
    """
    if few and not (hasattr(model, "layers") and _backend() == "jax"):
        return functools.partial(model, training=False)
    return model.predict_on_batch


def _backend() -> str:
    import keras

    return keras.backend.backend()


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next use; without effect where libc is not glibc.

    By default glibc returns the large blocks that a training step frees to the system, and the
    next step has them zeroed and mapped in again: 3,000 page faults per image, and a quarter of
    the time of training ResNet-50 at 64 px on two cores.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)  # no block is mapped on its own
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # bytes at the heap's end that are kept
    mallopt(_M_TOP_PAD, 2**26)  # bytes that the heap grows by
