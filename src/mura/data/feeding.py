"""Hand batches to Keras's ``fit`` so that reading them overlaps with the training step."""

from __future__ import annotations

from typing import Any

import keras

from mura.data.batches import RadiographBatches

_AHEAD = 2  # batches that are read while a step computes


def feed(batches: RadiographBatches) -> Any:
    """Return what ``fit`` reads the batches through.

    On TensorFlow a ``tf.data.Dataset`` of (x, y) or (x, y, w) that reads ahead and has no
    autotuning (``mura.pixels`` says why). Left to itself, Keras reads each batch between two steps
    and waits a tenth of a second at the end of every epoch. On other backends the batches
    themselves: JAX hands a step to the device and goes on to the next batch at once.

    Every pass hands out the order that the batches are in when it begins: a dataset does not tell
    them that an epoch is over, so whoever trains calls ``batches.start_epoch``.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    specs = [tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0]]

    def read(index: Any) -> tuple:
        parts = tf.numpy_function(batches.__getitem__, [index], [spec.dtype for spec in specs])
        return tuple(
            tf.ensure_shape(part, spec.shape) for part, spec in zip(parts, specs, strict=True)
        )

    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.range(len(batches)).map(read).prefetch(_AHEAD)
    return dataset.with_options(options)
