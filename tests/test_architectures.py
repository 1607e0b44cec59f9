"""Every architecture: Keras's own network on the preprocessed image, saved and loaded as it is."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from networks import noise_images, randomise, write_keras_file

from mura import models
from mura.data import BODY_PARTS
from mura.models import (
    ARCHITECTURES,
    Architecture,
    ArchitectureError,
    abnormal_model,
    backbone,
    build,
    load,
    stage_table,
)
from mura.models.custom_cnn import WIDTHS

KERAS = [name for name in ARCHITECTURES if name != "cnn"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in KERAS]
HEADS = ("binary", "joint")


@pytest.mark.parametrize("name", ["vgg16", *SLOW[1:]])
def test_a_backbone_is_kerass_own(name, tmp_path):
    """One build per network, because building is what takes the time."""
    size, file = ARCHITECTURES[name].minimum_size, ARCHITECTURES[name].weights_file
    builder = getattr(keras.applications, ARCHITECTURES[name].builder)
    reference = builder(include_top=False, weights=None, input_shape=(size, size, 3))
    randomise(reference)
    write_keras_file(reference, tmp_path / file)
    model = build(name, size, weights=str(tmp_path))
    images = noise_images(2, size)

    assert model.origin.description == f"file:{file}"
    for one, other in zip(backbone(model).weights, reference.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=other.path)
    _compute_the_same(model, reference, sys.modules[builder.__module__], images)
    assert model.count_params() == reference.count_params() + reference.output.shape[-1] + 1
    _survive_a_bare_call(model, images)
    _survive_saving(model, images, tmp_path / "model.keras")


@pytest.mark.parametrize("name", SLOW)
def test_the_published_parameter_count_is_that_of_the_network_with_its_head(name):
    whole = getattr(keras.applications, ARCHITECTURES[name].builder)(include_top=True, weights=None)
    assert whole.count_params() == ARCHITECTURES[name].parameters


def _compute_the_same(model, reference, module, images):
    rgb = np.repeat(images, 3, axis=-1).astype(np.float32)
    expected = np.asarray(reference(module.preprocess_input(rgb.copy()), training=False))
    features = np.asarray(backbone(model)(images, training=False))
    scale = np.abs(expected).max()
    assert expected.std() > 1e-3 * scale  # else anything would be equal
    tolerance = {"rtol": 1e-4, "atol": 1e-4 * scale}
    np.testing.assert_allclose(features, expected, **tolerance)
    # another preprocessing would have been noticed
    wrong = np.asarray(reference(rgb / 255, training=False))
    assert not np.allclose(wrong, expected, **tolerance)

    kernel, bias = model.get_layer("abnormal").get_weights()
    logit = expected.mean(axis=(1, 2), dtype=np.float64) @ kernel + bias
    probability = np.asarray(model(images))
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-4)
    assert probability.dtype == np.float32
    assert probability.shape == (len(images), 1)


def _survive_a_bare_call(model, images):
    before = model.get_weights()
    first, second = np.asarray(model(images)), np.asarray(model(images))
    np.testing.assert_array_equal(first, second)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def _survive_saving(model, images, file):
    model.save(file)
    loaded = load(file)
    model.compile(jit_compile=False)  # as a loaded model is
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    _survive_a_bare_call(loaded, images)
    maps = keras.Model(loaded.input, loaded.get_layer("feature_maps").output)
    np.testing.assert_array_equal(np.asarray(maps(images)), np.asarray(backbone(model)(images)))


def test_a_random_resnets_blocks_begin_as_their_shortcuts():
    resnet = build("resnet50", 32)
    blocks = [layer for layer in resnet.layers if layer.name.endswith("_add")]
    assert len(blocks) == 16
    for block in blocks:
        sources = [tensor._keras_history.operation for tensor in block.input]
        [added] = [layer for layer in sources if layer.name.endswith("_3_bn")]
        assert not np.asarray(added.gamma).any()
    others = [x for x in resnet.layers if x.name.endswith(("_0_bn", "_1_bn", "_2_bn"))]
    assert all(np.asarray(layer.gamma).all() for layer in others)


def test_the_joint_heads_answer_is_the_sum_over_the_abnormal_classes(tmp_path):
    joint = build("cnn", 32, head="joint")
    randomise(joint, seed=3)
    images = noise_images(5, 32)
    shares = np.asarray(joint(images))
    assert shares.shape == (5, 14)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    # class = label x 7 + body part, so that the last seven are abnormal
    expected = shares[:, [1 * 7 + part for part in range(len(BODY_PARTS))]].sum(axis=1)
    answer = abnormal_model(joint)
    np.testing.assert_allclose(np.asarray(answer(images))[:, 0], expected, atol=1e-6)
    assert expected.std() > 0

    answer.save(tmp_path / "model.keras")
    loaded = load(tmp_path / "model.keras")
    assert loaded.output_shape == (None, 1)
    assert loaded.get_layer("feature_maps").output.shape[-1] == 160
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(answer(images)))
    binary = build("cnn", 32)
    assert abnormal_model(binary) is binary


def test_the_head_computes_in_float32_in_mixed_precision():
    keras.config.set_dtype_policy("float64")  # the user's own
    try:
        models = [build("cnn", 32, head=head, dtype="mixed_bfloat16") for head in HEADS]
        assert keras.config.dtype_policy().name == "float64"
    finally:
        keras.config.set_dtype_policy("float32")
    for model, head in zip(models, ("abnormal", "classes"), strict=True):
        assert model.get_layer("stage1_a_conv").compute_dtype == "bfloat16"
        assert {model.get_layer(name).compute_dtype for name in ("pool", "dropout", head)} == {
            "float32"
        }
        assert model(noise_images(2, 32)).dtype == "float32"
        assert {str(weight.dtype) for weight in model.trainable_variables} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("alexnet", 64), "alexnet.*choose one of cnn, vgg16"),
        (("inception_v3", 64), "64 px are too small; it needs 75"),
        (("cnn", 64, None, True, "ternary"), "ternary.*binary or joint"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(arguments, words):
    with pytest.raises(ArchitectureError, match=words):
        build(*arguments)


def own(monkeypatch, builder):
    """Register a network that is none of Keras's, as a notebook may."""
    entry = Architecture("mine", "Mine", "Mine", "this test", 0, builder)
    monkeypatch.setitem(ARCHITECTURES, "mine", entry)


def test_a_network_of_ones_own_is_built_like_the_others(monkeypatch, tmp_path):
    def maps(image):
        x = keras.layers.Rescaling(1 / 255)(image)
        return keras.layers.Conv2D(4, 3, strides=4)(x)

    own(monkeypatch, maps)
    model = build("mine", 32)
    model.save(tmp_path / "model.keras")
    images = noise_images(2, 32)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(load(tmp_path / "model.keras").predict(images), expected)
    assert [layer.name for layer in backbone(model).layers][-1] == "feature_maps"


class Unregistered(keras.layers.Layer):
    """A layer that Keras could not find again."""

    def call(self, x):
        return x


def plain(x, **_):
    """A function that Keras does not know, of any use."""
    return keras.ops.relu(x)


def ones(shape, dtype=None):
    return keras.ops.ones(shape, dtype)


@keras.saving.register_keras_serializable("tests")
class Forgetful(keras.layers.Layer):
    """A layer that loads again, as another one: its config lacks what it was made with."""

    def __init__(self, gain=1.0, **settings):
        super().__init__(**settings)
        self.gain = gain

    def call(self, x):
        return x * self.gain

    def get_config(self):
        return {"name": self.name}


def convolution(**settings):
    return keras.layers.Conv2D(4, 3, name="own", **settings)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Unregistered(name="own"),
        lambda: keras.layers.Lambda(lambda x: x, name="own"),
        lambda: keras.Sequential([keras.layers.ReLU(), Unregistered(name="own")]),
        lambda: convolution(activation=plain),
        lambda: keras.layers.Activation(plain),
        lambda: convolution(kernel_initializer=ones),
        lambda: convolution(kernel_regularizer=lambda kernel: 1e-4 * keras.ops.sum(kernel)),
        lambda: convolution(kernel_constraint=plain),
        lambda: keras.layers.TimeDistributed(keras.layers.Dense(4, activation=plain)),
        lambda: Forgetful(3.0),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_before_the_training(layer, monkeypatch):
    scaled = keras.layers.Rescaling(1 / 255)
    own(monkeypatch, lambda image: layer()(scaled(image)))
    with pytest.raises(models.ModelError, match=r"mine: a saved copy .*register_keras_serializ"):
        build("mine", 32)


def test_a_network_of_keras_own_layers_is_built(monkeypatch):
    scaled = keras.layers.Rescaling(1 / 255)
    own(monkeypatch, lambda image: convolution(activation="gelu")(scaled(image)))
    assert build("mine", 32).output_shape == (None, 1)


SETTINGS = [
    ("image_data_format", "channels_first"),
    ("floatx", "float16"),
    ("floatx", "float64"),
    ("epsilon", 1e-2),
    ("max_epochs", 1),
    ("max_steps_per_epoch", 2),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_kerass_global_settings_change_no_network(name, value):
    expected = build("cnn", 64)
    usual = getattr(keras.config, name)()
    getattr(keras.config, f"set_{name}")(value)
    try:
        with pytest.warns(UserWarning, match=rf"{name} from {value} to {usual}"):
            found = build("cnn", 64)
        assert getattr(keras.config, name)() == usual
    finally:
        getattr(keras.config, f"set_{name}")(usual)
    assert found.count_params() == expected.count_params() == 560_345
    images = noise_images(2, 64)
    np.testing.assert_array_equal(np.asarray(found(images)), np.asarray(expected(images)))


def test_kerass_configuration_file_changes_no_network(tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.01}
    (tmp_path / "keras.json").write_text(json.dumps({**settings, "backend": "tensorflow"}))
    code = "from mura import models; print(models.build('cnn', 64).count_params())"
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_MAX_EPOCHS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "560345"), done.stderr
    assert "image_data_format from channels_first to channels_last" in done.stderr
    assert "max_epochs from 1 to None" in done.stderr


def test_exposure_does_not_matter_to_the_custom_cnn():
    model = build("cnn", 48)
    assert model.get_layer("feature_maps").output.shape == (None, 3, 3, WIDTHS[-1])
    assert model.losses == []  # no penalty hides in it: weight decay is the optimizer's
    images, features = noise_images(3, 48) // 2, backbone(model)
    dark, bright = np.asarray(features(images)), np.asarray(features(images * 2))
    np.testing.assert_allclose(dark, bright, rtol=0.02, atol=0.02)
    assert dark.std() > 0.1
    assert np.isfinite(np.asarray(model(np.zeros((1, 48, 48, 1), np.uint8)))).all()


def test_the_stages_are_the_resolutions():
    """VGG-16 as in its table 1, D; squeeze and excitation's pooled maps begin no stage."""
    vgg16 = stage_table(build("vgg16", 64))
    assert vgg16["side"].tolist() == [64, 64, 32, 16, 8, 4, 1, 1]
    assert vgg16["channels"].tolist() == [1, 64, 128, 256, 512, 512, 512, 1]
    assert vgg16["layers"].tolist() == [0, 2, 2, 3, 3, 3, 0, 1]
    assert vgg16["parameters"].tolist()[1:3] == [38_720, 221_440]
    model = build("efficientnet_v2_b0", 64)
    table = stage_table(model)
    assert table["side"].tolist() == [64, 32, 16, 8, 4, 2, 1, 1]
    assert table["parameters"].sum() == model.count_params()
