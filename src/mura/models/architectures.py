"""Build networks that take raw gray radiographs and carry their own preprocessing.

Every model maps uint8[B, S, S, 1] in 0-255 to float32: [B, 1], the probability of *abnormal*
(``head="binary"``), or [B, 2P], a distribution over body part x finding (``head="joint"``). The
backbone's layers stand flat in the model; its last feature maps are the layer ``"feature_maps"``
and their mean over the image is ``"pool"``, after loading from disk too.
"""

import importlib
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from mura.files import InputError
from mura.models import weights as weight_files
from mura.models.custom_cnn import custom_cnn
from mura.models.saved import refuse_unloadable
from mura.models.settings import settle


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


# Family, paper, and the module whose preprocessing their weights expect.
_VGG16 = ("VGG", "Simonyan and Zisserman 2014, arXiv 1409.1556", "vgg16")
_VGG19 = (*_VGG16[:2], "vgg19")
_RESNET = ("ResNet", "He et al. 2015, arXiv 1512.03385", "resnet")
_DENSENET = ("DenseNet", "Huang et al. 2016, arXiv 1608.06993", "densenet")
_INCEPTION = ("Inception", "Szegedy et al. 2015, arXiv 1512.00567", "inception_v3")
_XCEPTION = ("Inception", "Chollet 2016, arXiv 1610.02357", "xception")
_EFFNET = ("EfficientNetV2", "Tan and Le 2021, arXiv 2104.00298", "")
_CONVNEXT = ("ConvNeXt", "Liu et al. 2022, arXiv 2201.03545", "")


def _keras(
    name: str, title: str, origin: tuple, parameters: int, builder: str, minimum: int = 32
) -> Architecture:
    family, paper, module = origin
    old = "_weights_tf_dim_ordering_tf_kernels" if module else ""
    file = f"{name.replace('_v2_', 'v2-')}{old}_notop.h5"
    return Architecture(name, title, family, paper, parameters, builder, module, file, minimum)


ARCHITECTURES: dict[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture("cnn", "Custom CNN", "CNN", "this project", 0, custom_cnn),
        _keras("vgg16", "VGG-16", _VGG16, 138_357_544, "VGG16"),
        _keras("vgg19", "VGG-19", _VGG19, 143_667_240, "VGG19"),
        _keras("resnet50", "ResNet-50", _RESNET, 25_636_712, "ResNet50"),
        _keras("resnet101", "ResNet-101", _RESNET, 44_707_176, "ResNet101"),
        _keras("resnet152", "ResNet-152", _RESNET, 60_419_944, "ResNet152"),
        _keras("densenet121", "DenseNet-121", _DENSENET, 8_062_504, "DenseNet121"),
        _keras("densenet169", "DenseNet-169", _DENSENET, 14_307_880, "DenseNet169"),
        _keras("densenet201", "DenseNet-201", _DENSENET, 20_242_984, "DenseNet201"),
        _keras("inception_v3", "Inception-v3", _INCEPTION, 23_851_784, "InceptionV3", 75),
        _keras("xception", "Xception", _XCEPTION, 22_910_480, "Xception", 71),
        _keras("efficientnet_v2_b0", "EfficientNetV2-B0", _EFFNET, 7_200_312, "EfficientNetV2B0"),
        _keras("efficientnet_v2_s", "EfficientNetV2-S", _EFFNET, 21_612_360, "EfficientNetV2S"),
        _keras("convnext_tiny", "ConvNeXt-Tiny", _CONVNEXT, 28_589_128, "ConvNeXtTiny"),
        _keras("convnext_small", "ConvNeXt-Small", _CONVNEXT, 50_223_688, "ConvNeXtSmall"),
    )
}


def build(
    name: str,
    image_size: int,
    weights: str | None = None,
    strict: bool = True,
    head: str = "binary",
    body_parts: int = 7,
    dropout: float = 0.2,
    seed: int = 0,
    dtype: str = "float32",
) -> keras.Model:
    """Build an architecture.

    Args:
        name: A key of ``ARCHITECTURES``.
        image_size: S, the side of the input in pixels.
        weights: ``"imagenet"`` (downloaded by Keras), a weight file, a folder of Keras's own
            weight files, a run's folder or ``.keras`` file, or None: random.
        strict: Whether a download that fails is an error; otherwise one warning, and random
            weights. Weights that are named by path are never replaced by random ones.
        head: ``"binary"`` or ``"joint"``.
        body_parts: P, of the joint head; MURA has seven.
        dropout: Share of the pooled features that is dropped in training.
        seed: Of the random weights. Keras's own builders take none, so the global seeds of
            Python, NumPy and the backend are set from it.
        dtype: A Keras dtype policy for the layers: ``"float32"`` or ``"mixed_bfloat16"``.

    Returns:
        The model. Its attribute ``origin`` (``weights.Origin``) says what the weights are.

    Raises:
        ArchitectureError: Unknown name or head, or an image too small for the network.
        ModelError: A network of your own cannot be saved and loaded again as it is.
        WeightsError: The weights cannot be had or do not fit.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(f"architecture {name!r}: choose one of {', '.join(ARCHITECTURES)}.")
    entry = ARCHITECTURES[name]
    if image_size < entry.minimum_size:
        raise ArchitectureError(
            f"{name}: images of {image_size} px are too small; it needs {entry.minimum_size}."
        )
    if head not in ("binary", "joint"):
        raise ArchitectureError(f"head {head!r}: choose binary or joint.")
    classes = 1 if head == "binary" else 2 * body_parts  # class = label * P + body part
    settle()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        return _assemble(entry, image_size, weights, classes, dropout, seed)
    except weight_files.DownloadError as error:
        if strict:
            raise
        warnings.warn(f"{error} Training starts from random weights.", stacklevel=2)
        return _assemble(entry, image_size, None, classes, dropout, seed)
    finally:
        keras.config.set_dtype_policy(before)


def backbone(model: keras.Model) -> keras.Model:
    """Return the part of a model from the image to the last feature maps; it shares the layers."""
    return keras.Model(model.input, model.get_layer("feature_maps").output)


def freeze_backbone(model: keras.Model, frozen: bool = True) -> None:
    """Freeze or free the backbone; frozen batch normalisation runs in inference mode."""
    for layer in backbone(model).layers:
        layer.trainable = not frozen


def abnormal_model(model: keras.Model) -> keras.Model:
    """Return a model of P(abnormal), float32[B, 1]: of a joint one, the sum of its upper half."""
    classes = model.output_shape[-1]
    if classes == 1:
        return model
    abnormal = keras.ops.sum(model.output[:, classes // 2 :], axis=-1, keepdims=True)
    # a sum of float32 shares can pass 1 by a rounding error
    return keras.Model(model.input, keras.ops.clip(abnormal, 0.0, 1.0), name=model.name)


def stage_table(model: keras.Model) -> pd.DataFrame:
    """Summarise a model by the resolutions that its maps pass through.

    Returns:
        One row per stage from the image to the output: stage, side (of its maps in pixels; 1 once
        they are pooled), channels, layers (those with weights), parameters.
    """
    layers = [
        (int(layer.output.shape[1]), int(layer.output.shape[3]), layer.count_params())
        for layer in backbone(model).layers
        if len(layer.output.shape) == 4 and not isinstance(layer, keras.layers.InputLayer)
    ]
    # Squeeze and excitation pools within its stage: a side counts only if no layer with weights
    # comes after it with a larger one.
    weighted = [side if parameters else 0 for side, _, parameters in layers]
    floors = list(itertools.accumulate(reversed(weighted), max))[::-1]
    stages: list[list[int]] = []  # side, channels, layers with weights, parameters
    for (side, channels, parameters), floor in zip(layers, floors, strict=True):
        # padding layers grow the map by a pixel or two, and are no stage of their own
        if not stages or (parameters and max(side, floor) != stages[-1][0]):
            stages.append([max(side, floor), channels, 0, 0])
        if side >= floor:
            stages[-1][1] = channels
        stages[-1][2] += parameters > 0
        stages[-1][3] += parameters
    rows = [("image", model.input_shape[1], 1, 0, 0)]
    with_weights = [stage for stage in stages if stage[2]]
    rows += [(f"stage {number}", *stage) for number, stage in enumerate(with_weights, 1)]
    head = model.layers[-1]
    rows += [("mean", 1, int(model.get_layer("pool").output.shape[-1]), 0, 0)]
    rows += [(head.name, 1, int(head.output.shape[-1]), 1, head.count_params())]
    return pd.DataFrame(rows, columns=["stage", "side", "channels", "layers", "parameters"])


def _assemble(
    entry: Architecture, size: int, weights: str | None, classes: int, dropout: float, seed: int
) -> keras.Model:
    origin = weight_files.find(weights, entry.weights_file)
    keras.utils.set_random_seed(seed)
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    features = _feature_maps(entry, image, origin)
    features = keras.layers.Identity(name="feature_maps")(features)  # [B, h, w, C]
    pooled = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(features)  # [B, C]
    # Dropout's seed stands in the layer, so that a continued training drops the same features.
    x = keras.layers.Dropout(dropout, name="dropout", seed=seed, dtype="float32")(pooled)
    model = keras.Model(image, _head(classes, x), name=entry.name)
    if callable(entry.builder) and entry.builder is not custom_cnn:
        refuse_unloadable(model)
    if entry.family == "ResNet" and origin.description == "random":
        # Every residual block begins as its shortcut alone, so that it learns from the first steps
        # on (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
        for layer in model.layers:
            if layer.name.endswith("_3_bn"):  # a block's last normalisation, in Keras's builders
                layer.gamma.assign(keras.ops.zeros_like(layer.gamma))
    if origin.description != "random":
        # A new head that says 0.5 to all does not push pretrained features about at first.
        new = model.layers[-1]
        new.set_weights([np.zeros_like(values) for values in new.get_weights()])
    weight_files.fill(model, backbone(model), origin)
    model.origin = origin
    return model


def _feature_maps(entry: Architecture, image: Any, origin: weight_files.Origin) -> Any:
    if callable(entry.builder):
        return entry.builder(image)
    gray = keras.ops.cast(image, "float32")
    rgb = keras.layers.Concatenate(name="rgb", dtype="float32")([gray] * 3)
    settings: dict[str, Any] = {"include_top": False}
    if entry.module:
        rgb = importlib.import_module(f"keras.applications.{entry.module}").preprocess_input(rgb)
    else:
        settings["include_preprocessing"] = True  # these builders carry it themselves
    builder: Callable = getattr(keras.applications, entry.builder)
    if origin.description != "imagenet":
        return builder(weights=None, input_tensor=rgb, **settings).output
    try:
        return builder(weights="imagenet", input_tensor=rgb, **settings).output
    except (TypeError, AttributeError):  # a builder that takes other settings
        raise
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise weight_files.download_error(entry.weights_file, error) from error


def _head(classes: int, features: Any) -> Any:
    # float32 whatever the rest computes in: a sigmoid in bfloat16 has 256 values at most
    if classes == 1:
        return keras.layers.Dense(1, "sigmoid", name="abnormal", dtype="float32")(features)
    return keras.layers.Dense(classes, "softmax", name="classes", dtype="float32")(features)
