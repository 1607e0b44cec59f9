"""The compute policy: what it chooses, that a recipe overrides it, and that it is applied."""

import ctypes
import os
import platform
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest
from tiny import tiny_run

from mura.models import architectures
from mura.runs import load_model
from mura.training import checkpoint as fitting
from mura.training import device as compute
from mura.training import loop as trainers
from mura.training.recipes import recipe

AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"
FLAGS = "flags\t\t: fpu sse avx avx512f avx512_bf16"
WITH = f"{AMD}{FLAGS} clzero\n"
WITHOUT = "flags\t\t: fpu sse avx avx2 avx512f avx512_vnni\n"
pytestmark = pytest.mark.skipif(
    compute.device_kind() != "cpu" or keras.backend.backend() != "tensorflow",
    reason="these are the choices for TensorFlow on a CPU: unset KERAS_BACKEND, hide the GPU",
)


@pytest.fixture(autouse=True)
def onednn_unset(monkeypatch):
    monkeypatch.setenv(compute.ONEDNN, "0")  # so that what a test sets is undone as well
    monkeypatch.delenv(compute.ONEDNN)


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Pretend to run on a processor with the given text in /proc/cpuinfo."""

    def pretend(text: str | None) -> None:
        file = tmp_path / "cpuinfo"
        if text is None:
            file.unlink(missing_ok=True)
        else:
            file.write_text(text)
        monkeypatch.setattr(compute, "CPUINFO", file)

    return pretend


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WITH, True),
        (f"{INTEL}{FLAGS} amx_bf16 amx_tile\n", True),
        (f"{INTEL}{FLAGS} avx512_fp16\n", False),  # as where a virtual machine hides AMX
        (f"{AMD}{WITHOUT}", False),
        (None, False),
    ],
)
def test_bfloat16_is_chosen_where_the_processor_gains(text, expected, processor):
    processor(text)
    assert compute.cpu_gains_by_bfloat16() is expected
    for name, architecture in architectures.ARCHITECTURES.items():
        gains = expected and architecture.family != "EfficientNetV2"
        assert compute.policy(name).precision == ("mixed_bfloat16" if gains else "float32")


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_on_a_cpu_nothing_is_compiled_with_xla(name, processor):
    processor(WITHOUT)
    assert compute.policy(name) == compute.ComputePolicy("cpu", False, "float32", fused=True)


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_kernels_are_fused_in_bfloat16_too(name, processor):
    processor(WITH)
    chosen = compute.policy(name, precision="mixed_bfloat16")
    assert chosen == compute.ComputePolicy("cpu", False, "mixed_bfloat16", fused=True)


def test_a_loaded_model_predicts_in_its_own_precision(processor):
    processor(WITH)
    assert compute.policy() == compute.ComputePolicy("cpu", False, "float32", fused=True)


def test_on_a_gpu_it_is_xla_and_mixed_bfloat16(monkeypatch):
    monkeypatch.setattr(compute, "device_kind", lambda: "gpu")
    expected = compute.ComputePolicy("gpu", True, "mixed_bfloat16")
    assert compute.policy("densenet169") == expected


# T4, A100, H100; unknown
CAPABILITIES = [((7, 5), "float32"), ((8, 0), "mixed_bfloat16"), ((9, 0), "mixed_bfloat16")]
CAPABILITIES += [(None, "mixed_bfloat16")]


@pytest.mark.parametrize(("capability", "expected"), CAPABILITIES)
def test_a_gpu_without_bfloat16_computes_in_float32(capability, expected, monkeypatch):
    import tensorflow as tf

    details = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(compute, "device_kind", lambda: "gpu")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", {"GPU": details}.get)
    assert compute.policy("vgg16").precision == expected
    assert compute.policy("vgg16", precision="mixed_bfloat16").precision == "mixed_bfloat16"


@pytest.mark.parametrize(("capability", "expected"), [*CAPABILITIES, ("gfx90a", "mixed_bfloat16")])
def test_a_gpu_without_bfloat16_computes_in_float32_by_jax(capability, expected, monkeypatch):
    device = types.SimpleNamespace()
    if capability is not None:
        text = capability if isinstance(capability, str) else ".".join(map(str, capability))
        device.compute_capability = text
    monkeypatch.setattr(compute, "device_kind", lambda: "gpu")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=lambda: [device]))
    assert compute.policy("vgg16").precision == expected


@pytest.fixture(params=["NVIDIA_DRIVER", "WSL_DRIVER"])
def idle_gpu(request, tmp_path, monkeypatch):
    """Pretend that an NVIDIA GPU is there, by one sign of it, and that nobody hid it."""
    for name in ("NVIDIA_DRIVER", "WSL_DRIVER"):
        monkeypatch.setattr(compute, name, tmp_path / name)
    file = tmp_path / request.param
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module\n")
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    return file


@pytest.mark.parametrize(
    ("backend", "install"),
    [("tensorflow", "`make gpu`"), ("jax", "`make jax-gpu`")],
)
def test_a_gpu_that_is_not_used_is_pointed_out_in_one_line(backend, install, idle_gpu, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.warns(RuntimeWarning) as caught:
        compute.warn_of_idle_gpu("cpu")
    [text] = [str(warning.message) for warning in caught]
    for part in ("NVIDIA GPU", install, "TF_CPP_MIN_LOG_LEVEL=0"):
        assert part in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "settle",
    [
        lambda patch, file: file.unlink(),
        lambda patch, file: patch.setenv("CUDA_VISIBLE_DEVICES", ""),
        lambda patch, file: patch.setenv("CUDA_VISIBLE_DEVICES", "-1"),
        lambda patch, file: patch.setattr(keras.backend, "backend", lambda: "torch"),
    ],
    ids=["no GPU", "hidden", "hidden by a number", "another backend"],
)
def test_no_gpu_is_pointed_out_where_there_is_none_to_use(settle, idle_gpu, monkeypatch):
    settle(monkeypatch, idle_gpu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute.warn_of_idle_gpu("cpu")


def test_no_gpu_is_pointed_out_where_one_is_used_or_jax_was_told_not_to(idle_gpu, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute.warn_of_idle_gpu("gpu")
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        monkeypatch.setenv("JAX_PLATFORMS", "cpu")
        compute.warn_of_idle_gpu("cpu")


def test_a_recipe_overrides_every_choice(processor):
    processor(WITH)
    chosen = compute.policy("cnn", precision="float32", jit_compile=True)
    assert chosen == compute.ComputePolicy("cpu", True, "float32", fused=False)
    assert compute.policy("vgg16", fused=False).fused is False
    assert compute.policy("cnn", jit_compile=True, fused=True).fused is True


@pytest.mark.parametrize(
    ("text", "set_to", "expected"),
    [
        ("flags\t\t: fpu avx avx2 fma\n", None, "1"),
        ("flags\t\t: fpu avx avx2 avx512f\n", None, "1"),
        ("flags\t\t: fpu avx avx2 fma\n", "0", "0"),  # whoever runs it has the last word
        (WITHOUT, None, None),  # TensorFlow takes them by itself
        ("flags\t\t: fpu avx avx2 avx_vnni\n", None, None),
        ("flags\t\t: fpu sse avx\n", None, None),
        (None, None, None),
    ],
)
def test_onednn_is_chosen_where_tensorflow_would_not(
    text, set_to, expected, processor, monkeypatch
):
    processor(text)
    if set_to is not None:
        monkeypatch.setenv(compute.ONEDNN, set_to)
    monkeypatch.delitem(sys.modules, "tensorflow")
    compute.use_onednn()
    assert os.environ.get(compute.ONEDNN) == expected
    recorded = {"1": True, "0": False, None: None}[expected]
    assert compute.policy("cnn").onednn is recorded


def test_tensorflow_imported_first_is_warned_about_where_it_costs_time(processor, monkeypatch):
    processor("flags\t\t: fpu avx avx2 fma\n")
    with pytest.warns(RuntimeWarning, match="import mura before keras"):
        compute.use_onednn()
    assert compute.ONEDNN not in os.environ
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor(WITHOUT)
        compute.use_onednn()
        processor("flags\t\t: fpu avx avx2 fma\n")
        monkeypatch.setenv(compute.ONEDNN, "0")
        compute.use_onednn()


def test_tensorflow_heeds_the_choice():
    if "avx2" not in compute._processor_words():
        pytest.skip("needs Linux on a processor with AVX2")
    code = (
        "import mura, keras; from tensorflow.python.framework import test_util; "
        "print(test_util.IsMklEnabled())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


def test_jax_has_no_other_way_than_xla(processor, monkeypatch):
    processor(WITH)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    expected = compute.ComputePolicy("cpu", True, "float32", fused=False)
    assert compute.policy("vgg16") == expected
    assert compute.policy("vgg16", fused=True) == expected


def test_a_training_is_compiled_and_recorded_as_chosen(phantom_root, tmp_path, monkeypatch):
    compiled = []
    compile_trainer = trainers.compile_trainer

    def spy(trainer, *arguments):
        compile_trainer(trainer, *arguments)
        compiled.append(trainer)

    monkeypatch.setattr(fitting, "compile_trainer", spy)
    run = tiny_run(phantom_root, tmp_path, epochs=1, precision="mixed_bfloat16", fused=True)
    [trainer] = compiled
    assert trainer.jit_compile is False
    network = next(layer for layer in trainer.layers if isinstance(layer, keras.Model))
    convolutions = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions} == {"bfloat16"}
    assert {layer.variable_dtype for layer in convolutions} == {"float32"}
    assert network.get_layer("abnormal").compute_dtype == "float32"
    assert network.output.dtype == "float32"
    kinds = {type(layer).__name__ for layer in network.layers}
    assert "FusedNormalization" in kinds
    assert "BatchNormalization" not in kinds
    assert type(trainer.optimizer).__name__ == "FusedAdam"
    expected = {"device": "cpu", "jit_compile": False, "precision": "mixed_bfloat16", "fused": True}
    assert run.environment["compute"] == expected | {"onednn": None}
    # the saved model is made of Keras's own layers, computes in float32, and predicts without XLA
    saved = load_model(run.folder / "model.keras")
    assert saved.jit_compile is False
    assert {type(layer).__module__.split(".")[0] for layer in saved.layers} == {"keras"}
    assert {layer.compute_dtype for layer in saved.layers if layer.weights} == {"float32"}
    assert np.isfinite(run.predictions["probability"]).all()


def test_a_model_is_predicted_with_as_it_is_unless_it_answers_sooner_otherwise():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), np.uint8)
    cnn, convnext = architectures.build("cnn", 32), architectures.build("convnext_tiny", 32)
    assert compute.for_prediction(cnn) is cnn
    quicker = compute.for_prediction(convnext)
    assert quicker is not convnext
    assert quicker.jit_compile is False
    assert not any(getattr(layer, "groups", 1) > 1 for layer in quicker.layers)
    expected = convnext(images, training=False)
    np.testing.assert_allclose(quicker.predict(images, verbose=0), expected, atol=1e-5)


def test_a_training_step_is_traced_once():
    """Tracing a large network takes most of the time to the first step."""
    traced = []

    class Noted(keras.layers.Layer):
        def call(self, x):
            traced.append(keras.backend.is_keras_tensor(x))
            return x

    image = keras.Input((4,))
    trainer = keras.Model(image, keras.layers.Dense(1, "sigmoid")(Noted()(image)))
    chosen = recipe("cnn", average_momentum=0.9, optimizer="adamw")
    [stage] = trainers.stages(chosen, pretrained=False)
    trainers.compile_trainer(trainer, chosen, stage, steps=2, plan=compute.policy("cnn"))
    traced.clear()  # of building the model
    trainer.fit(np.ones((8, 4)), np.ones((8, 1)), batch_size=4, verbose=0)
    assert traced == [False]


def test_freed_memory_is_kept_where_the_system_can(monkeypatch):
    """Steps that free and take large blocks cause few page faults afterwards, and many before."""
    code = """
import resource, sys
import numpy as np
from mura.training import device as compute
if sys.argv[1] == "kept":
    compute.keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(40_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if platform.libc_ver()[0] != "glibc":
        monkeypatch.setattr(ctypes, "CDLL", None)
        compute.keep_freed_memory()  # it does nothing
        return
    faults = {
        way: int(subprocess.run([sys.executable, "-c", code, way], capture_output=True,
                                text=True, check=True).stdout)
        for way in ("default", "kept")
    }  # fmt: skip
    assert faults["kept"] < faults["default"] / 2


def test_importing_the_package_is_free_of_tensorflow():
    modules = "mura, mura.cli, mura.compute, mura.export, mura.prediction, mura.runs, mura.manifest"
    code = f"import sys, {modules}; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "sharing"),
    [("TF_FORCE_GPU_ALLOW_GROWTH", "true"), ("XLA_PYTHON_CLIENT_PREALLOCATE", "false")],
)
def test_a_gpus_memory_is_shared_unless_the_environment_says_otherwise(name, sharing, monkeypatch):
    monkeypatch.delenv(name)  # importing mura has set it
    compute.share_gpu_memory()
    assert os.environ[name] == sharing
    monkeypatch.setenv(name, "as I say")
    compute.share_gpu_memory()
    assert os.environ[name] == "as I say"


@pytest.mark.parametrize(
    ("backend", "few", "by_graph"),
    [("tensorflow", True, False), ("tensorflow", False, True), ("jax", True, True)],
)
def test_few_images_earn_no_graph_unless_jax_compiles_each_operation(
    monkeypatch, backend, few, by_graph
):
    class Network:
        layers = ()

        def __call__(self, images, training):
            return "by layers"

        def predict_on_batch(self, images):
            return "by graph"

    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    answer = compute.answering(Network(), few)
    assert answer(None) == ("by graph" if by_graph else "by layers")
