"""Recipes: the paper's, the modern one, what a person may change, what is refused."""

import dataclasses
import json

import pytest

from mura.models import ARCHITECTURES
from mura.training.recipes import Recipe, RecipeError, recipe


def test_the_paper_profile_of_densenet169_is_the_papers_recipe():
    """Rajpurkar et al. 2017, section 3: every figure that the paper gives."""
    full = recipe("densenet169", "paper")
    assert (full.image_size, full.batch_size, full.learning_rate) == (320, 8, 1e-4)
    assert (full.optimizer, full.schedule, full.plateau_factor) == ("adam", "plateau", 0.1)
    assert full.plateau_patience == 3
    assert (full.flip, full.rotation) == (True, 30.0)
    assert (full.shift, full.zoom, full.contrast, full.dropout) == (0, 0, 0, 0)
    assert full.weighted_loss
    assert (full.weights, full.strict_weights) == ("imagenet", True)
    assert full.body_parts == ()
    assert full.head == "binary"


@pytest.mark.parametrize("profile", ["quick", "paper", "standard"])
def test_every_architecture_has_every_profile(profile):
    for name in ARCHITECTURES:
        chosen = recipe(name, profile)
        assert (chosen.architecture, chosen.profile) == (name, profile)
        assert chosen.run_name == (name if profile == "quick" else f"{name}-{profile}")
        assert chosen.strict_weights == (profile != "quick" and name != "cnn")
        assert chosen.image_size >= ARCHITECTURES[name].minimum_size
        assert (chosen.weights is None) == (name == "cnn")
        assert chosen.head_epochs == 0 or chosen.weights is not None


def test_settings_can_be_changed_and_none_leaves_the_profiles_own():
    changed = recipe("vgg16", "paper", epochs=3, weights="none", image_size=None)
    assert (changed.epochs, changed.weights, changed.image_size) == (3, None, 320)
    assert recipe("vgg16", "paper", body_parts=["XR_WRIST"]).body_parts == ("XR_WRIST",)


def test_a_random_start_has_its_own_rate_unless_one_is_named():
    chosen = recipe("vgg16", "standard")
    assert [chosen.rate_from(origin) for origin in ("random", "imagenet")] == [1e-4, 1e-5]
    assert recipe("cnn", "standard").rate_from("random") == 1e-3
    assert recipe("vgg16", learning_rate=1e-5).rate_from("random") == 1e-5


def test_former_names_of_profiles_say_the_new_ones():
    for former, name in (("full", "paper"), ("modern", "standard")):
        with pytest.warns(UserWarning, match=f"{former} is now called {name}"):
            assert recipe("cnn", former) == recipe("cnn", name)


def test_a_recipe_survives_json_and_cannot_be_written_to():
    chosen = recipe("vgg16", "standard", body_parts=("XR_HAND", "XR_WRIST"), head="joint")
    assert Recipe(**json.loads(json.dumps(chosen.to_dict()))) == chosen
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.epochs = 3


IMPOSSIBLE = {
    "head": "three", "epochs": 0, "image_size": 8, "dropout": 1.0,
    "schedule": "never", "optimizer": "sgd", "learning_rate": -1.0, "head_learning_rate": 0.0,
    "precision": "mixed_float16",  # its gradients would need loss scaling
    "warmup_fraction": 1.5, "average_momentum": 1.0, "plateau_factor": 2.0, "plateau_patience": 0,
    "early_stopping": -1, "zoom": 1.0, "rotation": -3.0, "colour": "blue",
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_recipes_are_refused_by_name(name):
    with pytest.raises(RecipeError, match=name):
        recipe("cnn", **{name: IMPOSSIBLE[name]})


MISTYPED = {"epochs": 2.0, "seed": True, "dropout": "0.1", "flip": 1, "weights": 3, "fused": "x"}
MISTYPED |= {"body_parts": ["XR_HAND", 1], "average_momentum": [0.9], "precision": 32}


@pytest.mark.parametrize("name", MISTYPED)
def test_values_of_another_type_are_refused_by_name(name):
    with pytest.raises(RecipeError, match=f"{name} .*: expected "):
        recipe("cnn", **{name: MISTYPED[name]})
    assert recipe("cnn", rotation=10).rotation == 10  # a whole number is a number


def test_other_names_are_refused_and_one_body_part_is_named_alone():
    with pytest.raises(RecipeError, match=r"fast.*quick, standard, paper"):
        recipe("cnn", "fast")
    assert recipe("cnn", body_parts="XR_WRIST").body_parts == ("XR_WRIST",)


def test_the_custom_network_is_fine_tuned_like_any_other():
    scratch, tuned = recipe("cnn", "paper"), recipe("cnn", "paper", weights="cnn-paper")
    assert (scratch.learning_rate, scratch.head_epochs, scratch.strict_weights) == (1e-4, 0, False)
    assert (tuned.learning_rate, tuned.head_epochs, tuned.strict_weights) == (1e-4, 1, True)
    assert scratch == recipe("cnn", "paper", weights="none")
    assert tuned.optimizer == scratch.optimizer == "adamw"
