"""What `fit` reads batches through."""

import threading

import keras
import numpy as np
import pytest

from mura.data.batches import RadiographBatches
from mura.data.feeding import feed

PIXELS = np.arange(10 * 4 * 4, dtype=np.uint8).reshape(10, 4, 4)
TARGETS = np.eye(14, dtype=np.float32)[:10]
WEIGHTS = np.linspace(0, 1, 10, dtype=np.float32)

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.data is TensorFlow's"
)


@on_tensorflow
@pytest.mark.parametrize("weights", [WEIGHTS, None])
def test_a_pass_hands_out_every_batch_as_it_is(weights):
    batches = RadiographBatches(PIXELS, np.arange(10), TARGETS, weights, batch_size=4)
    read = list(feed(batches).as_numpy_iterator())
    assert len(read) == len(batches) == len(feed(batches))
    for parts, expected in zip(read, batches, strict=False):
        assert len(parts) == len(expected)
        for part, values in zip(parts, expected, strict=True):
            assert part.dtype == values.dtype
            np.testing.assert_array_equal(part, values)


@on_tensorflow
def test_it_reads_ahead_without_autotuning():
    third = threading.Event()

    class Watched(RadiographBatches):
        def __getitem__(self, index):
            if index == 2:
                third.set()
            return super().__getitem__(index)

    dataset = feed(Watched(PIXELS, np.arange(10), TARGETS, batch_size=1))
    assert dataset.options().autotune.enabled is False
    iterator = iter(dataset)
    next(iterator)
    assert third.wait(60)  # read while the first one is still in use


def test_other_backends_get_the_batches_themselves(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    batches = RadiographBatches(PIXELS, np.arange(10), TARGETS)
    assert feed(batches) is batches
