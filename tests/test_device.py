"""What a recipe is trained with on which device, and what the package sets when it is imported."""

import os
import subprocess
import sys
import types
import warnings

import keras
import pytest

from mura import models, training
from mura.training import device
from mura.training.device import Plan
from mura.training.recipes import Recipe

AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"
FLAGS = "flags\t\t: fpu sse avx avx512f avx512_bf16"
QUICK = f"{AMD}{FLAGS} clzero\n"
pytestmark = pytest.mark.skipif(
    device.device_kind() != "cpu" or keras.backend.backend() != "tensorflow",
    reason="these are the choices for TensorFlow on a CPU: unset KERAS_BACKEND, hide the GPU",
)


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Pretend to run on a processor with the given text in /proc/cpuinfo."""

    def pretend(text: str | None) -> None:
        monkeypatch.setattr(device, "_CPUINFO", tmp_path / "cpuinfo")
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text)

    return pretend


@pytest.mark.parametrize(
    ("text", "gains"),
    [
        (QUICK, True),
        (f"{INTEL}{FLAGS} amx_bf16 amx_tile\n", True),
        (f"{INTEL}{FLAGS} avx512_fp16\n", False),  # as where a virtual machine hides AMX
        (f"{AMD}flags\t\t: fpu sse avx avx2 avx512f avx512_vnni\n", False),
        (None, False),
    ],
    ids=["AMD", "AMX", "Intel without AMX", "older AMD", "unknown"],
)
def test_on_a_cpu_bfloat16_is_chosen_where_it_gains_and_xla_never(text, gains, processor):
    processor(text)
    for name, architecture in models.ARCHITECTURES.items():
        quicker = gains and architecture.family != "EfficientNetV2"
        precision = "mixed_bfloat16" if quicker else "float32"
        assert device.plan(Recipe(name)) == Plan("cpu", False, precision, fused=True)


# T4, A100, unknown
CAPABILITIES = [((7, 5), "float32"), ((8, 0), "mixed_bfloat16"), (None, "mixed_bfloat16")]


@pytest.mark.parametrize(("capability", "precision"), CAPABILITIES)
def test_on_a_gpu_it_is_xla_and_bfloat16_where_the_gpu_has_it(capability, precision, monkeypatch):
    import tensorflow as tf

    details = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(device, "device_kind", lambda: "gpu")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", {"GPU": details}.get)
    assert device.plan(Recipe("vgg16")) == Plan("gpu", True, precision, fused=False)
    assert device.plan(Recipe(precision="mixed_bfloat16")).precision == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("capability", "precision"),
    [("7.5", "float32"), ("8.0", "mixed_bfloat16"), ("gfx90a", "mixed_bfloat16")],
)
def test_a_gpu_without_bfloat16_computes_in_float32_by_jax(capability, precision, monkeypatch):
    jax = types.SimpleNamespace(
        devices=lambda: [types.SimpleNamespace(compute_capability=capability)]
    )
    monkeypatch.setattr(device, "device_kind", lambda: "gpu")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", jax)
    assert device.plan(Recipe("vgg16")).precision == precision


def test_a_recipe_overrides_every_choice(processor, monkeypatch):
    processor(QUICK)
    chosen = device.plan(Recipe(precision="float32", fused=False, jit_compile=True))
    assert chosen == Plan("cpu", False, "float32", fused=False)  # as Keras compiles it then
    with monkeypatch.context() as patch:
        patch.setattr(device, "device_kind", lambda: "gpu")
        assert device.plan(Recipe(jit_compile=False)).jit_compile is False
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")  # which has XLA alone
    assert device.plan(Recipe(fused=True)) == Plan("cpu", True, "float32", fused=False)


def test_on_a_cpu_keras_itself_compiles_without_xla():
    recipe = Recipe(image_size=32, precision="float32", jit_compile=True)
    trainer = training.compose(training.build(recipe), recipe)
    trainer.compile("sgd", "binary_crossentropy")
    assert trainer.jit_compile is device.plan(recipe).jit_compile is False
    assert training.augmentation(recipe).supports_jit is False


@pytest.fixture(params=["driver", "WSL"])
def idle_gpu(request, tmp_path, monkeypatch):
    """Pretend that an NVIDIA GPU is there, by one sign of it, and that nobody hid it."""
    monkeypatch.setattr(device, "_DRIVERS", [tmp_path / "driver", tmp_path / "WSL"])
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / request.param).touch()
    return tmp_path / request.param


@pytest.mark.parametrize(("backend", "install"), [("tensorflow", "gpu"), ("jax", "jax-gpu")])
def test_a_gpu_that_is_not_used_is_pointed_out(backend, install, idle_gpu, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.warns(UserWarning, match=f"NVIDIA GPU .* `make {install}`"):
        device.warn_of_idle_gpu()
    monkeypatch.setattr(device, "device_kind", lambda: "gpu")
    with warnings.catch_warnings(action="error"):
        device.warn_of_idle_gpu()


def test_several_gpus_are_pointed_out_with_what_uses_them(monkeypatch):
    monkeypatch.setattr(device, "device_kind", lambda: "gpu")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    with pytest.warns(UserWarning, match=r"Found 2 GPUs .* KERAS_BACKEND=jax and --devices all"):
        device.warn_of_idle_gpu()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("JAX_PLATFORMS", "cpu"),
        (None, ""),
    ],
)
def test_no_gpu_is_pointed_out_where_it_is_hidden_or_there_is_none(
    name, value, idle_gpu, monkeypatch
):
    monkeypatch.setenv(name, value) if name else idle_gpu.unlink()
    with warnings.catch_warnings(action="error"):
        device.warn_of_idle_gpu()


def python(code: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


DEFAULTS = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def test_importing_the_package_sets_what_is_unset_and_no_tensorflow_is_imported():
    code = "import os, sys, mura, mura.cli, mura.runs; "
    code += f"print([os.environ[n] for n in {list(DEFAULTS)}], 'tensorflow' in sys.modules)"
    rest = {name: value for name, value in os.environ.items() if name not in DEFAULTS}
    assert python(code, **rest) == f"{list(DEFAULTS.values())} False"
    mine = dict.fromkeys(DEFAULTS, "0")
    assert python(code, **rest | mine) == f"{list(mine.values())} False"
