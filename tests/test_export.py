"""The exported model: the same answers without TensorFlow, and never those of another model."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from mura import models
from mura.export import (
    DIGESTS,
    EXPORTED,
    ExportedModel,
    ExportError,
    _digest,
    export,
    exported_model,
)
from mura.files import write_json
from mura.runs import RUN_FILES, Run

SIZE = 32
# imports that a first answer may not wait for
HEAVY = ("tensorflow", "keras", "jax", "sklearn", "scipy", "matplotlib")


def opinionated(name: str, size: int) -> tuple[keras.Model, np.ndarray]:
    """Return a network and two images that it answers with 0.1 and 0.9.

    Random weights alone would answer nearly the same for everything.
    """
    model = models.build(name, size)
    random = np.random.default_rng(0)
    images = [random.integers(0, high, (size, size, 1), np.uint8) for high in (40, 255)]
    features = keras.Model(model.input, model.get_layer("pool").output)
    one, two = np.asarray(features(np.stack(images), training=False), np.float64)
    wanted = np.log(9)  # the logit of 0.9
    kernel = (two - one) * (2 * wanted / np.sum((two - one) ** 2))
    bias = np.array([wanted - two @ kernel])
    model.get_layer("abnormal").set_weights([kernel[:, None], bias])
    return model, np.stack(images)


def run_of(model: keras.Model, folder) -> Run:
    folder.mkdir()
    for name in RUN_FILES:  # prediction and export read the model alone
        (folder / name).write_text("{}")
    model.save(folder / "model.keras")
    return Run(folder)


@pytest.fixture(scope="module")
def model_and_images():
    return opinionated("cnn", SIZE)


@pytest.fixture(scope="module")
def exported(model_and_images, tmp_path_factory):
    """A run with its export: do not write there."""
    run = run_of(model_and_images[0], tmp_path_factory.mktemp("models") / "exported")
    assert export(run) == run.folder / EXPORTED
    return run


@pytest.fixture
def copy(exported, tmp_path):
    return Run(shutil.copytree(exported.folder, tmp_path / "copy"))


def test_an_exported_model_answers_as_its_keras_model(exported, model_and_images):
    images = model_and_images[1]
    answers = exported_model(exported)(images)
    assert answers.dtype == np.float32
    assert answers.shape == (2, 1)
    np.testing.assert_allclose(answers[:, 0], [0.1, 0.9], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.ARCHITECTURES if name != "cnn"])
def test_every_architecture_answers_as_its_keras_model(name, tmp_path):
    size = max(64, models.ARCHITECTURES[name].minimum_size)
    model, images = opinionated(name, size)
    run = run_of(model, tmp_path / name)
    export(run)
    exported = exported_model(run)
    assert exported.input_shape == (None, size, size, 1)
    answers = np.asarray(model(images, training=False))
    np.testing.assert_allclose(answers[:, 0], [0.1, 0.9], atol=1e-2)
    np.testing.assert_allclose(exported(images), answers, atol=1e-3)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.keras", b""), (EXPORTED, b"damaged"), (DIGESTS, b"{"), (DIGESTS, b"[1]")],
)
def test_a_stale_or_damaged_export_is_not_even_opened(copy, monkeypatch, file, content):
    monkeypatch.setattr("mura.export.ExportedModel", None)
    (copy.folder / file).write_bytes(content)
    with pytest.warns(UserWarning, match="was replaced or damaged.*`mura export copy`"):
        assert exported_model(copy) is None


def test_an_interrupted_export_is_not_used(copy, monkeypatch):
    """Killed between the two files: the old digests must not vouch for the new model."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mura.export.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        export(copy)
    with pytest.warns(UserWarning, match="mura export copy"):
        assert exported_model(copy) is None


def test_without_the_interpreter_the_keras_model_answers(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.warns(UserWarning, match="ai-edge-litert"):
        assert exported_model(copy) is None


def foreign(folder, shapes=((8, 8, 1),), dtype="uint8", units=1, kernel=0.0):
    """Return a run with a LiteRT file of some network, and digests that vouch for it."""
    images = [keras.Input(shape, dtype=dtype) for shape in shapes]
    scaled = [keras.layers.Rescaling(1 / 255)(image) for image in images]
    x = keras.layers.Concatenate()([keras.layers.Flatten()(each) for each in scaled])
    dense = keras.layers.Dense(units, kernel_initializer=keras.initializers.Constant(kernel))
    model = keras.Model(images, dense(x))
    folder.mkdir()
    model.save(folder / "model.keras")
    model.export(folder / EXPORTED, format="litert", verbose=False)
    digests = {name: _digest(folder / name) for name in ("model.keras", EXPORTED)}
    write_json(folder / DIGESTS, digests)
    return Run(folder)


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ({"shapes": ((8, 8, 1), (8, 8, 1))}, r"uint8 \(1, 8, 8, 1\), uint8 \(1, 8, 8, 1\), float"),
        ({"shapes": ((8,),)}, r"gives uint8 \(1, 8\), "),
        ({"dtype": "float32"}, r"gives float32 \(1, 8, 8, 1\), "),
        ({"units": 2}, r"float32 \(1, 2\); expected"),
    ],
)
def test_a_network_of_another_kind_is_not_used(tmp_path, network, found):
    run = foreign(tmp_path / "foreign", **network)
    with pytest.raises(ExportError, match=found):
        ExportedModel(run.folder / EXPORTED)
    with pytest.warns(UserWarning, match=r"the slower model\.keras answers instead"):
        assert exported_model(run) is None


@pytest.mark.parametrize("kernel", [100.0, np.nan])
def test_an_answer_that_is_no_probability_is_none(tmp_path, kernel):
    model = exported_model(foreign(tmp_path / "foreign", kernel=kernel))
    with pytest.raises(ExportError, match=r"model\.tflite: answers .*, which is not a probability"):
        model(np.full((2, 8, 8, 1), 255, np.uint8))


def test_a_cold_answer_of_an_exported_run_imports_nothing_heavy(exported, phantom_root):
    image = next(phantom_root.rglob("image1.png"))
    code = (
        "import sys; from mura.cli import main; status = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", str(exported.folder), str(image), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    answers, _, last = done.stdout.rstrip().rpartition("\n")
    assert last == "[] 0"
    [answer] = json.loads(answers)
    assert answer["path"] == str(image)
    assert 0 <= answer["probability"] <= 1
