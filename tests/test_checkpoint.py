"""The checkpoint: freezing, averages, counters, and trainings that go on after any kill."""

import pickle

import keras
import numpy as np
import pandas as pd
import pytest
from networks import randomise, tiny_classifier
from tiny import SIZE, fit, noise_batches

from mura import models, training
from mura.data import RadiographBatches
from mura.files import write_json
from mura.training import Checkpoint, CheckpointError, TrainingError, loop, progress
from mura.training.recipes import Recipe

SMALL = Recipe(
    image_size=SIZE,
    precision="float32",
    batch_size=8,
    epochs=1,
    head_epochs=1,
    learning_rate=1e-2,
    schedule="constant",
    early_stopping=0,
)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mura.models.custom_cnn.WIDTHS", (4, 8))
        # so few steps would have no average at all
        patch.setattr(loop, "_momentum", lambda momentum, steps: momentum)
        yield


@pytest.fixture(scope="module")
def donor(tmp_path_factory, small_network):
    """Weights to start from, so that there is a backbone to freeze; no statistic is 0 or 1."""
    model = models.build("cnn", SIZE)
    randomise(model)
    model.save(tmp_path_factory.mktemp("donor") / "donor.keras")
    return str(tmp_path_factory.getbasetemp() / "donor0" / "donor.keras")


@pytest.fixture
def batches(tmp_path):
    return noise_batches(tmp_path, SMALL)


def differ(before, after):
    return [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


class Kill(keras.callbacks.Callback):
    """Interrupt a training within an epoch (``batch``), or once it is saved (None)."""

    def __init__(self, epochs, batch):
        super().__init__()
        self.left, self.batch = epochs, batch

    def on_train_batch_end(self, batch, logs=None):
        if self.left == 0 and batch == self.batch:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.left -= 1
        if self.left == 0 and self.batch is None:
            raise KeyboardInterrupt


# every kind of state that could be forgotten: augmentation, dropout, moments, averages, schedule
CONTINUED = SMALL.replace(
    epochs=3,
    head_epochs=2,
    optimizer="adamw",
    weight_decay=0.01,
    schedule="cosine",
    warmup_fraction=0.2,
    average_momentum=0.9,
)


@pytest.fixture(scope="module")
def whole(donor, tmp_path_factory):
    """An uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = CONTINUED.replace(weights=donor)
    return training.save(*fit(recipe, noise_batches(folder, recipe), folder))


KILLS = {
    "within the head's second epoch": (1, 1),
    "between the stages": (2, None),
    "within the second stage": (3, 1),
    "before the run is written": (5, None),
}


@pytest.mark.parametrize(("epochs", "batch"), KILLS.values(), ids=KILLS)
def test_a_killed_training_goes_on_and_ends_bit_for_bit_like_an_uninterrupted_one(
    epochs, batch, donor, whole, tmp_path, capsys
):
    recipe = CONTINUED.replace(weights=donor)
    batches = noise_batches(tmp_path, recipe)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, batches, tmp_path, callbacks=[Kill(epochs, batch)])
    again = noise_batches(tmp_path, recipe)
    run = training.save(*fit(recipe, again, tmp_path, forget=True))
    assert f"continuing after epoch {epochs}" in capsys.readouterr().out
    pd.testing.assert_frame_equal(run.history, whole.history, check_exact=True)
    assert run.history["stage"].tolist() == ["head"] * 2 + ["all"] * 3
    weights = [each.load_model().get_weights() for each in (run, whole)]
    assert not any(differ(*weights))
    assert run.environment["best_epoch"] == whole.environment["best_epoch"]
    assert {path.name for path in tmp_path.glob(".*")} == set()


def test_a_training_that_had_stopped_early_is_only_written(tmp_path, batches):
    recipe = SMALL.replace(epochs=9, early_stopping=1, learning_rate=1.0)
    _, stopped = fit(recipe, batches, tmp_path)
    assert stopped.progress.stopped
    run = training.save(*fit(recipe, batches, tmp_path, forget=True))
    assert run.environment["epochs"] == len(stopped.progress.history) < 9
    assert run.environment["optimizer"] == stopped.progress.optimizer.removeprefix("Fused")
    assert not any(differ(run.load_model().get_weights(), stopped.best))


def watched(recipe, batches, folder):
    """Train; return the checkpoint and the network's weights after each epoch."""
    states, watch = [], keras.callbacks.LambdaCallback()
    watch.on_epoch_end = lambda *_: states.append(watch.model.layers[-1].get_weights())
    return fit(recipe, batches, folder, callbacks=[watch])[1], states


def test_freezing_is_real(donor, tmp_path, batches):
    """The backbone stays as it is, bit for bit, until the second stage."""
    checkpoint, (warm, tuned) = watched(SMALL.replace(weights=donor), batches, tmp_path)
    start = models.load(donor).get_weights()
    assert not any(differ(start[:-2], warm[:-2]))  # the head's kernel and bias are the last
    assert all(differ(start[-2:], warm[-2:]))
    assert all(differ(warm, tuned))
    rows = [tuple(row.values()) for row in checkpoint.progress.history]
    assert [row[:2] for row in rows] == [("head", 1), ("all", 2)]
    np.testing.assert_allclose([row[-1] for row in rows], [1e-3, 1e-2])  # learning rates


def test_averaged_weights_are_what_is_evaluated_and_kept(tmp_path, batches):
    checkpoint, [raw] = watched(SMALL.replace(average_momentum=0.9), batches, tmp_path)
    kept, judge, losses = checkpoint.best, models.build("cnn", SIZE), []
    trainable = np.array([variable.trainable for variable in judge.weights])
    assert any(np.array(differ(raw, kept))[trainable])
    # whatever is neither trained nor averaged (moving statistics) is the same in both
    assert not any(np.array(differ(raw, kept))[~trainable])
    judge.compile(loss="binary_crossentropy")
    for weights in (kept, raw):
        judge.set_weights(weights)
        losses.append(judge.evaluate(batches.tune, verbose=0))
    assert losses[0] == pytest.approx(checkpoint.progress.best_loss, rel=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-3 * losses[0]


def test_every_epoch_of_every_stage_reads_an_order_of_its_own(donor, tmp_path, monkeypatch):
    read, orders = RadiographBatches.__getitem__, {}

    def watch(dealt, index):
        if dealt.shuffle_seed is not None:
            orders[dealt.epoch] = tuple(dealt._order)
        return read(dealt, index)

    monkeypatch.setattr(RadiographBatches, "__getitem__", watch)
    recipe = SMALL.replace(epochs=2, weights=donor)
    fit(recipe, noise_batches(tmp_path, recipe), tmp_path)
    assert {1, 2, 3} <= set(orders)  # one epoch of the head, two of the whole
    assert len({orders[epoch] for epoch in (1, 2, 3)}) == 3


def books(losses, tmp_path, stage="all", before=(), **changes):
    """Report tune losses of epochs whose weights are their number, counted from 1."""
    recipe = SMALL.replace(schedule="plateau", **changes)
    model = tiny_classifier()
    model.origin = models.build("cnn", SIZE).origin
    model.compile(keras.optimizers.Adam(1.0), "binary_crossentropy", jit_compile=False)
    model.stop_training = False
    keeper = Checkpoint(model, recipe, noise_batches(tmp_path, recipe), "books", tmp_path)
    keeper.path = tmp_path / "books.npz"
    keeper.set_model(model)
    number = 0
    for index, (name, some) in enumerate([*before, (stage, losses)]):
        keeper.enter(index, name)
        keeper.on_train_begin()
        for epoch, loss in enumerate(some):
            number += 1
            if not model.stop_training:
                model.set_weights([np.full(w.shape, float(number)) for w in model.get_weights()])
                keeper.on_epoch_begin(epoch)
                keeper.on_test_begin()
                keeper.on_test_end()
                keeper.on_epoch_end(epoch, {"loss": 0.5, "val_loss": loss})
    rates = [row["learning_rate"] for row in keeper.progress.history]
    return keeper, keeper.progress, rates


RAW = {"plateau_window": 1, "plateau_gain": 0.0}


def test_the_rate_is_cut_on_a_plateau_and_training_stops(tmp_path):
    losses = [1.0, 0.9, 0.95, 0.9, 0.95, 0.95, 0.1]
    keeper, found, rates = books(losses, tmp_path, **RAW, plateau_patience=2, early_stopping=4)
    # the best is epoch 2 (an equal loss is no gain); cut after 3 and 4, and after 5 and 6; stop
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 0.1, 0.1], rtol=1e-6)
    assert float(keeper.model.optimizer.learning_rate) == pytest.approx(0.01)
    assert (found.best_epoch, found.best_loss) == (2, 0.9)
    assert found.stopped and keeper.model.stop_training


@pytest.mark.parametrize("seed", range(5))
def test_noise_cuts_the_rate_three_times_at_most_and_never_below_its_floor(seed, tmp_path):
    losses = np.random.default_rng(seed).normal(0.2, 0.02, 30)
    _, found, rates = books(losses, tmp_path, learning_rate=1.0)
    assert len(found.history) == 30
    assert len(set(rates)) <= 4 and min(rates) >= 1e-3 * (1 - 1e-6)


def test_a_loss_that_falls_under_its_noise_keeps_its_rate(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.01, 30)
    _, _, rates = books(np.linspace(0.6, 0.2, 30) + noise, tmp_path)
    assert set(rates) == {1.0}


def test_the_rate_does_not_wait_for_a_gain_over_the_stage_before(tmp_path):
    """A head that was loaded trained answers better frozen than after its first step."""
    losses = [0.9, 0.8, 0.7, 0.75, 0.4]
    once = {**RAW, "plateau_patience": 1}
    _, found, rates = books(losses, tmp_path, before=[("head", [0.5])], early_stopping=2, **once)
    np.testing.assert_allclose(rates[1:], [1, 1, 1, 1, 0.1], rtol=1e-6)
    assert (found.best_epoch, found.best_loss, found.stopped) == (6, 0.4, False)


def test_the_head_stage_is_neither_cut_nor_stopped(tmp_path):
    keeper, found, _ = books([1.0, 2.0, 2.0], tmp_path, "head", early_stopping=1)
    assert len(found.history) == 3 and not found.stopped
    assert float(keeper.model.optimizer.learning_rate) == 1


def test_the_best_epochs_weights_are_kept(tmp_path):
    for losses, best in (([0.9, 0.7, 0.8, 0.7], 2), ([0.9, 0.8, 0.5], 3), ([0.1, 0.2], 1)):
        keeper, _, _ = books(losses, tmp_path)
        assert {value for weights in keeper.best for value in weights.ravel()} == {best}


def test_the_last_epochs_weights_are_kept_where_the_recipe_says_so(tmp_path):
    keeper, found, _ = books([0.9, 0.5, 0.8, float("nan")], tmp_path, keep="last")
    assert {value for weights in keeper.best for value in weights.ravel()} == {3}
    assert (found.best_epoch, found.best_loss, found.diverged) == (3, 0.8, 4)


@pytest.mark.parametrize("stage", ["all", "head"])
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_training_stops_at_the_first_loss_that_is_not_a_number(loss, stage, tmp_path, capsys):
    keeper, found, _ = books([0.5, 0.4, loss, 0.3], tmp_path, stage, early_stopping=0)
    assert keeper.model.stop_training and found.stopped
    assert (found.diverged, found.best_epoch, found.best_loss) == (3, 2, 0.4)
    assert {value for weights in keeper.best for value in weights.ravel()} == {2}
    printed = capsys.readouterr().out
    assert "stopped: the loss of epoch 3 is not a number" in printed
    assert "smaller learning_rate" in printed


def test_a_loss_that_is_never_a_number_is_an_error(tmp_path):
    keeper, _, _ = books([float("nan")], tmp_path)
    with pytest.raises(TrainingError, match=r"tune loss was never a number.*smaller learning_rate"):
        training.save(keeper.model, keeper)
    assert not keeper.folder.exists()


def test_the_run_and_its_card_say_that_the_loss_was_not_a_number(tmp_path, batches):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kernel = self.model.trainable_variables[0]
                kernel.assign(kernel * float("nan"))

    recipe = SMALL.replace(epochs=5, head_epochs=0)
    trainer, checkpoint = fit(recipe, batches, tmp_path, callbacks=[Poison()])
    run = training.save(trainer, checkpoint)
    assert (run.environment["diverged"], run.environment["epochs"]) == (2, 2)
    assert run.environment["best_epoch"] == 1
    assert np.isfinite(run.predictions["probability"]).all()
    assert "the loss of epoch 2 is not a number" in (run.folder / "README.md").read_text()


@pytest.fixture
def unfinished(tmp_path, batches):
    """The checkpoint file of a training that was interrupted after its first epoch."""

    def interrupt(recipe=SMALL, batches=batches, **settings):
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, batches, tmp_path, callbacks=[Kill(1, None)], **settings)
        return tmp_path / ".tiny.training" / "checkpoint.npz"

    return interrupt


def opened(recipe, batches, folder, **settings):
    return Checkpoint(training.build(recipe, folder), recipe, batches, "tiny", folder, **settings)


@pytest.mark.parametrize("synthetic", [True, False], ids=["phantom", "radiographs"])
def test_only_a_phantoms_unfinished_training_gives_way(synthetic, unfinished, tmp_path, capsys):
    batches = noise_batches(tmp_path, SMALL, synthetic)
    path, other = unfinished(batches=batches), SMALL.replace(epochs=14, seed=3)
    told = "another recipe: seed 0 instead of 3, epochs 1 instead of 14; repeat its settings"
    kept = [{"replace": False}] if synthetic else [{"replace": False}, {}]
    for settings in kept:
        with pytest.raises(CheckpointError, match=told) as error:
            opened(other, batches, tmp_path, **settings)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    if synthetic:
        assert opened(other, batches, tmp_path).best is None
        assert f"an unfinished training gives way: {path}: " in capsys.readouterr().out
    assert path.is_file()
    # the same one goes on either way, unless it is not to
    assert len(opened(SMALL, batches, tmp_path, replace=False).progress.history) == 1
    with pytest.raises(TrainingError, match="an unfinished training of this name exists"):
        opened(SMALL, batches, tmp_path, resume=False)


def test_other_data_and_another_optimizer_are_refused(unfinished, tmp_path, batches):
    path = unfinished()
    with pytest.raises(CheckpointError, match=f"{path}: .*compiled with FusedAdam.* with SGD"):
        fit(SMALL, batches, tmp_path, optimizer=keras.optimizers.SGD)
    batches.manifest.loc[0, "label"] = 1
    with pytest.raises(CheckpointError, match="has other data or another Keras backend; repeat"):
        opened(SMALL, batches, tmp_path, replace=False)


def test_any_damage_is_one_sentence(unfinished, tmp_path, batches):
    path = unfinished()
    whole, random = path.read_bytes(), np.random.default_rng(0)
    flipped = [
        (position, 1 << random.integers(8)) for position in random.integers(0, len(whole), 60)
    ]
    identity = opened(SMALL, batches, tmp_path).progress.identity
    for position, bit in flipped:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        try:
            progress.load(path, identity, {})
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and "delete its folder" in str(error)
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            opened(SMALL, batches, tmp_path, replace=False)
    opened(SMALL, batches, tmp_path)  # a notebook begins anew


class Planted:
    def __reduce__(self):
        return (pytest.fail, ("was unpickled",))


def test_nothing_is_unpickled(tmp_path):
    path, objects = tmp_path / "checkpoint.npz", np.empty(1, dtype=object)
    objects[0] = Planted()
    path.write_bytes(pickle.dumps(Planted()))
    for plant in (lambda: None, lambda: np.savez(path, progress=objects)):
        plant()
        with pytest.raises(CheckpointError, match="damaged checkpoint"):
            progress.load(path, "", {})


@pytest.mark.parametrize("facts", [{"data": {"name": "MURA-v1.1"}}, {"data": {"name": ["x"]}}])
def test_a_run_on_radiographs_is_never_replaced(tmp_path, batches, facts):
    (tmp_path / "tiny").mkdir()
    write_json(tmp_path / "tiny" / "environment.json", facts)
    with pytest.raises(TrainingError, match=r"tiny: this run was trained on .* is never replaced"):
        opened(SMALL, batches, tmp_path)
    with pytest.raises(TrainingError, match="exists already"):
        opened(SMALL, batches, tmp_path, replace=False)


def test_a_phantoms_run_gives_way_when_the_new_one_is_complete(tmp_path, batches, capsys):
    first = training.save(*fit(SMALL, batches, tmp_path))
    trained = fit(SMALL.replace(seed=1), noise_batches(tmp_path, SMALL), tmp_path)
    assert "an earlier run, which gives way when this one is complete" in capsys.readouterr().out
    assert first.folder.is_dir()
    assert training.save(*trained).recipe["seed"] == 1
    (tmp_path / "tiny" / "environment.json").write_text('{"data": ')  # damaged
    opened(SMALL, batches, tmp_path)


def test_a_folder_of_something_else_is_not_replaced(tmp_path, batches):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "image1.png").touch()
    with pytest.raises(TrainingError, match="tiny: is no run, so it is not replaced"):
        opened(SMALL, batches, tmp_path)
