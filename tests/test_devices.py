"""One training over several devices and processes: JAX, in processes of their own."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mura import models
from mura.data import RadiographBatches
from mura.runs import Run
from mura.training import TrainingError, devices, loop
from mura.training.recipes import recipe

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: `make jax` installs it"
)
# of the phantom's images 322 to fit, 47 tune, 37 valid: the last batch has 2, and tune is odd
SPLIT = {"split_seed": 2}
ALONE = {name: None for name in os.environ if name.startswith(("SLURM", "KERAS_", "XLA_"))}


def python(*arguments: str, **environment: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in ALONE} | environment
    environment |= {"KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def started(processes: int, kill: dict | None = None, **settings) -> list[subprocess.Popen]:
    """Start the processes of a training; ``kill`` is a process to a step."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address, all_of = f"127.0.0.1:{free.getsockname()[1]}", []
    for index in range(processes):
        told = {devices._ADDRESS: address, devices._COUNT: str(processes)}
        told = told | {devices._INDEX: str(index)} if processes > 1 else {}
        script = Path(__file__).with_name("spread.py")
        asked = json.dumps(settings | {"kill": (kill or {}).get(index)})
        all_of.append(python(script, asked, **told))
    return all_of


def trained(processes: int = 1, **settings) -> tuple[Run, str]:
    """Train, and return the run and what its first process printed."""
    printed = []
    for process in started(processes, **settings):
        printed.append(process.communicate(timeout=300)[0])
        assert process.returncode == 0, printed[-1]
    return Run.load(settings["name"], settings["folder"]), printed[0]


@pytest.fixture(scope="module")
def place(phantom_root, tmp_path_factory):
    return {"root": str(phantom_root), "folder": str(tmp_path_factory.mktemp("spread"))}


WAYS = {"two devices": (1, "cpu:2"), "two processes": (2, "all")}


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def alone(request, place):
    """A training on one device."""
    optimizer = {} if request.param == "adamw" else {"sgd": 0.05}
    settings = place | SPLIT | optimizer
    return settings, request.param, trained(name=f"{request.param}-alone", **settings)[0]


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_several_devices_train_as_one_does(way, alone):
    settings, optimizer, one = alone
    processes, spread_over = WAYS[way]
    name = f"{optimizer}-{way.replace(' ', '-')}"
    run, printed = trained(processes, name=name, devices=spread_over, **settings)
    assert ", 2 x cpu, float32" in printed
    losses = ["loss", "tune_loss", "auroc", "tune_auroc"]
    np.testing.assert_allclose(run.history[losses], one.history[losses], rtol=2e-3)
    assert run.predictions["path"].tolist() == one.predictions["path"].tolist()
    probability = [each.predictions["probability"] for each in (run, one)]
    np.testing.assert_allclose(*probability, atol=2e-3)
    if optimizer == "sgd":
        for ours, theirs in zip(*(r.load_model().get_weights() for r in (run, one)), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert run.environment["compute"]["devices"] == 2
    assert [path.name for path in run.folder.parent.glob(f".{name}*")] == []


@needs_jax
@pytest.mark.slow
def test_a_killed_training_goes_on_in_two_processes_and_in_one(place):
    settings = place | SPLIT | {"epochs": 3, "devices": "all"}
    whole, _ = trained(2, name="whole", **settings)
    for name, processes, spread_over, victim in (("again", 2, "all", 1), ("alone", 1, None, 0)):
        killed = started(2, {victim: 30}, name=name, **settings)  # of 21 steps an epoch
        printed = [process.communicate(timeout=200)[0] for process in killed]
        assert all(process.returncode for process in killed)
        assert "stopped" in printed[1 - victim] or "another task died" in printed[1 - victim]
        run, told = trained(processes, name=name, **settings | {"devices": spread_over})
        assert "continuing after epoch 1" in told
        close = 1e-6 if processes == 2 else 2e-3
        losses = ["loss", "tune_loss"]
        np.testing.assert_allclose(run.history[losses], whole.history[losses], rtol=close)


AUGMENTED = """
import jax, keras, numpy as np
from mura import training
from mura.training import devices
recipe = training.recipe("cnn", image_size=32)
images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 1), np.uint8), 4, axis=0)
def augmented():
    layer = training.augmentation(recipe)
    layer.build(images.shape)
    state = [variable.value for variable in layer.non_trainable_variables]
    batch = images
    if spread := keras.distribution.distribution():
        layout = spread.get_data_layout(images.shape).backend_layout
        batch = jax.make_array_from_process_local_data(layout, images)
    call = jax.jit(lambda state, batch: layer.stateless_call([], state, batch, training=True)[0])
    return call(state, batch)
with devices.spread("cpu:2"):
    several = augmented()
    assert len(several.sharding.device_set) == 2
one = np.asarray(augmented())
assert len({image.tobytes() for image in one}) == 4
np.testing.assert_allclose(np.asarray(several), one, atol=1)  # rounded gray values
"""


@needs_jax
@pytest.mark.slow
def test_devices_augment_their_images_differently():
    process = python("-c", AUGMENTED)
    printed = process.communicate(timeout=200)[0]
    assert process.returncode == 0, printed


def test_other_backends_refuse_several_devices(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with (
        pytest.raises(TrainingError, match=r"--devices all: tensorflow trains on one device.*jax"),
        devices.spread("all"),
    ):
        pass
    with devices.spread("1"):
        assert devices.count() == 1


@pytest.mark.parametrize(("size", "nearest"), [(30, "take 28 or 32"), (3, "take 4")])
def test_a_batch_that_cannot_be_shared_names_the_nearest(size, nearest, monkeypatch):
    monkeypatch.setattr(devices, "count", lambda: 4)
    with pytest.raises(TrainingError, match=rf"batch_size {size}: 4 devices .* {nearest}\."):
        devices.refuse_ragged(size)
    devices.refuse_ragged(8)


def noise(count: int, seed: int | None, **settings) -> RadiographBatches:
    pixels = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 32, 32), np.uint8)
    targets = np.arange(count, dtype=np.float32)[:, None] % 2
    weights = np.linspace(0.5, 2, count, dtype=np.float32)
    return RadiographBatches(pixels, np.arange(count), targets, weights, 8, seed, **settings)


def dealt(count: int, seed: int | None, **settings) -> list[tuple]:
    batches = noise(count, seed, **settings)
    return [batches[index] for index in range(len(batches))]


@pytest.mark.parametrize("seed", [None, 3])
def test_shares_of_a_batch_are_the_whole_batch(seed):
    whole = dealt(22, seed, devices=4)
    parts = [dealt(22, seed, devices=4, shard=(index, 2)) for index in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 3
    for batch, *shares in zip(whole, *parts, strict=True):
        for values, *some in zip(batch, *shares, strict=True):
            np.testing.assert_array_equal(np.concatenate(some), values)


def test_what_is_left_of_shuffled_images_waits_for_the_next_shuffle():
    assert [len(x) for x, _, _ in dealt(23, 0, devices=4)] == [8, 8, 4]
    assert [len(x) for x, _, _ in dealt(17, 0, devices=2)] == [8, 8]
    one, four = (np.concatenate([x for x, _, _ in dealt(23, 0, devices=n)]) for n in (1, 4))
    np.testing.assert_array_equal(four, one[:20])


def test_neither_loss_nor_metrics_see_the_images_that_fill_up():
    def judged(**settings):
        model = models.build("cnn", 32)
        model.compile(loss="binary_crossentropy", weighted_metrics=loop._metrics(recipe("cnn")))
        batches = noise(21, None, **settings)
        return len(batches.rows), model.evaluate(batches, verbose=0, return_dict=True)

    (images, one), (filled, four) = judged(), judged(devices=4)
    assert (images, filled) == (21, 24)
    assert four["auroc"] == one["auroc"]
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_metrics_count_each_image_once():
    y, p, w = np.array([[0.0], [1], [1], [0]]), np.array([[0.1], [0.8], [0.3], [0.4]]), [9, 2, 1, 0]
    [counted], plain = loop._metrics(recipe("cnn")), keras.metrics.AUC()
    counted.update_state(y, p, np.array(w))
    plain.update_state(y[:3], p[:3])
    assert counted.result() == plain.result()
