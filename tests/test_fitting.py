"""Fitting: stages that freeze, averages, the books of a training, continuation."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from mura.data.training_data import TrainingData, TrainingError, batches
from networks import randomise, tiny_classifier

from mura.data.batches import RadiographBatches
from mura.models import architectures
from mura.training import checkpoint as fitting
from mura.training import device as compute
from mura.training import loop as trainers
from mura.training import progress as checkpoints
from mura.training.checkpoint import Bookkeeper, Task, fit
from mura.training.loop import Stage, compile_trainer, stages
from mura.training.progress import Progress
from mura.training.recipes import Recipe

SIZE = 32
PLAN = compute.policy(precision="float32")
SMALL = Recipe(
    image_size=SIZE,
    batch_size=8,
    epochs=1,
    head_epochs=1,
    learning_rate=1e-2,
    schedule="constant",
    early_stopping=0,
)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr("mura.models.custom_cnn.WIDTHS", (4, 8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise, brighter in the middle where the label is 1."""
    random = np.random.default_rng(0)
    labels = np.arange(36) % 2
    pixels = random.integers(0, 200, (36, SIZE, SIZE), dtype=np.uint8)
    pixels[labels == 1, 8:24, 8:24] += 50
    manifest = pd.DataFrame(
        {
            "part": ["fit"] * 24 + ["tune"] * 12,
            "body_part": ["XR_WRIST", "XR_HAND", "XR_WRIST"] * 12,
            "label": labels,
        }
    )
    return TrainingData(tmp_path_factory.mktemp("data"), manifest, pixels)


def task(data, recipe, folder, seed=0):
    network = architectures.build("cnn", SIZE, seed=seed, head=recipe.head)
    randomise(network, seed)  # what a pretrained one has: no statistic is 0 or 1
    return Task(recipe, data, network, True, PLAN, folder / "checkpoint.npz")


def values(variables):
    return [variable.numpy() for variable in variables]


def differ(before, after):
    return [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


def test_freezing_is_real(data, tmp_path, monkeypatch, capsys):
    """The backbone stays as it is, bit for bit, until the second stage."""
    chosen = task(data, SMALL, tmp_path)
    backbone = architectures.backbone(chosen.network).variables
    assert any("moving_variance" in variable.path for variable in backbone)
    head = chosen.network.get_layer("abnormal").variables
    states = [(values(backbone), values(head))]
    monkeypatch.setattr(
        checkpoints, "save", lambda *_: states.append((values(backbone), values(head)))
    )
    progress = Progress("freezing")
    fit(chosen, progress, {})
    start, warm, tuned = states
    assert not any(differ(start[0], warm[0]))
    assert all(differ(start[1], warm[1]))
    assert all(differ(warm[0], tuned[0]))
    assert all(differ(warm[1], tuned[1]))

    assert [(row["stage"], row["epoch"]) for row in progress.history] == [("head", 1), ("all", 2)]
    rates = [row["learning_rate"] for row in progress.history]
    np.testing.assert_allclose(rates, [SMALL.head_learning_rate, SMALL.learning_rate])
    # no terminal here: a line per epoch all the same
    lines = capsys.readouterr().out.splitlines()
    assert sum(" - loss: " in line and " - val_loss: " in line for line in lines) == 2


def test_averaged_weights_are_what_is_evaluated_and_kept(data, tmp_path, monkeypatch):
    recipe = SMALL.replace(head_epochs=0, average_momentum=0.9)
    chosen = task(data, recipe, tmp_path)
    monkeypatch.setattr(trainers, "_momentum", lambda momentum, steps: momentum)  # few as they are
    raw = []
    monkeypatch.setattr(checkpoints, "save", lambda *_: raw.append(chosen.network.get_weights()))
    progress = Progress("average")
    kept = fit(chosen, progress, {})
    trainable = [variable.trainable for variable in chosen.network.weights]
    assert any(np.array(differ(raw[0], kept))[trainable])
    # whatever is neither trained nor averaged (moving statistics) is the same in both
    assert not any(np.array(differ(raw[0], kept))[~np.array(trainable)])

    judge = architectures.build("cnn", SIZE)
    stage = stages(recipe, pretrained=False)[0]
    compile_trainer(judge, recipe, stage, 1, PLAN)
    losses = []
    for weights in (kept, raw[0]):
        judge.set_weights(weights)
        losses.append(judge.evaluate(batches(data, "tune", recipe), verbose=0)[0])
    assert losses[0] == pytest.approx(progress.history[0]["tune_loss"], rel=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-3 * losses[0]


# a modern recipe with both stages: every kind of state that could be forgotten
CONTINUED = SMALL.replace(
    epochs=2,
    optimizer="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_fraction=0.2,
    average_momentum=0.9,
)


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mura.models.custom_cnn.WIDTHS", (4, 8))
        patch.setattr(trainers, "_momentum", lambda momentum, steps: momentum)
        progress = Progress("same")
        kept = fit(task(data, CONTINUED, tmp_path_factory.mktemp("whole")), progress, {})
    return progress.history, kept


@pytest.mark.parametrize("epochs", [1, 2], ids=["between two stages", "within a stage"])
def test_a_continued_training_ends_bit_for_bit_like_an_uninterrupted_one(
    epochs, data, uninterrupted, tmp_path, monkeypatch
):
    save = checkpoints.save

    def save_and_stop(path, progress, *state):
        save(path, progress, *state)
        if len(progress.history) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainers, "_momentum", lambda momentum, steps: momentum)
    monkeypatch.setattr(checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        fit(task(data, CONTINUED, tmp_path), Progress("same"), {})
    monkeypatch.setattr(checkpoints, "save", save)

    progress, arrays = checkpoints.load(tmp_path / "checkpoint.npz", "same")
    assert len(progress.history) == epochs
    # of another seed, because everything must come from the checkpoint
    kept = fit(task(data, CONTINUED, tmp_path, seed=7), progress, arrays)
    history, weights = uninterrupted
    assert progress.history == history
    assert not any(differ(weights, kept))


def test_every_epoch_of_every_stage_reads_an_order_of_its_own(data, tmp_path, monkeypatch):
    orders = {}
    read = RadiographBatches.__getitem__

    def watch(dealt, index):
        if dealt.shuffle_seed is not None:
            orders[dealt.epoch] = tuple(dealt._order)
        return read(dealt, index)

    monkeypatch.setattr(RadiographBatches, "__getitem__", watch)
    fit(task(data, SMALL.replace(epochs=2), tmp_path), Progress("orders"), {})
    assert {1, 2, 3} <= set(orders)  # one epoch of the head, two of the whole
    assert len({orders[epoch] for epoch in (1, 2, 3)}) == 3


def test_a_loss_that_is_no_number_is_an_error(data, tmp_path, monkeypatch):
    recipe = SMALL.replace(head_epochs=0)

    def diverge(trainer, *_, callbacks, **__):
        for epoch in range(2):
            _report(callbacks[0], trainer, epoch, float("nan"))

    monkeypatch.setattr(keras.Model, "fit", diverge)
    with pytest.raises(TrainingError, match="take a smaller learning_rate"):
        fit(task(data, recipe, tmp_path), Progress("nan"), {})


def keep_books(losses, data, folder, frozen=False, before=None, **changes):
    """Report tune losses epoch by epoch; return the model and the progress."""
    keeper = _keeper(losses, data, folder, frozen, before, **changes)
    return keeper.model, keeper.progress


def _keeper(losses, data, folder, frozen=False, before=None, **changes):
    """Report tune losses of epochs whose weights are their number, counted from 1."""
    recipe = SMALL.replace(schedule="plateau", **changes)
    model = tiny_classifier()
    stage = Stage("head" if frozen else "all", 99, 1.0, frozen_backbone=frozen)
    compile_trainer(model, recipe, stage, 1, PLAN)
    model.optimizer.build(model.trainable_variables)
    model.stop_training = False
    progress = before or Progress("books")
    chosen = Task(recipe, data, model, True, PLAN, folder / "checkpoint.npz")
    keeper = Bookkeeper(chosen, stage, progress, None)
    for epoch, loss in enumerate(losses):
        if not model.stop_training:
            model.set_weights([np.full(w.shape, epoch + 1.0) for w in model.get_weights()])
            _report(keeper, model, epoch, loss)
    return keeper


def _report(keeper, model, epoch, loss):
    """Call a callback as Keras does in an epoch."""
    keeper.set_model(model)
    keeper.on_epoch_begin(epoch)
    keeper.on_test_begin()
    keeper.on_test_end()
    keeper.on_epoch_end(epoch, {"loss": 0.5, "val_loss": loss})


def test_the_rate_is_cut_on_a_plateau_and_training_stops(data, tmp_path):
    losses = [1.0, 0.9, 0.95, 0.9, 0.95, 0.95, 0.1]
    model, progress = keep_books(losses, data, tmp_path, plateau_patience=2, early_stopping=4)
    # the best is epoch 2 (an equal loss is no gain); cut after 3 and 4, and after 5 and 6; stop
    rates = [row["learning_rate"] for row in progress.history]
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.1, 0.1], rtol=1e-6)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert (progress.best_epoch, progress.best_loss) == (2, 0.9)
    assert progress.stopped
    assert model.stop_training


def test_the_rate_does_not_wait_for_a_gain_over_the_stage_before(data, tmp_path):
    """A head that was loaded trained answers better frozen than after its first step."""
    head = {"stage": "head", "epoch": 1, "tune_loss": 0.5, "learning_rate": 1.0}
    before = Progress("books", best_loss=0.5, best_epoch=1, history=[head])
    losses = [0.9, 0.8, 0.7, 0.75, 0.4]
    _, progress = keep_books(losses, data, tmp_path, before=before, early_stopping=2)
    rates = [row["learning_rate"] for row in progress.history[1:]]
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.1], rtol=1e-6)
    assert (progress.best_epoch, progress.best_loss, progress.stopped) == (6, 0.4, False)
    # and a continued training knows what its stage has reached
    _, progress = keep_books([0.45, 0.45], data, tmp_path, before=progress, early_stopping=2)
    assert progress.stopped


def test_the_best_epochs_weights_are_kept(data, tmp_path):
    for losses, best in (([0.9, 0.7, 0.8, 0.7], 2), ([0.9, 0.8, 0.5], 3), ([0.1, 0.2], 1)):
        keeper = _keeper(losses, data, tmp_path)
        assert {value for weights in keeper.best for value in weights.ravel()} == {best}


def test_the_papers_rate_is_cut_after_each_epoch_without_a_gain(data, tmp_path):
    losses = [1.0, 1.1, 0.9, 1.0, 1.0]
    _, progress = keep_books(losses, data, tmp_path, early_stopping=0)
    rates = [row["learning_rate"] for row in progress.history]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)
    assert not progress.stopped


def test_the_warm_up_of_the_head_is_neither_cut_nor_stopped(data, tmp_path):
    model, progress = keep_books([1.0, 2.0, 2.0], data, tmp_path, frozen=True, early_stopping=1)
    assert len(progress.history) == 3
    assert float(model.optimizer.learning_rate) == 1


def test_a_training_leaves_statistics_of_its_own_images(data, tmp_path):
    """Whatever they were at its start: the answers of a short one would else be all alike."""
    left = []
    for start in (0.1, 10.0):
        chosen = task(data, SMALL.replace(head_epochs=0, epochs=5), tmp_path)
        statistics = [v for v in chosen.network.non_trainable_variables if "moving" in v.path]
        for variable in statistics:
            variable.assign(keras.ops.full_like(variable, start))
        fit(chosen, Progress("statistics"), {})
        left.append([keras.ops.convert_to_numpy(variable) for variable in statistics])
    for one, other in zip(*left, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01)


def test_the_clock_stops_only_when_the_device_is_done(data, tmp_path, monkeypatch):
    """JAX returns from a step before it is computed; what the step leaves has to be waited for."""
    events = []
    read = keras.ops.convert_to_numpy

    def reading(value):
        events.append(getattr(value, "name", ""))
        return read(value)

    def timing():
        events.append("clock")
        return float(len(events))

    monkeypatch.setattr(keras.ops, "convert_to_numpy", reading)
    monkeypatch.setattr(fitting, "time", SimpleNamespace(perf_counter=timing))
    keep_books([1.0], data, tmp_path)
    start, end = (index for index, event in enumerate(events) if event == "clock")
    assert "iteration" in events[start:end]


def test_a_training_that_xla_compiles_takes_its_steps(data, tmp_path):
    """As on a GPU, where every operation of the step has to be one that XLA knows."""
    recipe = SMALL.replace(head_epochs=0, schedule="cosine", average_momentum=0.9)
    plan = compute.ComputePolicy("gpu", jit_compile=True, precision="float32")
    progress = Progress("xla")
    fit(dataclasses.replace(task(data, recipe, tmp_path), plan=plan), progress, {})
    assert [np.isfinite(row["loss"]) for row in progress.history] == [True]


def test_a_first_epoch_of_minutes_says_how_long_it_takes(monkeypatch):
    said = []
    monkeypatch.setattr("builtins.print", lambda *words, **how: said.append((words, how)))
    clock = iter([100.0, 130.0, 160.0, 190.0, 220.0])  # the first step's compilation is over
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: next(clock))
    sign = fitting.SignOfLife()
    sign.set_params({"steps": 41})
    for batch in range(5):
        sign.on_train_batch_end(batch)
    # 60 s for two steps: 41 take 20.5 minutes; a batch job's log must not hold it back
    assert said == [(("step 3 of 41: about 20 minutes per epoch",), {"flush": True})]


@pytest.mark.parametrize("bar", [False, True])
def test_a_sign_of_life_is_given_where_no_bar_moves(bar, data, tmp_path, monkeypatch, capsys):
    given = fitting.SignOfLife
    monkeypatch.setattr(fitting, "SignOfLife", lambda: given(after=0.0))
    monkeypatch.setattr(fitting.sys.stdout, "isatty", lambda: bar, raising=False)
    fit(task(data, SMALL.replace(epochs=2), tmp_path), Progress("x"), {})
    # once for each of two stages, of three steps each
    assert capsys.readouterr().out.count("step 2 of 3: about 0 minutes per epoch") == 2 * (not bar)
