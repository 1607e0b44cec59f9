"""The stages of a network: the resolutions that its maps pass through."""

from __future__ import annotations

import itertools

import keras

from mura import architectures


def summarise(name: str, image_size: int) -> list[tuple[str, int, int, int]]:
    """Summarise a network by the resolutions that its maps pass through, for drawing it.

    Returns:
        (name, height of the maps in pixels, channels, parameters) from the image to the output;
        height 1 for what has been pooled.
    """
    model = architectures.build(name, image_size)
    layers = [
        (int(layer.output.shape[1]), int(layer.output.shape[3]), layer.count_params())
        for layer in architectures.backbone_layers(model)
        if len(layer.output.shape) == 4 and not isinstance(layer, keras.layers.InputLayer)
    ]
    # what comes after it is no smaller than a map: squeeze and excitation pools to one place and
    # is part of its stage
    weighted = [height if parameters else 0 for height, _, parameters in layers]
    floors = list(itertools.accumulate(reversed(weighted), max))[::-1]
    sizes: list[list[int]] = []  # height, channels, layers with weights, parameters
    for (height, channels, parameters), floor in zip(layers, floors, strict=True):
        # padding layers grow the map by a pixel or two, and are no stage of their own
        if not sizes or (parameters and max(height, floor) != sizes[-1][0]):
            sizes.append([max(height, floor), channels, 0, 0])
        if height >= floor:
            sizes[-1][1] = channels
        sizes[-1][2] += parameters > 0
        sizes[-1][3] += parameters
    sizes = [size for size in sizes if size[2]]
    drawn = [(f"stage {i}\n{s[2]} layers", s[0], s[1], s[3]) for i, s in enumerate(sizes, 1)]
    head = model.layers[-1]
    pooled = int(model.get_layer("pool").output.shape[-1])
    return [
        ("image", image_size, 1, 0),
        *drawn,
        ("mean", 1, pooled, 0),
        (head.name, 1, int(head.output.shape[-1]), head.count_params()),
    ]
