"""The exported model: the same answers without TensorFlow, and never those of another model."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from made_runs import facts
from networks import noise_images

from mura import models
from mura.explain import receptive_field
from mura.explain.cam import activation_maps, evidence_reader
from mura.export import (
    EXPORTED,
    ExportedModel,
    ExportError,
    LoadedModel,
    _digest,
    _with_facts,
    export,
    exported_model,
)
from mura.files import write_json
from mura.models import novelty
from mura.runs import DECISIONS, NOVELTY, RUN_FILES, Run

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
    write_json(folder / "environment.json", facts())
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
    answers = exported_model(exported)(images)["probability"]
    assert answers.dtype == np.float32
    assert answers.shape == (2, 1)
    np.testing.assert_allclose(answers[:, 0], [0.1, 0.9], atol=1e-3)


EVERY = [
    pytest.param(name, marks=pytest.mark.slow) for name in models.ARCHITECTURES if name != "cnn"
]


@pytest.mark.parametrize("name", ["cnn", *EVERY, pytest.param("joint", marks=pytest.mark.slow)])
def test_every_architecture_answers_looks_and_knows_as_its_keras_model(name, tmp_path):
    if name == "joint":
        size, images = 64, noise_images(2, 64)
        model = models.abnormal_model(models.build("cnn", size, head="joint"))
    else:
        size = max(64, models.ARCHITECTURES[name].minimum_size)
        model, images = opinionated(name, size)
    run = run_of(model, tmp_path / name)
    more = noise_images(40, size, seed=1)[..., 0]
    rows = np.arange(30), np.arange(30, 40)
    np.savez(run.folder / NOVELTY, **novelty.fit(model, more, *rows))
    export(run)
    exported = exported_model(run)
    assert exported.input_shape == (None, size, size, 1)
    found, wanted = exported(images), LoadedModel(model, run, maps=True)(images)
    assert found.keys() == wanted.keys() == {"probability", "map", "distance"}
    np.testing.assert_allclose(found["probability"], wanted["probability"], atol=1e-3)
    np.testing.assert_allclose(found["distance"], wanted["distance"], rtol=1e-3)
    evidence, _ = evidence_reader(model)(images)
    maps = activation_maps(evidence, size, receptive_field.grid(model, "feature_maps"))
    np.testing.assert_allclose(found["map"], maps, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_every_architecture_answers_the_same_by_onnx(name, tmp_path):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    size = max(64, models.ARCHITECTURES[name].minimum_size)
    model, images = opinionated(name, size)
    session = runtime.InferenceSession(export(run_of(model, tmp_path / name), format="onnx"))
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))
    for name, wanted in LoadedModel(model, maps=True)(images).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-3)


def test_weights_of_16_bits_are_half_and_answer_nearly_the_same(copy, exported, model_and_images):
    whole = (exported.folder / EXPORTED).stat().st_size
    assert export(copy, half=True).stat().st_size < 0.6 * whole
    answers = exported_model(copy)(model_and_images[1])["probability"]
    np.testing.assert_allclose(answers[:, 0], [0.1, 0.9], atol=5e-3)


def test_an_export_brings_the_decisions_and_the_card(model_and_images, tmp_path):
    run = run_of(model_and_images[0], tmp_path / "decided")
    decisions = {"temperature": 2.0, "shift": -1.0, "points": {"trained": [0.5, 0.5]}}
    write_json(run.folder / DECISIONS, decisions)
    exported = ExportedModel(export(Run(run.folder)))
    assert (exported.name, exported.decisions) == ("decided", decisions)
    assert exported.card == (run.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.keras", b""), (EXPORTED, b"damaged"), (EXPORTED, b"")],
)
def test_a_stale_or_damaged_export_is_not_used(copy, file, content):
    (copy.folder / file).write_bytes(content)
    with pytest.warns(UserWarning, match="damaged.*`mura export copy`"):
        assert exported_model(copy) is None


def test_a_network_that_was_changed_in_the_export_is_not_opened(copy):
    file = copy.folder / EXPORTED
    content = bytearray(file.read_bytes())
    content[1000] ^= 255
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged.*`mura export copy`"):
        assert exported_model(copy) is None


def test_an_export_of_an_earlier_version_is_refused(copy, model_and_images):
    model_and_images[0].export(copy.folder / EXPORTED, format="litert", verbose=False)
    with pytest.warns(UserWarning, match="this version's.*`mura export copy` writes it anew"):
        assert exported_model(copy) is None


def test_without_the_interpreter_the_keras_model_answers(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.warns(UserWarning, match="ai-edge-litert"):
        assert exported_model(copy) is None


def foreign(folder, shapes=((8, 8, 1),), dtype="uint8", units=1, kernel=0.0):
    """Return the LiteRT file of some network, with facts that vouch for it."""
    images = [keras.Input(shape, dtype=dtype) for shape in shapes]
    scaled = [keras.layers.Rescaling(1 / 255)(image) for image in images]
    x = keras.layers.Concatenate()([keras.layers.Flatten()(each) for each in scaled])
    dense = keras.layers.Dense(units, kernel_initializer=keras.initializers.Constant(kernel))
    model = keras.Model(images, {"probability": dense(x)})
    run = run_of(model, folder)
    model.export(folder / EXPORTED, format="litert", verbose=False)
    content = (folder / EXPORTED).read_bytes()
    (folder / EXPORTED).write_bytes(_with_facts(content, run, _digest(folder / "model.keras")))
    return folder / EXPORTED


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ({"shapes": ((8, 8, 1), (8, 8, 1))}, r"uint8"),
        ({"shapes": ((8,),)}, r"uint8"),
        ({"dtype": "float32"}, r"float32"),
    ],
)
def test_a_network_of_another_kind_is_not_used(tmp_path, network, found):
    with pytest.raises(ExportError, match=f"takes .*{found}.*expected an exported run"):
        ExportedModel(foreign(tmp_path / "foreign", **network))


@pytest.mark.parametrize("kernel", [100.0, np.nan])
def test_an_answer_that_is_no_probability_is_none(tmp_path, kernel):
    model = ExportedModel(foreign(tmp_path / "foreign", kernel=kernel))
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
