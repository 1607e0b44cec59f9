"""Recipes: the paper's, the modern one, what a person may change, what is refused."""

import dataclasses
import json

import pytest

from mura.data import BODY_PARTS
from mura.models import ARCHITECTURES
from mura.training.recipes import MODERN, PAPER, Recipe, RecipeError, recipe


def test_the_full_profile_of_densenet169_is_the_papers_recipe():
    """Rajpurkar et al. 2017, section 3: every figure that the paper gives."""
    full = recipe("densenet169", "full")
    assert full == PAPER
    assert (full.image_size, full.batch_size, full.learning_rate) == (320, 8, 1e-4)
    assert (full.optimizer, full.schedule, full.plateau_factor) == ("adam", "plateau", 0.1)
    assert full.plateau_patience == 1
    assert (full.flip, full.rotation) == (True, 30.0)
    assert (full.shift, full.zoom, full.contrast, full.dropout) == (0, 0, 0, 0)
    assert full.weighted_loss
    assert (full.weights, full.strict_weights) == ("imagenet", True)
    assert full.body_parts == BODY_PARTS
    assert full.head == "binary"


def test_the_modern_profile():
    modern = recipe("convnext_tiny", "modern")
    assert modern == MODERN.replace(architecture="convnext_tiny")
    assert (modern.optimizer, modern.schedule) == ("adamw", "cosine")
    assert modern.weight_decay > 0
    assert 0 < modern.warmup_fraction < 0.5
    assert modern.label_smoothing > 0
    assert 0.9 < modern.average_momentum < 1
    assert modern.batch_size > PAPER.batch_size
    assert modern.precision is None  # what suits the device: bfloat16 on a GPU
    assert modern.strict_weights


def test_the_quick_profile_warns_where_weights_cannot_be_had():
    for name in ARCHITECTURES:
        quick = recipe(name)
        assert quick.profile == "quick"
        assert not quick.strict_weights
        assert quick.image_size >= ARCHITECTURES[name].minimum_size


@pytest.mark.parametrize("profile", ["quick", "full", "modern"])
def test_every_architecture_has_every_profile(profile):
    for name in ARCHITECTURES:
        chosen = recipe(name, profile)
        assert (chosen.architecture, chosen.profile) == (name, profile)
        assert chosen.image_size >= ARCHITECTURES[name].minimum_size
        assert (chosen.weights is None) == (name == "cnn")
        assert chosen.head_epochs == 0 or chosen.weights is not None


def test_settings_can_be_changed_and_none_leaves_the_profiles_own():
    changed = recipe("vgg16", "full", epochs=3, weights="none", image_size=None)
    assert (changed.epochs, changed.weights, changed.image_size) == (3, None, 320)
    assert recipe("vgg16", "full", body_parts=["XR_WRIST"]).body_parts == ("XR_WRIST",)


def test_a_recipe_survives_json_and_cannot_be_written_to():
    chosen = recipe("vgg16", "modern", body_parts=("XR_HAND", "XR_WRIST"), head="joint")
    assert Recipe(**json.loads(json.dumps(chosen.to_dict()))) == chosen
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.epochs = 3


@pytest.mark.parametrize(
    "changes",
    [
        {"body_parts": ("XR_KNEE",)},
        {"body_parts": ()},
        {"head": "three"},
        {"epochs": 0},
        {"image_size": 8},
        {"schedule": "never"},
        {"optimizer": "sgd"},
        {"precision": "mixed_float16"},  # its gradients would need loss scaling
        {"dropout": 1.0},
        {"learning_rate": -1.0},
        {"head_learning_rate": 0.0},
        {"warmup_fraction": 1.5},
        {"average_momentum": 1.0},
        {"plateau_factor": 2.0},
        {"plateau_patience": 0},
        {"early_stopping": -1},
        {"zoom": 1.0},
        {"rotation": -3.0},
        {"colour": "blue"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_impossible_recipes_are_refused_by_name(changes):
    name = next(iter(changes))
    with pytest.raises(RecipeError, match=name):
        recipe("cnn", **changes)


def test_an_unknown_profile_is_refused():
    with pytest.raises(RecipeError, match=r"fast.*quick, full or modern"):
        recipe("cnn", "fast")


def test_one_body_part_is_named_alone():
    assert recipe("cnn", body_parts="XR_WRIST").body_parts == ("XR_WRIST",)
    with pytest.raises(RecipeError, match="'WRIST'"):
        recipe("cnn", body_parts="WRIST")


def test_no_weights_have_one_name_wherever_they_are_named():
    assert Recipe(weights="none").weights is PAPER.replace(weights="none").weights is None
    assert recipe("vgg16", weights="none").weights is None


def test_profiles_name_their_runs_apart():
    names = [recipe("resnet50", profile).run_name for profile in ("quick", "full", "modern")]
    assert names == ["resnet50", "resnet50-full", "resnet50-modern"]


def test_the_custom_network_is_fine_tuned_like_any_other():
    scratch, tuned = recipe("cnn", "full"), recipe("cnn", "full", weights="cnn-full")
    assert (scratch.learning_rate, scratch.head_epochs, scratch.strict_weights) == (1e-3, 0, False)
    assert (tuned.learning_rate, tuned.head_epochs, tuned.strict_weights) == (1e-4, 1, True)
    assert scratch == recipe("cnn", "full", weights="none")
    assert tuned.optimizer == scratch.optimizer == "adamw"
