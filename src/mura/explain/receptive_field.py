"""Where in an image the cells of feature maps look: padding and strides move it."""

import math
from typing import Any

import keras


def grid(model: keras.Model, layer: str) -> tuple[float, float] | None:
    """Return the pixels that the centres of a layer's receptive fields lie on.

    Where paths of different padding are joined (a shortcut and what it bypasses, the branches of
    Inception), it is their mean. Images and kernels are taken to be square: the model reads
    [B, S, S, C], and the layer of that name puts out maps [B, h, w, C].

    Returns:
        Step and start in pixels: cell i of a row looks around start + i * step, where the first
        pixel's centre is 0. None where the way to that layer cannot be followed.
    """
    known = {id(model.inputs[0]): (1.0, 0.0)}
    for operation in keras.Model(model.inputs, model.outputs).operations:  # of a Sequential, too
        # of its first call: behind a layer that another network used before, nothing is known
        given, output = operation.input, operation.output
        inputs = given if isinstance(given, (list, tuple)) else [given]
        places = [known[id(tensor)] for tensor in inputs if id(tensor) in known]
        if places and len(getattr(output, "shape", ())) >= 3:  # 3: one channel of an image
            step = places[0][0]
            start = sum(place[1] for place in places) / len(places)
            moved = _moved(operation, inputs[0].shape[1], step, start)
            if moved is not None:
                known[id(output)] = moved
    return known.get(id(model.get_layer(layer).output))


def _moved(operation: Any, size: int, step: float, start: float) -> tuple[float, float] | None:
    """Return step and start behind an operation on maps of ``size`` cells a side; None: unknown."""
    if isinstance(operation, keras.Sequential):
        moved = (step, start)
        for layer in operation.layers:
            moved = moved and _moved(layer, layer.input.shape[1], *moved)
        return moved
    if isinstance(operation, keras.layers.ZeroPadding2D):
        return step, start - step * operation.padding[0][0]
    if isinstance(operation, keras.layers.Cropping2D):
        return step, start + step * operation.cropping[0][0]
    kernel = getattr(operation, "kernel_size", None) or getattr(operation, "pool_size", None)
    if not kernel:  # something else that changes the size cannot be followed
        return (step, start) if operation.output.shape[1] == size else None
    stride = operation.strides[0]
    field = (kernel[0] - 1) * getattr(operation, "dilation_rate", (1,))[0] + 1
    count, padding = (size - field) // stride + 1, 0
    if operation.padding == "same":  # less of it before than behind, where it is odd
        count = math.ceil(size / stride)
        padding = max((count - 1) * stride + field - size, 0) // 2
    if operation.output.shape[1] != count:  # transposed, say
        return None
    return step * stride, start + step * ((field - 1) / 2 - padding)
