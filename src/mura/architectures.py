"""Build networks that take raw gray radiographs and carry their own preprocessing.

Every model maps uint8[B, S, S, 1] in 0-255 to float32: [B, 1], the probability of *abnormal*
(``head="binary"``), or [B, 14], a distribution over body part x finding (``head="joint"``). The
backbone's layers stand flat in the model; its last feature maps are the layer ``"feature_maps"``
and their mean over the image is ``"pool"``, after loading from disk too.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from mura import weights as weight_files
from mura.custom_cnn import custom_cnn
from mura.files import InputError
from mura.manifest import BODY_PARTS


class ArchitectureError(InputError):
    """There is no such architecture, or it cannot be built that way."""


@dataclass(frozen=True)
class Architecture:
    """What the project knows about one network."""

    name: str  # in recipes and run folders
    title: str  # for people
    family: str
    paper: str
    parameters: int  # published, with the 1000-class ImageNet head (keras.io/api/applications)
    # Its name in keras.applications; or a function from the image, uint8[B, S, S, 1], to the last
    # feature maps, [B, h, w, C], that brings its own preprocessing.
    builder: str | Callable[[Any], Any]
    module: str = ""  # the module there whose preprocess_input its weights expect
    weights_file: str = ""  # Keras's own file of ImageNet weights without the head
    minimum_size: int = 32  # pixels, of Keras's builder without the head


_VGG = "Simonyan and Zisserman 2014, arXiv 1409.1556"
_RESNET = "He et al. 2015, arXiv 1512.03385"
_DENSENET = "Huang et al. 2016, arXiv 1608.06993"
_INCEPTION = "Szegedy et al. 2015, arXiv 1512.00567"
_XCEPTION = "Chollet 2016, arXiv 1610.02357"
_EFFICIENTNET = "Tan and Le 2021, arXiv 2104.00298"
_CONVNEXT = "Liu et al. 2022, arXiv 2201.03545"
_OLD = "_weights_tf_dim_ordering_tf_kernels_notop.h5"

# fmt: off
ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture("cnn", "Custom CNN", "CNN", "this project", 0, custom_cnn),
        Architecture("vgg16", "VGG-16", "VGG", _VGG, 138_357_544, "VGG16", "vgg16", "vgg16" + _OLD),
        Architecture("vgg19", "VGG-19", "VGG", _VGG, 143_667_240, "VGG19", "vgg19", "vgg19" + _OLD),
        Architecture("resnet50", "ResNet-50", "ResNet", _RESNET, 25_636_712, "ResNet50", "resnet",
                     "resnet50" + _OLD),
        Architecture("resnet101", "ResNet-101", "ResNet", _RESNET, 44_707_176, "ResNet101",
                     "resnet", "resnet101" + _OLD),
        Architecture("resnet152", "ResNet-152", "ResNet", _RESNET, 60_419_944, "ResNet152",
                     "resnet", "resnet152" + _OLD),
        Architecture("densenet121", "DenseNet-121", "DenseNet", _DENSENET, 8_062_504,
                     "DenseNet121", "densenet", "densenet121" + _OLD),
        Architecture("densenet169", "DenseNet-169", "DenseNet", _DENSENET, 14_307_880,
                     "DenseNet169", "densenet", "densenet169" + _OLD),
        Architecture("densenet201", "DenseNet-201", "DenseNet", _DENSENET, 20_242_984,
                     "DenseNet201", "densenet", "densenet201" + _OLD),
        Architecture("inception_v3", "Inception-v3", "Inception", _INCEPTION, 23_851_784,
                     "InceptionV3", "inception_v3", "inception_v3" + _OLD, 75),
        Architecture("xception", "Xception", "Inception", _XCEPTION, 22_910_480,
                     "Xception", "xception", "xception" + _OLD, 71),
        Architecture("efficientnet_v2_b0", "EfficientNetV2-B0", "EfficientNetV2", _EFFICIENTNET,
                     7_200_312, "EfficientNetV2B0", "", "efficientnetv2-b0_notop.h5"),
        Architecture("efficientnet_v2_s", "EfficientNetV2-S", "EfficientNetV2", _EFFICIENTNET,
                     21_612_360, "EfficientNetV2S", "", "efficientnetv2-s_notop.h5"),
        Architecture("convnext_tiny", "ConvNeXt-Tiny", "ConvNeXt", _CONVNEXT, 28_589_128,
                     "ConvNeXtTiny", "", "convnext_tiny_notop.h5"),
        Architecture("convnext_small", "ConvNeXt-Small", "ConvNeXt", _CONVNEXT, 50_223_688,
                     "ConvNeXtSmall", "", "convnext_small_notop.h5"),
    )
}
# fmt: on


def build(
    name: str,
    image_size: int,
    weights: str | None = None,
    head: str = "binary",
    dropout: float = 0.2,
    seed: int = 0,
) -> keras.Model:
    """Build an architecture; see :func:`build_with_weights`, which also says what it started from.

    Raises:
        ArchitectureError, WeightsError: As there, with ``strict=True``.
    """
    return build_with_weights(name, image_size, weights, True, head, dropout, seed)[0]


def build_with_weights(
    name: str,
    image_size: int,
    weights: str | None = None,
    strict: bool = True,
    head: str = "binary",
    dropout: float = 0.2,
    seed: int = 0,
) -> tuple[keras.Model, str]:
    """Build an architecture and say which weights it started from.

    Args:
        name: A key of ``ARCHITECTURES``.
        image_size: S, the side of the input in pixels.
        weights: ``"imagenet"`` (downloaded by Keras), a weights file, a folder of Keras's own
            weight files, a run's ``.keras`` file or folder, or None: random.
        strict: Whether a download that fails is an error; otherwise one warning, and random
            initialisation. Weights that are named by path are never replaced by random ones.
        head: ``"binary"`` or ``"joint"``.
        dropout: Share of the pooled features that is dropped in training.
        seed: Of the random initialisation. Keras's own builders take none, so the global seeds
            of Python, NumPy and the backend are set from it.

    Returns:
        The model, and ``"imagenet"``, ``"random"``, ``"file:NAME"`` or ``"run:NAME"``.

    Raises:
        ArchitectureError: Unknown name or head, or an image too small for the network.
        WeightsError: The weights cannot be had or do not fit.
    """
    entry = _entry(name)
    if image_size < entry.minimum_size:
        raise ArchitectureError(
            f"{name}: images of {image_size} px are too small; it needs {entry.minimum_size}."
        )
    try:
        source = weight_files.resolve(weights, entry.weights_file)
        model = _assemble(entry, image_size, source, head, dropout, seed)
    except weight_files.DownloadError as error:
        if strict:
            raise
        warnings.warn(f"{error} Training starts from random weights.", stacklevel=2)
        source = weight_files.resolve(None)
        model = _assemble(entry, image_size, source, head, dropout, seed)
    return model, source.description


def refuse_missing_weights(name: str, weights: str | None) -> None:
    """Raise in seconds what :func:`build` would raise about weights that cannot be had.

    Raises:
        ArchitectureError: Unknown name.
        WeightsError: There are no such weights, or they cannot be downloaded.
    """
    weight_files.resolve(weights, _entry(name).weights_file)


def backbone(model: keras.Model) -> keras.Model:
    """Return the part of a model from the image to the last feature maps; it shares the layers."""
    return keras.Model(model.input, model.get_layer("feature_maps").output)


def every_layer(network: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a network, and of those that are networks themselves."""
    for layer in network.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Return the layers from the image to the last feature maps."""
    return backbone(model).layers


def freeze_backbone(model: keras.Model, frozen: bool = True) -> None:
    """Freeze or free the backbone; frozen batch normalisation runs in inference mode."""
    for layer in backbone_layers(model):
        layer.trainable = not frozen


def abnormal_model(model: keras.Model) -> keras.Model:
    """Return a model whose output is P(abnormal), float32[B, 1].

    For a joint model it is the sum over the seven abnormal classes; a binary one is returned as
    it is.
    """
    if model.output_shape[-1] == 1:
        return model
    abnormal = keras.ops.sum(model.output[:, len(BODY_PARTS) :], axis=-1, keepdims=True)
    # a sum of float32 shares can pass 1 by a rounding error
    return keras.Model(model.input, keras.ops.clip(abnormal, 0.0, 1.0), name=model.name)


def _entry(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"architecture {name!r}: choose one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def _assemble(
    entry: Architecture,
    image_size: int,
    source: weight_files.WeightSource,
    head: str,
    dropout: float,
    seed: int,
) -> keras.Model:
    keras.utils.set_random_seed(seed)
    image = keras.Input((image_size, image_size, 1), dtype="uint8", name="image")
    features = _backbone(entry, image, source)
    features = keras.layers.Identity(name="feature_maps")(features)  # [B, h, w, C]
    pooled = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(features)  # [B, C]
    # Dropout's seed stands in the layer, so that a continued training drops the same features.
    x = keras.layers.Dropout(dropout, name="dropout", seed=seed, dtype="float32")(pooled)
    model = keras.Model(image, _head(head, x), name=entry.name)
    _refuse_what_does_not_load(model)
    if entry.family == "ResNet" and source.description == "random":
        _begin_as_shortcuts(model)
    weight_files.load(model, backbone(model), source)
    return model


def _refuse_what_does_not_load(model: keras.Model) -> None:
    """Raise before a training whose model could be saved at its end, but not loaded again."""
    for layer in every_layer(model):
        kind = type(layer)
        known = kind.__module__.partition(".")[0] == "keras" or keras.saving.get_registered_object(
            keras.saving.get_registered_name(kind)
        )
        if isinstance(layer, keras.layers.Lambda) or not known:
            raise ArchitectureError(
                f"{model.name}: its layer {layer.name} ({kind.__name__}) could not be loaded "
                "again; make it of Keras's own layers but Lambda, or of a class that is registered "
                "with keras.saving.register_keras_serializable."
            )


def _begin_as_shortcuts(resnet: keras.Model) -> None:
    """Let every residual block begin as its shortcut alone: the scale of what it adds is zero.

    Trained from random weights it then learns from the first steps on (Goyal et al. 2017, arXiv
    1706.02677, section 5.1).
    """
    for layer in resnet.layers:
        if layer.name.endswith("_3_bn"):  # a block's last normalisation, in Keras's builders
            layer.gamma.assign(keras.ops.zeros_like(layer.gamma))


def _backbone(entry: Architecture, image: Any, source: weight_files.WeightSource) -> Any:
    if callable(entry.builder):
        if source.description == "imagenet":
            raise weight_files.WeightsError(
                f'{entry.name}: Keras has no ImageNet weights of it; set weights to "none".'
            )
        return entry.builder(image)
    rgb = keras.layers.Concatenate(name="rgb", dtype="float32")([_float(image)] * 3)
    settings: dict[str, Any] = {}
    if entry.module:
        module = importlib.import_module(f"keras.applications.{entry.module}")
        rgb = module.preprocess_input(rgb)
    else:
        settings["include_preprocessing"] = True  # these builders carry it themselves
    builder: Callable = getattr(keras.applications, entry.builder)
    settings |= {"include_top": False, "input_tensor": rgb}
    if source.description != "imagenet":
        return builder(weights=None, **settings).output
    with weight_files.downloading(entry.weights_file):
        return builder(weights="imagenet", **settings).output


def _float(image: Any) -> Any:
    return keras.ops.cast(image, "float32")


def _head(head: str, features: Any) -> Any:
    # float32 whatever the rest computes in: a sigmoid in bfloat16 has 256 values at most
    if head == "binary":
        return keras.layers.Dense(1, "sigmoid", name="abnormal", dtype="float32")(features)
    if head == "joint":
        classes = 2 * len(BODY_PARTS)  # class = label * 7 + body part
        return keras.layers.Dense(classes, "softmax", name="classes", dtype="float32")(features)
    raise ArchitectureError(f"head {head!r}: choose binary or joint.")
