"""Every architecture: Keras's own network on the preprocessed image, saved and loaded as it is."""

import importlib

import keras
import numpy as np
import pytest
from networks import noise_images, randomise, write_keras_file

from mura.data import BODY_PARTS
from mura.models import (
    ARCHITECTURES,
    Architecture,
    ArchitectureError,
    abnormal_model,
    backbone,
    build,
    freeze_backbone,
    load,
    stage_table,
)
from mura.models import custom_cnn as custom

# name: builder, module of its preprocess_input, millions of parameters in Keras's published
# table (keras.io/api/applications), Keras's file of weights without the head, smallest image
KERAS = {
    "vgg16": ("VGG16", "vgg16", 138.4, "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", 32),
    "vgg19": ("VGG19", "vgg19", 143.7, "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", 32),
    "resnet50": (
        "ResNet50", "resnet", 25.6, "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", 32,
    ),
    "resnet101": (
        "ResNet101", "resnet", 44.7, "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", 32,
    ),
    "resnet152": (
        "ResNet152", "resnet", 60.4, "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5", 32,
    ),
    "densenet121": (
        "DenseNet121", "densenet", 8.1,
        "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", 32,
    ),
    "densenet169": (
        "DenseNet169", "densenet", 14.3,
        "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5", 32,
    ),
    "densenet201": (
        "DenseNet201", "densenet", 20.2,
        "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5", 32,
    ),
    "inception_v3": (
        "InceptionV3", "inception_v3", 23.9,
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", 75,
    ),
    "xception": (
        "Xception", "xception", 22.9, "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", 71,
    ),
    "efficientnet_v2_b0": (
        "EfficientNetV2B0", "efficientnet_v2", 7.2, "efficientnetv2-b0_notop.h5", 32,
    ),
    "efficientnet_v2_s": (
        "EfficientNetV2S", "efficientnet_v2", 21.6, "efficientnetv2-s_notop.h5", 32,
    ),
    "convnext_tiny": ("ConvNeXtTiny", "convnext", 28.6, "convnext_tiny_notop.h5", 32),
    "convnext_small": ("ConvNeXtSmall", "convnext", 50.2, "convnext_small_notop.h5", 32),
}  # fmt: skip
HEADS = ("binary", "joint")
_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in KERAS if name != "vgg16"]


def test_the_registry_is_keras_families_and_the_custom_cnn():
    assert set(ARCHITECTURES) == {"cnn", *KERAS}
    for name, (_, _, millions, file, smallest) in KERAS.items():
        entry = ARCHITECTURES[name]
        assert round(entry.parameters / 1e6, 1) == millions
        assert (entry.weights_file, entry.minimum_size) == (file, smallest)


@pytest.mark.parametrize("name", ["vgg16", *_SLOW])
def test_a_backbone_is_kerass_own(name, tmp_path):
    """One build per network, because building is what takes the time."""
    builder, module, _, file, size = KERAS[name]
    reference = getattr(keras.applications, builder)(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    randomise(reference)
    write_keras_file(reference, tmp_path / file)
    model = build(name, size, weights=str(tmp_path))
    images = noise_images(2, size)

    assert model.origin.description == f"file:{file}"
    _hold_equal_weights(backbone(model), reference)
    _compute_the_same(model, reference, module, images)
    assert model.count_params() == reference.count_params() + reference.output.shape[-1] + 1
    _survive_a_bare_call(model, images)
    _survive_saving(model, images, tmp_path / "model.keras")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in KERAS])
def test_the_published_parameter_count_is_that_of_the_network_with_its_head(name):
    whole = getattr(keras.applications, KERAS[name][0])(include_top=True, weights=None)
    assert whole.count_params() == ARCHITECTURES[name].parameters


def _hold_equal_weights(ours, reference):
    pairs = zip(ours.weights, reference.weights, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=other.path)


def _compute_the_same(model, reference, module, images):
    preprocess = importlib.import_module(f"keras.applications.{module}").preprocess_input
    rgb = np.repeat(images, 3, axis=-1).astype(np.float32)
    expected = np.asarray(reference(preprocess(rgb.copy()), training=False))
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


def test_the_custom_cnn_survives_calls_and_saving(tmp_path):
    model = build("cnn", 32)
    randomise(model)
    images = noise_images(2, 32)
    assert model.output_shape == (None, 1)
    _survive_a_bare_call(model, images)
    _survive_saving(model, images, tmp_path / "model.keras")


def test_the_seed_decides_random_weights():
    one, same, other = (build("cnn", 32, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "resnet152")),
    ],
)
def test_a_random_resnets_blocks_begin_as_their_shortcuts(name):
    resnet = build(name, 32)
    blocks = [layer for layer in resnet.layers if layer.name.endswith("_add")]
    assert len(blocks) == {"resnet50": 16, "resnet101": 33, "resnet152": 50}[name]
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


def test_freezing_leaves_the_head_alone():
    model = build("cnn", 32)
    everything = len(model.trainable_variables)
    freeze_backbone(model)
    assert [variable.path for variable in model.trainable_variables] == [
        "abnormal/kernel",
        "abnormal/bias",
    ]
    images = noise_images(4, 32)
    statistics = [v.numpy() for v in model.non_trainable_variables if "moving" in v.name]
    model(images, training=True)  # frozen batch normalisation runs in inference mode
    after = [v.numpy() for v in model.non_trainable_variables if "moving" in v.name]
    assert statistics
    assert all(np.array_equal(a, b) for a, b in zip(statistics, after, strict=True))
    freeze_backbone(model, frozen=False)
    assert len(model.trainable_variables) == everything


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


@keras.saving.register_keras_serializable(package="test")
class Registered(Unregistered):
    """One that it finds once this module is imported."""


def test_a_layer_that_could_not_be_loaded_again_is_refused_before_the_training(monkeypatch):
    scaled = keras.layers.Rescaling(1 / 255)
    for layer, kind in (
        (Unregistered(name="own"), "Unregistered"),
        (keras.layers.Lambda(lambda x: x, name="own"), "Lambda"),
        (keras.Sequential([keras.layers.ReLU(), Unregistered(name="own")]), "Unregistered"),
    ):
        own(monkeypatch, lambda image, layer=layer: layer(scaled(image)))
        with pytest.raises(ArchitectureError, match=rf"mine: its layer own \({kind}\) could not"):
            build("mine", 32)
    own(monkeypatch, lambda image: Registered()(scaled(image)))
    assert build("mine", 32).output_shape == (None, 1)


def test_the_custom_cnns_sizes_are_the_closed_form():
    widths, model = custom.WIDTHS, build("cnn", 48)

    def convolution(kernel, before, after):
        return kernel**2 * before * after + 4 * after  # kernel and batch normalisation, no bias

    expected = convolution(5, 1, widths[0])
    for before, width in zip((widths[0], *widths), widths, strict=False):
        expected += convolution(3, before, width) + convolution(3, width, width)
        expected += convolution(1, before, width) if before != width else 0
    assert model.count_params() == expected + widths[-1] + 1
    assert model.get_layer("feature_maps").output.shape == (None, 3, 3, widths[-1])
    assert model.losses == []  # no penalty hides in it: weight decay is the optimizer's
    # exposure does not matter, and a black image has an answer
    images, features = noise_images(3, 48) // 2, backbone(model)
    dark, bright = np.asarray(features(images)), np.asarray(features(images * 2))
    np.testing.assert_allclose(dark, bright, rtol=0.02, atol=0.02)
    assert dark.std() > 0.1
    assert np.isfinite(np.asarray(model(np.zeros((1, 48, 48, 1), np.uint8)))).all()


def test_the_stages_of_vgg16_are_those_of_its_paper():
    """Configuration D of table 1: two, two, three, three and three convolutions of 3 x 3."""
    widths, counts = (3, 64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
    image, *found, pooled, output = stage_table(build("vgg16", 64)).values.tolist()
    assert image == ["image", 64, 1, 0, 0]
    assert found == [
        [
            *(f"stage {i + 1}", 64 >> i, widths[i + 1], count),
            9 * widths[i] * widths[i + 1]
            + widths[i + 1]
            + (count - 1) * (9 * widths[i + 1] ** 2 + widths[i + 1]),
        ]
        for i, count in enumerate(counts)
    ]
    assert (pooled, output) == (["mean", 1, 512, 0, 0], ["abnormal", 1, 1, 1, 513])


def test_squeeze_and_excitation_is_part_of_its_stage():
    """Its maps of one place stand between maps of many, and do not begin a stage each time."""
    model = build("efficientnet_v2_b0", 64)
    table = stage_table(model)
    assert table["side"].tolist() == [64, 32, 16, 8, 4, 2, 1, 1]
    assert table["parameters"].sum() == model.count_params()
