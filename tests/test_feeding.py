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


def deal(**settings):
    return RadiographBatches(
        PIXELS, np.arange(10), TARGETS, WEIGHTS, batch_size=4, shuffle_seed=0, **settings
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
def test_a_pass_has_the_order_of_the_epoch_it_begins_in():
    batches = deal(epoch=1)
    dataset = feed(batches)
    first = [x for x, *_ in dataset.as_numpy_iterator()]
    batches.start_epoch(2)
    second = [x for x, *_ in dataset.as_numpy_iterator()]
    for found, epoch in ((first, 1), (second, 2)):
        expected = deal(epoch=epoch)
        np.testing.assert_array_equal(
            np.concatenate(found), np.concatenate([expected[i][0] for i in range(3)])
        )
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


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
    batches = deal()
    assert feed(batches) is batches
