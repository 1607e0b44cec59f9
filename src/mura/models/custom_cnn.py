"""The custom CNN: a small residual network trained from scratch, the baseline of the comparison."""

from typing import Any

from keras import layers

# Channels of each stage; the resolution halves from one to the next. Doubling widths at half the
# resolution keep the cost per stage about even (He et al. 2015, arXiv 1512.03385, section 3.3).
WIDTHS = (24, 48, 96, 160)


def custom_cnn(image: Any) -> Any:
    """Return the last feature maps, [B, S/16, S/16, 160], of an image uint8[B, S, S, 1].

    Each radiograph is brought to zero mean and unit variance of its own, as exposure varies from
    image to image. The recipe regularises (decoupled weight decay, dropout, augmentation): under
    Adam an L2 penalty would outweigh the loss's small early gradients (Loshchilov and Hutter 2017,
    arXiv 1711.05101, section 2).
    """
    x = layers.Rescaling(1 / 255, name="rescale", dtype="float32")(image)
    x = layers.LayerNormalization(
        axis=(1, 2, 3), center=False, scale=False, name="standardise", dtype="float32"
    )(x)
    x = _convolution(x, WIDTHS[0], 5, 2, "stem")
    for index, width in enumerate(WIDTHS, 1):
        x = _residual(x, width, 1 if index == 1 else 2, f"stage{index}")
    return x


def _residual(x: Any, width: int, stride: int, name: str) -> Any:
    """Two 3 x 3 convolutions and a shortcut."""
    shortcut = x
    if stride > 1:
        shortcut = layers.AveragePooling2D(stride, padding="same", name=f"{name}_halve")(shortcut)
    if shortcut.shape[-1] != width:
        shortcut = _convolution(shortcut, width, 1, 1, f"{name}_match", activation=False)
    x = _convolution(x, width, 3, stride, f"{name}_a")
    x = _convolution(x, width, 3, 1, f"{name}_b", activation=False)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_out")(x)


def _convolution(
    x: Any, width: int, kernel: int, stride: int, name: str, activation: bool = True
) -> Any:
    # no bias: batch normalisation shifts anyway
    settings = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
    x = layers.Conv2D(width, kernel, stride, name=f"{name}_conv", **settings)(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x
