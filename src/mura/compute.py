"""How to compute on the device at hand: XLA or not, and in which precision.

Measured, not assumed; `make benchmark` prints the figures behind every choice here
(benchmarks/README.md).
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Families that train faster on a CPU in bfloat16, where the processor has the instructions. The
# others were not measured.
_BFLOAT16_GAINS_ON_CPU = ("cnn", "vgg", "resnet", "densenet")

CPUINFO = Path("/proc/cpuinfo")  # where Linux lists the processor's instructions


@dataclass(frozen=True)
class ComputePolicy:
    """What a model is compiled with.

    Threads are left to TensorFlow: with one thread per operation instead of one per core, on two
    cores, ResNet-50 and DenseNet-121 trained somewhat faster at 64 px and somewhat slower at 96.
    """

    device: str  # "cpu" or "gpu"
    jit_compile: bool  # XLA
    precision: str  # a Keras dtype policy: "float32" or "mixed_bfloat16"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


@functools.cache
def device_kind() -> str:
    """Return "gpu" when the Keras backend sees an accelerator, else "cpu"."""
    import keras

    kinds = {device.split(":")[0].lower() for device in keras.distribution.list_devices()}
    return "gpu" if kinds & {"gpu", "cuda", "rocm", "tpu"} else "cpu"


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX-512 BF16 or AMX).

    False where the system does not tell (not Linux): float32 is then right, if slower.
    """
    if not CPUINFO.is_file():
        return False
    flags = CPUINFO.read_text(encoding="utf-8", errors="replace").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def policy(
    architecture: str | None = None,
    precision: str | None = None,
    jit_compile: bool | None = None,
) -> ComputePolicy:
    """Choose XLA and precision for an architecture on the device at hand.

    Args:
        architecture: A registry name; None for prediction with any loaded model.
        precision: Overrides the choice.
        jit_compile: Overrides the choice.
    """
    import keras

    device = device_kind()
    if device == "gpu":
        chosen_jit, chosen_precision = True, "mixed_bfloat16"
    else:
        # Keras compiles with XLA by default. On a CPU that halves the speed of training: XLA's
        # convolutions there do not use oneDNN's kernels. JAX has no other way to run.
        chosen_jit = keras.backend.backend() == "jax"
        gains = architecture is not None and architecture.startswith(_BFLOAT16_GAINS_ON_CPU)
        usable = keras.backend.backend() == "tensorflow" and cpu_has_bfloat16()
        chosen_precision = "mixed_bfloat16" if gains and usable else "float32"
    return ComputePolicy(
        device,
        chosen_jit if jit_compile is None else jit_compile,
        precision or chosen_precision,
    )
