import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import mura
from mura.data.batches import RadiographBatches
from mura.data.feeding import feed

PIXELS = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)


def rows_of(batches):
    """The rows that an epoch hands out, by their gray level."""
    return [int(level) for batch in batches for level in _images(batch)[:, 0, 0, 0]]


def _images(batch):
    return batch[0] if isinstance(batch, tuple) else batch


def test_items_have_the_shapes_and_types_that_the_models_expect():
    rows = np.array([7, 2, 9, 0, 4])
    targets = np.arange(5, dtype=np.float32)[:, None]
    weights = np.linspace(0, 1, 5, dtype=np.float32)
    x = RadiographBatches(PIXELS, rows, batch_size=3)[0]
    assert isinstance(x, np.ndarray)
    assert (x.shape, x.dtype) == ((3, 4, 4, 1), np.uint8)
    x, y = RadiographBatches(PIXELS, rows, targets, batch_size=3)[1]
    assert (x.shape, y.shape, y.dtype) == ((2, 4, 4, 1), (2, 1), np.float32)
    assert rows_of([(x, y)]) == [0, 4]
    x, y, w = RadiographBatches(PIXELS, rows, targets, weights, batch_size=3)[1]
    assert y[:, 0].tolist() == [3, 4]
    assert w.dtype == np.float32
    np.testing.assert_array_equal(w, weights[3:])
    joint = RadiographBatches(PIXELS, rows, np.eye(14, dtype=np.float32)[:5], batch_size=3)
    assert joint[0][1].shape == (3, 14)


def test_every_row_appears_once_in_an_epoch_and_epochs_differ():
    rows = np.array([1, 3, 5, 7, 9])
    batches = RadiographBatches(PIXELS, rows, batch_size=2, shuffle_seed=0)
    orders = []
    for _ in range(6):
        orders.append(tuple(rows_of(batches)))
        batches.on_epoch_end()
    assert batches.epoch == 6
    assert {tuple(sorted(order)) for order in orders} == {tuple(rows)}
    assert len(set(orders)) > 3


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch, batch_size=3):
        return rows_of(
            RadiographBatches(PIXELS, np.arange(10), None, None, batch_size, seed, epoch)
        )

    batches = RadiographBatches(PIXELS, np.arange(10), batch_size=3, shuffle_seed=5)
    for epoch in range(4):
        assert rows_of(batches) == order(5, epoch) == order(5, epoch, batch_size=7)
        batches.on_epoch_end()
    assert order(5, 0) != order(6, 0)
    assert order(0, 1) != order(1, 0)


def test_targets_and_weights_follow_their_rows():
    rows = np.arange(9, -1, -1)
    batches = RadiographBatches(
        PIXELS, rows, rows[:, None].astype("float32"), rows / 10, batch_size=4, shuffle_seed=1
    )
    for x, y, w in batches:
        np.testing.assert_array_equal(x[:, 0, 0, 0], y[:, 0])
        np.testing.assert_allclose(w, y[:, 0] / 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": np.ones(3)}, "without targets"),
        ({"targets": np.ones((2, 1))}, "2 targets for 3 rows"),
        ({"targets": np.ones((3, 1)), "weights": np.ones(4)}, "4 weights for 3 rows"),
        ({"rows": np.array([0, 1, 10])}, "of 10 images"),
        ({"rows": np.array([-1, 1, 2])}, "of 10 images"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RadiographBatches(**({"pixels": PIXELS, "rows": np.array([0, 1, 2])} | settings))


@pytest.mark.parametrize("through", [lambda batches: batches, feed], ids=["itself", "feed"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_fit_trains_on_the_order_of_each_epoch(through, epoch):
    """The targets are row numbers, and the metric writes their order down."""
    rows = 44
    targets = np.arange(rows, dtype=np.float32)[:, None]
    batches = RadiographBatches(
        np.zeros((rows, 4, 4), np.uint8), np.arange(rows), targets, None, 8, 7, epoch
    )
    seen = []

    class Order(keras.metrics.Metric):
        def update_state(self, y_true, y_pred, sample_weight=None):
            seen.append(keras.ops.convert_to_numpy(y_true)[:, 0].astype(int).tolist())

        def result(self):
            return 0.0

    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", metrics=[Order()], run_eagerly=True)
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda number, logs: batches.start_epoch(number + 1)
    )
    model.fit(
        through(batches),
        initial_epoch=epoch,
        epochs=epoch + 3,
        shuffle=False,
        verbose=0,
        callbacks=[start] if through is feed else [],
    )
    order = np.concatenate(seen).reshape(3, rows)
    for row, number in zip(order, range(epoch + 1, epoch + 4), strict=True):
        np.testing.assert_array_equal(row, np.random.default_rng([7, number]).permutation(rows))


def test_an_epoch_does_not_load_the_cache_into_the_process(tmp_path):
    smaps = Path("/proc/self/smaps")
    if not smaps.is_file():
        pytest.skip("only Linux tells how much of a mapping is resident")
    file = tmp_path / "large.pixels"
    with file.open("wb") as sparse:
        sparse.truncate(2000 * 160 * 160)  # 51 MB
    pixels = np.memmap(file, np.uint8, "r", shape=(2000, 160, 160))

    def resident() -> int:
        return sum(
            int(kilobytes)
            for kilobytes in re.findall(
                rf"{file.name}\n(?:.*\n)*?Rss:\s+(\d+) kB", smaps.read_text()
            )
        )

    batches = RadiographBatches(pixels, np.arange(2000), batch_size=32, shuffle_seed=0)
    largest = 0
    for _ in batches:
        largest = max(largest, resident())
    assert largest < 2000  # kB
    assert int(np.asarray(pixels).sum()) == 0
    assert resident() > 40_000  # the measurement does see pages that are mapped


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data is TensorFlow's")
def test_no_fit_waits_for_tf_datas_autotuning(monkeypatch):
    import tensorflow as tf

    feeds = []
    distribute = tf.distribute.get_strategy().__class__.experimental_distribute_dataset

    def spy(strategy, dataset, *arguments, **settings):
        feeds.append(dataset)
        return distribute(strategy, dataset, *arguments, **settings)

    monkeypatch.setattr(tf.distribute.Strategy, "experimental_distribute_dataset", spy)
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    model.compile(jit_compile=False)
    model.predict(RadiographBatches(PIXELS, np.arange(10), batch_size=4), verbose=0)
    assert [feed.options().autotune.enabled for feed in feeds] == [False]


def test_the_pixels_name_no_backend():
    for name in ("pixels", "pixel_cache", "images", "manifest", "listings", "audit"):
        tree = ast.parse((Path(mura.__file__).parent / f"{name}.py").read_text())
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"tensorflow", "jax", "torch"}, name
