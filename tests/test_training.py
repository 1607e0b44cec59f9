"""Training: a run folder that is whole, a seed that decides, a loop that is the user's own."""

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from networks import noise_images
from tiny import SIZE, fit, noise_batches, tiny_recipe, tiny_run

from mura import data, models, training
from mura.data import BODY_PARTS, ManifestError, loss_weights
from mura.evaluation.reports import run_metrics
from mura.models import WeightsError
from mura.runs import DECISIONS, NOVELTY, RUN_FILES, RunError
from mura.training import TrainingError, device, loop
from mura.training.recipes import Recipe, recipe

PAPER = recipe("densenet169", "paper")
STANDARD = recipe("densenet169", "standard", weight_decay=0.05, average_momentum=0.999)
SMALL = Recipe(image_size=SIZE, precision="float32", batch_size=8, epochs=2, learning_rate=1e-2)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mura.models.custom_cnn.WIDTHS", (4, 8))
        yield


@pytest.fixture(scope="module")
def run(phantom_root, tmp_path_factory):
    return tiny_run(phantom_root, tmp_path_factory.mktemp("models"))


@pytest.fixture
def batches(tmp_path):
    return noise_batches(tmp_path, SMALL)


def test_the_run_folder_is_complete(run, phantom_root):
    assert {path.name for path in run.folder.iterdir()} == {*RUN_FILES, DECISIONS, NOVELTY}
    assert not list(run.folder.parent.glob(".*"))
    batches = data.batches(data.read(phantom_root), phantom_root, tiny_recipe())
    valid = batches.manifest[batches.manifest["part"] == "valid"]
    assert set(run.predictions["split"]) == {"tune", "valid"}
    saved = run.predictions[run.predictions["split"] == "valid"]
    assert list(saved["path"]) == list(valid["path"])
    again = run.load_model().predict(batches.pixels[valid.index][..., None], verbose=0)[:, 0]
    np.testing.assert_allclose(saved["probability"], again, atol=1e-6)
    assert set(run.split["part"]) == {"fit", "tune", "valid"}
    fitted = set(run.split.loc[run.split["part"] == "fit", "patient"])
    assert fitted.isdisjoint(run.predictions["patient"])
    # the saved network is that of the best epoch: it has the loss that was seen then
    tune = run.predictions[run.predictions["split"] == "tune"]
    weights = loss_weights(batches.manifest)
    weight = [weights.loc[part, label] for part, label in tune[["body_part", "label"]].to_numpy()]
    right = np.where(tune["label"] == 1, tune["probability"], 1 - tune["probability"])
    loss = np.mean(weight * -np.log(right.astype(float)))
    facts = run.environment
    assert facts["best_tune_loss"] == pytest.approx(loss, rel=1e-4)
    assert run.history["tune_loss"].min() == pytest.approx(loss, rel=1e-4)
    assert facts["best_epoch"] == run.history["tune_loss"].idxmin() + 1
    assert (facts["weights"], facts["kept"]) == ("random", "best epoch")
    assert facts["optimizer"] == "Adam"
    assert facts["compute"] == vars(device.plan(tiny_recipe())) | {"devices": 1}
    assert facts["epochs"] == len(run.history) == 2
    assert facts["versions"]["keras"] == keras.__version__
    with zipfile.ZipFile(run.folder / "model.keras") as archive:
        assert b"RadiographAugmentation" not in archive.read("config.json")
    card = (run.folder / "README.md").read_text()
    assert card.startswith("# Model card: tiny\n")
    assert "not a medical device" in card


def test_one_seed_gives_one_history(run, phantom_root, tmp_path):
    again = tiny_run(phantom_root, tmp_path)
    other = tiny_run(phantom_root, tmp_path, name="other", seed=1)
    pd.testing.assert_frame_equal(run.history, again.history, check_exact=True)
    weights = [each.load_model().get_weights() for each in (run, again)]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.allclose(run.history["tune_loss"], other.history["tune_loss"])


STANDARD_SETTINGS = {
    "optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "warmup_fraction": 0.2,
    "average_momentum": 0.9, "label_smoothing": 0.1, "precision": "mixed_bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"head": "joint"}, {"body_parts": ("XR_WRIST",)}, STANDARD_SETTINGS],
    ids=["joint", "one body part", "standard"],
)
def test_every_way_of_training_ends_in_the_same_kind_of_run(changes, run, phantom_root, tmp_path):
    other = tiny_run(phantom_root, tmp_path, epochs=1, **changes)
    model = other.load_model()
    assert model.output_shape == (None, 1)
    assert model.get_layer("feature_maps").output.shape[-1] == 8
    assert {layer.compute_dtype for layer in model.layers} <= {"float32", "uint8"}
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert other.environment["compute"]["precision"] == changes.get("precision", "float32")
    assert other.predictions["probability"].between(0, 1).all()
    assert list(other.predictions.columns) == list(run.predictions.columns)
    # the same evaluation for all three, on the same images of these body parts
    parts = changes.get("body_parts", BODY_PARTS)
    expected = run.predictions[run.predictions["body_part"].isin(parts)]
    assert list(other.predictions["path"]) == list(expected["path"])
    assert other.metrics.keys() == run_metrics(run.predictions).keys()


def test_a_run_is_fine_tuned_on_one_body_part(run, phantom_root, tmp_path):
    tuned = tiny_run(
        phantom_root,
        tmp_path,
        weights=str(run.folder),
        body_parts=("XR_WRIST",),
        epochs=1,
        learning_rate=1e-9,  # as good as none, so that what it started from can be seen
    )
    assert tuned.environment["weights"] == "run:tiny"
    pairs = zip(
        run.load_model().trainable_variables, tuned.load_model().trainable_variables, strict=True
    )
    for before, after in pairs:
        np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-6)


def test_a_run_that_was_fitted_on_held_out_patients_is_no_start(run, phantom_root, tmp_path):
    donor = {"weights": str(run.folder), "split_seed": 1}
    with pytest.raises(WeightsError, match=r"tiny: was fitted on \d+ of the patients that this"):
        tiny_run(phantom_root, tmp_path, **donor)
    assert list(tmp_path.iterdir()) == []


def test_ones_own_callback_and_optimizer_are_in_effect(tmp_path, batches):
    called = []
    own = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: called.append(1))
    trained = fit(SMALL, batches, tmp_path, callbacks=[own], optimizer=keras.optimizers.SGD)
    run = training.save(*trained)
    assert run.environment["optimizer"] == "SGD"
    assert len(called) == len(run.history) == 2
    assert run.environment["kept"] == "best epoch"
    assert {path.name for path in run.folder.iterdir()} == {*RUN_FILES, DECISIONS, NOVELTY}


def test_a_script_may_pass_callbacks(phantom_root, tmp_path, capsys):
    called = []
    own = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: called.append(1))
    training.train(tiny_recipe(epochs=1), phantom_root, "own", tmp_path, callbacks=[own])
    assert called == [1]
    printed = capsys.readouterr().out
    assert "cnn by quick: " in printed and " images of 32 px, cpu, float32" in printed
    # no terminal here: a line per epoch all the same
    assert sum(" - val_loss: " in line for line in printed.splitlines()) == 1


def test_without_the_checkpoint_the_last_epoch_is_kept_and_the_run_says_so(tmp_path, batches):
    trainer, checkpoint = fit(SMALL, batches, tmp_path, watched=False)
    weights = checkpoint.model_to_save.get_weights()
    run = training.save(trainer, checkpoint)
    assert (run.environment["kept"], run.environment["best_epoch"]) == ("last epoch", 2)
    assert run.history["epoch"].tolist() == [1, 2]
    last = run.history["tune_loss"].iloc[-1]
    assert run.environment["best_tune_loss"] == pytest.approx(last)
    for one, two in zip(weights, run.load_model().get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_run_without_a_training_is_not_written(tmp_path, batches):
    model = training.build(SMALL)
    checkpoint = training.Checkpoint(model, SMALL, batches, "tiny", tmp_path)
    with pytest.raises(TrainingError, match="nothing was fitted"):
        training.save(training.compose(model, SMALL), checkpoint)
    assert not checkpoint.folder.exists()


@pytest.mark.parametrize(
    ("row", "column", "value", "watched"),
    [(24, "patient", "patient00000", True), (35, "patient", "patient00000", False),
     (0, "part", "tune", False), (0, "part", "valid", True),
     (None, "rows", 24, True), (None, "rows", 35, False)],
)  # fmt: skip
def test_results_on_patients_that_were_fitted_are_refused(
    row, column, value, watched, tmp_path, batches
):
    if row is None:
        batches.fit.rows = np.append(batches.fit.rows[1:], value)
    else:
        batches.manifest.loc[row, column] = value
    trainer, checkpoint = fit(SMALL.replace(epochs=1), batches, tmp_path, watched=watched)
    with pytest.raises(ManifestError, match="1 patients are in more than one part"):
        training.save(trainer, checkpoint)
    assert not checkpoint.folder.exists()


def test_names_are_not_taken_twice_and_not_escaped(run, phantom_root):
    folder = run.folder.parent
    with pytest.raises(TrainingError, match="exists already"):
        tiny_run(phantom_root, folder)
    finished = training.train(tiny_recipe(), phantom_root, "tiny", folder, resume=True)
    assert finished.folder == run.folder
    with pytest.raises(TrainingError, match="exists already"):
        training.train(tiny_recipe(epochs=1), phantom_root, "tiny", folder, resume=True)
    for name in ("../elsewhere", ".hidden", "a/b"):
        with pytest.raises(RunError, match="run name"):
            tiny_run(phantom_root, folder, name)


def stages_of(recipe, tmp_path, origin="random", steps=3):
    """Return the stages of a training of a tiny classifier, with so many steps per epoch."""
    features = keras.Input((2,))
    maps = keras.layers.Identity(name="feature_maps")(features)
    outputs = 14 if recipe.head == "joint" else 1
    model = keras.Model(features, keras.layers.Dense(outputs, "sigmoid")(maps))
    model.origin = models.weights.Origin(origin)
    batches = noise_batches(tmp_path, SMALL)
    batches = dataclasses.replace(batches, fit=[None] * steps)
    recipe = recipe.replace(weights=None)
    return list(training.stages(training.Checkpoint(model, recipe, batches, "x", tmp_path)))


def test_stages_need_something_worth_freezing(tmp_path):
    found = stages_of(PAPER, tmp_path, "imagenet")
    assert [(stage.name, stage.epochs) for stage in found] == [("head", 1), ("all", 30)]
    rates = [float(stage.optimizer.learning_rate) for stage in found]
    np.testing.assert_allclose(rates, [1e-3, 1e-4])
    assert [stage.name for stage in stages_of(PAPER, tmp_path)] == ["all"]
    without = PAPER.replace(head_epochs=0)
    assert [stage.name for stage in stages_of(without, tmp_path, "imagenet")] == ["all"]


def test_the_cosine_schedule_is_the_closed_form(tmp_path):
    epochs, steps, peak = STANDARD.epochs, 50, STANDARD.learning_rate
    total, rise = epochs * steps, round(STANDARD.warmup_fraction * epochs * steps)
    head, whole = stages_of(STANDARD, tmp_path, "imagenet", steps)
    for step in (0, 1, rise // 2, rise, rise + 1, total // 2, total - 1, total, total + 10):
        whole.optimizer.iterations.assign(step)
        if step < rise:
            expected = peak * step / rise
        else:
            share = min(1, (step - rise) / (total - rise))
            expected = peak * (1 + np.cos(np.pi * share)) / 2
        found = float(whole.optimizer.learning_rate)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6 * peak)
    assert float(head.optimizer.learning_rate) == pytest.approx(1e-3)  # constant


def test_the_loss_is_weighted_and_smoothed_cross_entropy(tmp_path):
    answers = np.array([[0.9], [0.2], [0.6]])
    labels, weights = np.array([[1.0], [0.0], [0.0]]), np.array([0.25, 0.75, 0.5])
    smooth = 0.1
    target = labels * (1 - smooth) + smooth / 2
    each = -(target * np.log(answers) + (1 - target) * np.log(1 - answers))[:, 0]
    [stage] = stages_of(Recipe(label_smoothing=smooth), tmp_path)
    found = float(stage.loss(labels, answers, weights))
    assert found == pytest.approx((weights * each).mean(), rel=1e-5)

    answers = np.random.default_rng(0).dirichlet(np.ones(14), 3)
    labels = np.eye(14)[[0, 7, 13]]
    target = labels * (1 - smooth) + smooth / 14
    each = -(target * np.log(answers)).sum(axis=1)
    [stage] = stages_of(Recipe(head="joint", label_smoothing=smooth), tmp_path)
    found = float(stage.loss(labels, answers, weights))
    assert found == pytest.approx((weights * each).mean(), rel=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimizers_are_the_papers_and_the_modern_one(fused, tmp_path):
    adam = stages_of(PAPER.replace(fused=fused), tmp_path)[0].optimizer
    assert isinstance(adam, keras.optimizers.Adam)
    assert type(adam).__name__ == ("FusedAdam" if fused else "Adam")
    assert (adam.weight_decay, adam.use_ema) == (None, False)
    assert (adam.beta_1, adam.beta_2) == (0.9, 0.999)
    modern = STANDARD.replace(fused=fused)
    head, whole = stages_of(modern, tmp_path, "imagenet", steps=2070)  # all of MURA
    assert whole.optimizer.weight_decay == 0.05
    assert (whole.optimizer.use_ema, whole.optimizer.ema_momentum) == (True, 0.999)
    # a new head is not averaged: what the backbone is then trained under is where it arrived
    assert not head.optimizer.use_ema


def test_averages_forget_what_they_began_with(tmp_path):
    """Whatever the number of steps: STANDARD's 0.999 would keep 70 % of it over 360."""
    for steps in (1, 11, 72, 360, 100_000):
        [stage] = stages_of(STANDARD.replace(epochs=1), tmp_path, steps=steps)
        assert stage.optimizer.ema_momentum**steps < 1e-4
    layers = [keras.layers.BatchNormalization() for _ in range(2)]
    nested = keras.Sequential([keras.Input((4,)), layers[1]])
    network = keras.Sequential([keras.Input((4,)), layers[0], nested])
    for steps, momentum in ((100_000, 0.99), (72, 1 - 10 / 72), (5, 0.0)):
        loop.cap_batchnorm_momentum(network, steps)
        assert {layer.momentum for layer in layers} == {momentum}


STILL = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("changes", "dropout", "differs"),
    [({}, 0.0, True), (STILL, 0.5, True), (STILL, 0.0, False)],
    ids=["augmentation", "dropout", "neither"],
)
def test_a_step_sees_images_anew_and_drops_features(fused, changes, dropout, differs):
    recipe = SMALL.replace(dropout=dropout, fused=fused, **changes)
    trainer = training.compose(training.build(recipe), recipe)
    images = noise_images(4, SIZE)
    first, second = (np.asarray(trainer(images, training=True)) for _ in range(2))
    assert (first != second).any() == differs
    # and answers without either
    np.testing.assert_array_equal(np.asarray(trainer(images)), np.asarray(trainer(images)))


@pytest.mark.slow
def test_a_training_that_xla_compiles_takes_its_steps(tmp_path, batches, monkeypatch):
    """As on a GPU, where every operation of the step has to be one that XLA knows."""
    supported = keras.src.trainers.trainer.model_supports_jit  # Keras's answer where a GPU is
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", supported)
    monkeypatch.setattr(device, "device_kind", lambda: "gpu")
    recipe = SMALL.replace(epochs=1, schedule="cosine", average_momentum=0.9)
    trainer, checkpoint = fit(recipe, batches, tmp_path)
    assert trainer.jit_compile is True
    assert np.isfinite(checkpoint.progress.history[0]["loss"])


KILLED = """
import os, signal, sys
from pathlib import Path
import keras
from tiny import tiny_recipe
from mura import training
from mura.models import custom_cnn
custom_cnn.WIDTHS = (4, 8)
root, folder, dies = sys.argv[1:]

class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if dies == "dies" and self.epoch == 1 and batch == 1:
            os.kill(os.getpid(), signal.SIGKILL)

training.train(tiny_recipe(), root, "x", folder, resume=dies == "goes on", callbacks=[Kill()])
"""


def python(backend: str, root: Path, folder: Path, way: str) -> int:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", KILLED, str(root), str(folder), way]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_process_that_is_killed_loses_nothing(backend, phantom_root, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed (`make jax` installs JAX)")
    assert python(backend, phantom_root, tmp_path / "a", "dies") == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".x.training"]
    assert python(backend, phantom_root, tmp_path / "a", "goes on") == 0
    assert python(backend, phantom_root, tmp_path / "b", "at once") == 0
    continued, whole = (pd.read_csv(tmp_path / each / "x" / "history.csv") for each in "ab")
    pd.testing.assert_frame_equal(continued, whole, check_exact=True)
    pair = [models.load(tmp_path / each / "x" / "model.keras").get_weights() for each in "ab"]
    for one, two in zip(*pair, strict=True):
        np.testing.assert_array_equal(one, two)
