"""Trainers: what is trained in which stage, with losses, schedules and averages in closed form."""

import dataclasses

import keras
import numpy as np
import pytest
from networks import noise_images, tiny_classifier

from mura.models import architectures
from mura.training import device as compute
from mura.training import loop as trainers
from mura.training.loop import Stage, compile_trainer, stages
from mura.training.recipes import MODERN, PAPER, Recipe

SIZE = 32
PLAN = compute.policy(precision="float32")


def test_stages_need_something_worth_freezing():
    assert stages(PAPER, pretrained=True) == [
        Stage("head", 1, 1e-3, frozen_backbone=True),
        Stage("all", 30, 1e-4, frozen_backbone=False),
    ]
    assert [stage.name for stage in stages(PAPER, pretrained=False)] == ["all"]
    without = PAPER.replace(head_epochs=0)
    assert [stage.name for stage in stages(without, pretrained=True)] == ["all"]


def test_the_cosine_schedule_is_the_closed_form():
    epochs, steps, peak = 20, 50, MODERN.learning_rate
    total, rise = epochs * steps, round(MODERN.warmup_fraction * epochs * steps)
    model = tiny_classifier()
    stage = Stage("all", epochs, peak, frozen_backbone=False)
    compile_trainer(model, MODERN, stage, steps, PLAN)
    for step in (0, 1, rise // 2, rise, rise + 1, total // 2, total - 1, total, total + 10):
        model.optimizer.iterations.assign(step)
        if step < rise:
            expected = peak * step / rise
        else:
            share = min(1, (step - rise) / (total - rise))
            expected = peak * (1 + np.cos(np.pi * share)) / 2
        found = float(model.optimizer.learning_rate)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6 * peak)

    stage = Stage("head", 1, 1e-3, frozen_backbone=True)
    compile_trainer(model, MODERN, stage, steps, PLAN)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)  # constant in the warm-up


def test_the_loss_is_weighted_and_smoothed_cross_entropy():
    answers = np.array([[0.9], [0.2], [0.6]])
    labels, weights = np.array([[1.0], [0.0], [0.0]]), np.array([0.25, 0.75, 0.5])
    smooth = 0.1
    target = labels * (1 - smooth) + smooth / 2
    each = -(target * np.log(answers) + (1 - target) * np.log(1 - answers))[:, 0]
    found = _loss(Recipe(label_smoothing=smooth), 1, labels, answers, weights)
    assert found == pytest.approx((weights * each).mean(), rel=1e-5)

    answers = np.random.default_rng(0).dirichlet(np.ones(14), 3)
    labels = np.eye(14)[[0, 7, 13]]
    target = labels * (1 - smooth) + smooth / 14
    each = -(target * np.log(answers)).sum(axis=1)
    joint = Recipe(head="joint", label_smoothing=smooth)
    assert _loss(joint, 14, labels, answers, weights) == pytest.approx(
        (weights * each).mean(), rel=1e-4
    )


def _loss(recipe, outputs, labels, answers, weights):
    model = tiny_classifier(outputs)
    compile_trainer(model, recipe, stages(recipe, False)[0], 1, PLAN)
    return float(
        model.compute_loss(
            y=labels.astype(np.float32),
            y_pred=keras.ops.convert_to_tensor(answers.astype(np.float32)),
            sample_weight=weights.astype(np.float32),
        )
    )


@pytest.mark.parametrize("fused", [False, True])
def test_the_optimizers_are_the_papers_and_the_modern_one(fused):
    plan = dataclasses.replace(PLAN, fused=fused)
    model = tiny_classifier()
    compile_trainer(model, PAPER, stages(PAPER, True)[1], 10, plan)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert type(model.optimizer).__name__ == ("FusedAdam" if fused else "Adam")
    assert model.optimizer.weight_decay is None
    assert (model.optimizer.beta_1, model.optimizer.beta_2) == (0.9, 0.999)
    assert not model.optimizer.use_ema
    head, whole = stages(MODERN, True)
    compile_trainer(model, MODERN, whole, 518, plan)  # all of MURA
    assert model.optimizer.weight_decay == 0.05
    assert (model.optimizer.use_ema, model.optimizer.ema_momentum) == (True, 0.999)
    # a new head is not averaged: what the backbone is then trained under is where it arrived
    compile_trainer(model, MODERN, head, 518, plan)
    assert not model.optimizer.use_ema


def test_averages_forget_what_they_began_with():
    """Whatever the number of steps: MODERN's 0.999 would keep 70 % of it over 360."""
    model = tiny_classifier()
    for steps in (1, 11, 72, 360, 100_000):
        stage = Stage("all", 1, 1e-3, frozen_backbone=False)
        compile_trainer(model, MODERN, stage, steps, PLAN)
        assert model.optimizer.ema_momentum**steps < 1e-4
    network = architectures.build("densenet121", SIZE)
    network = keras.Sequential([keras.Input((SIZE, SIZE, 1), dtype="uint8"), network])
    normalisations = [
        layer
        for layer in architectures.every_layer(network)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(normalisations) == 121
    for steps, momentum in ((100_000, 0.99), (72, 1 - 10 / 72), (5, 0.0)):
        trainers.forget_in_time(network, steps)
        assert {layer.momentum for layer in normalisations} == {momentum}


def test_the_trainer_augments_by_the_recipe():
    settings = {"rotation": 12.0, "flip": False, "shift": 0.01, "zoom": 0.02, "contrast": 0.03}
    recipe = Recipe(image_size=SIZE, seed=4, **settings)
    network = architectures.build("cnn", SIZE)
    trainer = trainers.compose_trainer(recipe, network, PLAN)
    augmentation = next(layer for layer in trainer.layers if hasattr(layer, "rotation"))
    assert {name: getattr(augmentation, name) for name in settings} == settings
    assert {id(v) for v in network.variables} <= {id(v) for v in trainer.variables}
    assert not [layer for layer in network.layers if hasattr(layer, "rotation")]


STILL = {"flip": False, "rotation": 0.0, "shift": 0.0, "zoom": 0.0, "contrast": 0.0}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("changes", "dropout", "differs"),
    [({}, 0.0, True), (STILL, 0.5, True), (STILL, 0.0, False)],
    ids=["augmentation", "dropout", "neither"],
)
def test_a_step_sees_images_anew_and_drops_features(fused, changes, dropout, differs):
    network = architectures.build("cnn", SIZE, dropout=dropout)
    plan = dataclasses.replace(PLAN, fused=fused)
    trainer = trainers.compose_trainer(Recipe(image_size=SIZE, **changes), network, plan)
    images = noise_images(4, SIZE)
    first, second = (np.asarray(trainer(images, training=True)) for _ in range(2))
    assert (first != second).any() == differs
    # and answers without either
    np.testing.assert_array_equal(np.asarray(trainer(images)), np.asarray(trainer(images)))
