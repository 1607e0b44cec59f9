"""The state of an unfinished training: everything comes back, and damage is refused."""

import json
import pickle
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest

from mura.training import progress as checkpoints
from mura.training.progress import CheckpointError, Progress
from mura.training.recipes import Recipe


def trainer(units=3, seed=0):
    """A compiled model with dropout, moving statistics, moments and averaged weights."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=seed),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.1, use_ema=True), "mse", jit_compile=False)
    return model


def fitted(model, epochs=1):
    data = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
    model.fit(data[:, :4], data[:, 4:], 8, epochs=epochs, shuffle=False, verbose=0)
    return model


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoint.npz"
    model = fitted(trainer())
    progress = Progress("recipe", epoch=1, best_loss=0.5, history=[{"epoch": 1, "loss": 0.25}])
    checkpoints.save(path, progress, model, model.get_weights())
    return path, model, progress


def variables(model):
    return [
        keras.ops.convert_to_numpy(value)
        for value in (*model.variables, *model.optimizer.variables)
    ]


def test_everything_that_the_next_epoch_depends_on_comes_back(saved):
    path, model, progress = saved
    found, arrays = checkpoints.load(path, "recipe")
    assert found == progress
    other = trainer(seed=1)
    checkpoints.restore(path, other, arrays)
    for one, two in zip(variables(model), variables(other), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(model.get_weights(), checkpoints.best_weights(arrays), strict=True):
        np.testing.assert_array_equal(one, two)
    # dropout's seed and the moments too: the next epoch is the same
    for one, two in zip(variables(fitted(model)), variables(fitted(other)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_state_before_the_first_epoch_has_no_best_weights(tmp_path):
    model = trainer()
    model.optimizer.build(model.trainable_variables)
    checkpoints.save(tmp_path / "c.npz", Progress("recipe"), model, None)
    progress, arrays = checkpoints.load(tmp_path / "c.npz", "recipe")
    assert progress.best_loss == float("inf")
    assert checkpoints.best_weights(arrays) is None


def test_another_recipe_and_another_network_are_refused(saved):
    path, _, _ = saved
    with pytest.raises(CheckpointError, match="another recipe or other data"):
        checkpoints.load(path, "other")
    _, arrays = checkpoints.load(path, "recipe")
    with pytest.raises(CheckpointError, match=f"{path}: its model variables do not fit this model"):
        checkpoints.restore(path, trainer(units=4), arrays)


def test_what_differs_in_another_recipe_is_named(tmp_path):
    model = trainer()
    model.optimizer.build(model.trainable_variables)
    path, one = tmp_path / "c.npz", Recipe(weights=str(tmp_path / "job1" / "w.keras"))
    settings = checkpoints.settings_of(one)
    checkpoints.save(path, Progress("one", settings=settings), model, None)
    assert checkpoints.load(path, "one")[0].settings == settings
    other = checkpoints.settings_of(one.replace(weights=str(tmp_path / "job2"), epochs=14))
    with pytest.raises(CheckpointError) as error:
        checkpoints.load(path, "other", other)
    said = f"weights {settings['weights']!r} instead of {other['weights']!r}, epochs 12 instead of"
    assert f"another recipe: {said} 14; repeat its settings" in str(error.value)
    with pytest.raises(CheckpointError, match="has other data or another Keras backend; repeat"):
        checkpoints.load(path, "other", settings)


def test_any_damage_is_a_documented_error(saved):
    path, _, progress = saved
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(whole), 300):
        content = bytearray(whole)
        content[position] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            found, _ = checkpoints.load(path, "recipe")
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
            assert "delete its folder" in str(error)
        else:
            assert found == progress  # a bit that says nothing, such as a time
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.load(path, "recipe")


class Planted:
    def __reduce__(self):
        return (pytest.fail, ("was unpickled",))


def test_nothing_is_unpickled(saved):
    path, _, _ = saved
    path.write_bytes(pickle.dumps(Planted()))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(path, "recipe")
    objects = np.empty(1, dtype=object)
    objects[0] = Planted()
    with path.open("wb") as file:
        np.savez(file, progress=objects)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(path, "recipe")


def test_an_archive_of_something_else_is_no_checkpoint(tmp_path):
    path = tmp_path / "c.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("progress.npy", b"not an array")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(path, "recipe")


def test_what_data_it_was_made_on_is_text_whatever_stands_there(tmp_path):
    progress = json.dumps({"identity": "recipe", "data": ["x"]}).encode()
    np.savez(tmp_path / "checkpoint.npz", progress=np.frombuffer(progress, np.uint8))
    assert checkpoints.made_on(tmp_path / "checkpoint.npz") == "['x']"


def test_the_way_to_the_weights_does_not_make_another_training(tmp_path, monkeypatch):
    manifest = pd.DataFrame({"path": ["a"], "label": [0], "part": ["fit"]})
    for place in ("out/first", "out/second", "other/first"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "model.keras").touch()
    monkeypatch.chdir(tmp_path)

    def identity(weights, **changes):
        return checkpoints.identify(Recipe(weights=weights, **changes), manifest)

    names = ["out/first", "../" + tmp_path.name + "/out/first", str(tmp_path / "out" / "first")]
    found = {identity(name) for name in [*names, "out/first/model.keras"]}
    assert len(found) == 1
    others = {identity("out/second"), identity("other/first"), identity(None)}
    assert len(found | others | {identity("out/first", seed=1)}) == 5
    relabelled = manifest.assign(label=1)
    assert checkpoints.identify(Recipe(weights="out/first"), relabelled) not in found
