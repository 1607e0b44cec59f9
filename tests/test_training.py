"""Training: a run folder that is whole, a seed that decides, three ways to pose the problem."""

import json
import shutil
import zipfile
from dataclasses import asdict

import keras
import numpy as np
import pandas as pd
import pytest
from disks import keep_folders
from mura.data.training_data import TrainingError, load_data, loss_weights, read_parts
from networks import noise_images
from tiny import tiny_recipe, tiny_run

from mura.data import BODY_PARTS
from mura.evaluation.reports import run_metrics
from mura.files import InputError, read_json, write_json
from mura.models import weights
from mura.models.weights import WeightsError
from mura.runs import RUN_FILES
from mura.training import progress as checkpoints
from mura.training import train as training
from mura.training.recipes import recipe
from mura.training.train import train


@pytest.fixture(scope="module", autouse=True)
def small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mura.models.custom_cnn.WIDTHS", (4, 8))
        yield


@pytest.fixture(scope="module")
def run(phantom_root, tmp_path_factory):
    return tiny_run(phantom_root, tmp_path_factory.mktemp("models"))


def test_the_run_folder_is_complete(run, phantom_root):
    assert {path.name for path in run.folder.iterdir()} == set(RUN_FILES)
    assert not list(run.folder.parent.glob(".tiny.training"))
    assert set(run.predictions["split"]) == {"tune", "valid"}
    data = load_data(tiny_recipe(), phantom_root)
    valid = data.manifest[data.manifest["part"] == "valid"]
    saved = run.predictions[run.predictions["split"] == "valid"]
    assert list(saved["path"]) == list(valid["path"])
    model = run.load_model()
    again = model.predict(data.pixels[valid.index][..., None], verbose=0)[:, 0]
    np.testing.assert_allclose(saved["probability"], again, atol=1e-6)
    fit = set(run.split.loc[run.split["part"] == "fit", "patient"])
    assert fit.isdisjoint(run.predictions["patient"])
    # the saved network is that of the best epoch: it has the loss that was seen then
    tune = run.predictions[run.predictions["split"] == "tune"]
    weights = loss_weights(data.manifest)
    weight = [weights.loc[part, label] for part, label in tune[["body_part", "label"]].to_numpy()]
    right = np.where(tune["label"] == 1, tune["probability"], 1 - tune["probability"])
    loss = np.mean(weight * -np.log(right.astype(float)))
    assert run.environment["best_tune_loss"] == pytest.approx(loss, rel=1e-4)
    assert run.history["tune_loss"].min() == pytest.approx(loss, rel=1e-4)
    assert run.environment["weights"] == "random"
    assert run.environment["compute"]["precision"] == "float32"
    assert run.environment["epochs"] == len(run.history) == 2
    card = (run.folder / "README.md").read_text()
    assert card.startswith("# Model card: tiny\n")
    assert "not a medical device" in card


def test_what_is_saved_does_not_augment(run):
    with zipfile.ZipFile(run.folder / "model.keras") as archive:
        assert b"RadiographAugmentation" not in archive.read("config.json")
    model, images = run.load_model(), noise_images(3, 32)
    before = model.get_weights()
    np.testing.assert_array_equal(np.asarray(model(images)), np.asarray(model(images)))
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_one_seed_gives_one_history(run, phantom_root, tmp_path):
    again = tiny_run(phantom_root, tmp_path)
    other = tiny_run(phantom_root, tmp_path, name="other", seed=1)
    pd.testing.assert_frame_equal(run.history, again.history, check_exact=True)
    for one, two in zip(
        run.load_model().get_weights(), again.load_model().get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert not np.allclose(run.history["tune_loss"], other.history["tune_loss"])


def test_the_best_epoch_is_what_is_saved(run):
    best = run.history["tune_loss"].idxmin() + 1
    assert run.environment["best_epoch"] == best


MODERN_SETTINGS = {
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_fraction": 0.2,
    "average_momentum": 0.9,
    "label_smoothing": 0.1,
    "precision": "mixed_bfloat16",
}


@pytest.mark.parametrize(
    "changes",
    [{"head": "joint"}, {"body_parts": ("XR_WRIST",)}, MODERN_SETTINGS],
    ids=["joint", "one body part", "modern"],
)
def test_every_way_of_training_ends_in_the_same_kind_of_run(changes, run, phantom_root, tmp_path):
    other = tiny_run(phantom_root, tmp_path, epochs=1, **changes)
    model = other.load_model()
    assert model.output_shape == (None, 1)
    assert model.get_layer("feature_maps").output.shape[-1] == 8
    assert {layer.compute_dtype for layer in model.layers} <= {"float32", "uint8"}
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
    assert list(tmp_path.glob("tiny")) == []
    assert weights.lineage(None) == weights.lineage(tmp_path / "gone") == []
    assert [each.folder for each in weights.lineage(run.folder / "model.keras")] == [run.folder]


def test_that_holds_where_the_lists_have_changed_since(run, phantom_root):
    recipe = tiny_recipe(weights=str(run.folder), split_seed=1)
    manifest = read_parts(recipe, phantom_root)
    fewer = manifest[manifest["path"] != run.predictions["path"].iloc[0]]
    with pytest.raises(WeightsError, match="was fitted on"):
        weights.refuse_patients_seen_before(recipe.weights, fewer)
    elsewhere = manifest.assign(path="other/" + manifest["path"])
    weights.refuse_patients_seen_before(recipe.weights, elsewhere)


def test_that_holds_for_what_a_run_itself_started_from(run, phantom_root, tmp_path, monkeypatch):
    wrists = tiny_run(
        phantom_root, tmp_path, "wrists", weights=str(run.folder), body_parts=("XR_WRIST",)
    )
    assert [each.name for each in weights.lineage(wrists.folder)] == ["wrists", "tiny"]
    # no patient of the wrists' run is held out, but some that the run before it was fitted on
    hands = {"weights": str(wrists.folder), "body_parts": ("XR_HAND",), "split_seed": 1}
    with pytest.raises(WeightsError, match=r"tiny: was fitted on \d+ of the patients that this"):
        tiny_run(phantom_root, tmp_path, "hands", **hands)
    # found beside it, wherever one stands and whatever the folder of runs is called by now
    (tmp_path / "moved").mkdir()
    for each in (run.folder, wrists.folder):
        shutil.copytree(each, tmp_path / "moved" / each.name)
    moved = tmp_path / "moved" / "wrists"
    write_json(moved / "recipe.json", read_json(moved / "recipe.json") | {"weights": "out/tiny"})
    assert [each.folder for each in weights.lineage(moved)] == [moved, tmp_path / "moved" / "tiny"]
    # nor does another run of that name hide it, where one stands
    (tmp_path / "out").mkdir()
    shutil.copytree(wrists.folder, tmp_path / "out" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "moved" / "tiny") in [each.folder for each in weights.lineage(moved)]
    (tmp_path / "moved" / "tiny" / "recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"tiny.recipe\.json: not a JSON file"):
        weights.lineage(moved)
    # a run that took the place of the one it started from
    recipe = read_json(run.folder / "recipe.json")
    shutil.copytree(run.folder, tmp_path / "itself")
    write_json(tmp_path / "itself" / "recipe.json", recipe | {"weights": str(tmp_path / "itself")})
    assert [each.name for each in weights.lineage(tmp_path / "itself")] == ["itself"]


def test_a_run_in_another_folder_is_a_start_by_its_name(run, phantom_root, tmp_path):
    shutil.copytree(run.folder, tmp_path / "first")
    tuned = tiny_run(phantom_root, tmp_path, weights="first", epochs=1)
    assert tuned.environment["weights"] == "run:first"
    assert weights.among("first", None) == weights.among("first", run.folder) == "first"
    assert weights.among("imagenet", tmp_path) == "imagenet"


@pytest.mark.parametrize(
    ("missing", "told"), [("", "differs in epochs"), ("predictions.csv", "missing files")]
)
def test_a_run_on_radiographs_does_not_give_way(run, phantom_root, tmp_path, missing, told):
    shutil.copytree(run.folder, tmp_path / "tiny")
    facts = run.environment | {"data": run.environment["data"] | {"name": "MURA-v1.1"}}
    (tmp_path / "tiny" / "environment.json").write_text(json.dumps(facts))
    if missing:  # not copied from the cluster yet
        (tmp_path / "tiny" / missing).unlink()
    with pytest.raises(TrainingError, match=rf"trained on MURA-v1\.1 and does not .*{told}"):
        train(tiny_recipe(epochs=1), phantom_root, "tiny", tmp_path, resume=True, replace=True)
    assert (tmp_path / "tiny" / "model.keras").is_file()


def test_a_run_on_who_knows_what_does_not_give_way(run, phantom_root, tmp_path):
    shutil.copytree(run.folder, tmp_path / "tiny")
    facts = run.environment | {"data": {"name": ["x"]}}
    write_json(tmp_path / "tiny" / "environment.json", facts)
    with pytest.raises(TrainingError, match=r"trained on \['x'\] and does not give way"):
        train(tiny_recipe(epochs=1), phantom_root, "tiny", tmp_path, replace=True)


@pytest.mark.parametrize(("data", "kept"), [("MURA-v1.1", True), ("phantom", False)])
@pytest.mark.parametrize("resume", [True, False])
def test_an_unfinished_training_on_radiographs_does_not_give_way(
    run, phantom_root, tmp_path, data, kept, resume
):
    path = tmp_path / ".tiny.training" / "checkpoint.npz"
    path.parent.mkdir()
    progress = checkpoints.Progress("another's", data, history=[{"loss": 0.5}])
    with path.open("wb") as file:
        np.savez(file, progress=np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8))
    settings = {"name": "tiny", "models": tmp_path, "resume": resume, "replace": True}
    if kept:
        with pytest.raises(InputError, match="delete"):
            train(tiny_recipe(epochs=1), phantom_root, **settings)
        assert checkpoints.made_on(path) == data
    else:
        assert train(tiny_recipe(epochs=1), phantom_root, **settings).environment["epochs"] == 1
        assert not path.exists()


@pytest.mark.parametrize("damaged", ["model.keras", "environment.json"])
def test_a_damaged_run_gives_way_where_a_whole_one_would(run, phantom_root, tmp_path, damaged):
    shutil.copytree(run.folder, tmp_path / "tiny")
    (tmp_path / "tiny" / damaged).unlink()
    if damaged == "environment.json":
        (tmp_path / "tiny" / damaged).write_text('{"data": ')
    one = tiny_recipe(epochs=1)
    with pytest.raises(TrainingError, match="exists already"):
        train(one, phantom_root, "tiny", tmp_path, resume=True)
    again = train(one, phantom_root, "tiny", tmp_path, resume=True, replace=True)
    assert again.environment["epochs"] == 1 and (again.folder / "model.keras").is_file()


def test_an_unfinished_training_that_gives_way_is_named(tmp_path, capsys):
    path = tmp_path / "checkpoint.npz"
    path.write_text("another's")
    start = checkpoints.Progress("identity")
    assert training._where_it_stands(path, start, resume=True, replace=True) == (start, {})
    assert f"an unfinished training gives way: {path}: damaged" in capsys.readouterr().out


def test_a_continued_training_needs_its_weights_no_more(run, phantom_root, tmp_path, monkeypatch):
    """The checkpoint holds them, and remembers where they came from."""
    donor = tmp_path / "donor.keras"
    run.load_model().save(donor)
    save = checkpoints.save

    def save_and_stop(*state):
        save(*state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_stop)
    chosen = tiny_recipe(weights=str(donor))
    with pytest.raises(KeyboardInterrupt):
        train(chosen, phantom_root, name="continued", models=tmp_path)
    monkeypatch.setattr(checkpoints, "save", save)
    donor.unlink()
    continued = train(chosen, phantom_root, name="continued", models=tmp_path, resume=True)
    assert continued.environment["weights"] == "run:donor"
    assert continued.environment["epochs"] == 2


def test_a_finished_run_is_opened_and_anothers_unfinished_training_stays(
    run, phantom_root, tmp_path, monkeypatch
):
    tiny_run(phantom_root, tmp_path, epochs=1)
    save = checkpoints.save

    def save_and_stop(*state):
        save(*state)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", save_and_stop)
    settings = {"name": "tiny", "models": tmp_path, "resume": True, "replace": True}
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), phantom_root, **settings)
    monkeypatch.setattr(checkpoints, "save", save)
    finished = train(tiny_recipe(epochs=1), phantom_root, **settings)
    assert finished.environment["epochs"] == 1
    monkeypatch.setattr(keras.Model, "fit", None)  # nothing is trained until here
    path = tmp_path / ".tiny.training" / "checkpoint.npz"
    assert path.is_file()
    # one of its own is left when a process is killed just after the run was written
    progress = checkpoints.Progress(finished.environment["data"]["identity"])
    with path.open("wb") as file:
        np.savez(file, progress=np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8))
    train(tiny_recipe(epochs=1), phantom_root, **settings)
    assert not path.parent.exists()


def test_a_finished_training_ends_well_where_its_checkpoint_cannot_be_deleted(
    phantom_root, tmp_path, monkeypatch
):
    keep_folders(monkeypatch, lambda name: name == ".tiny.training")
    assert tiny_run(phantom_root, tmp_path, epochs=1).name == "tiny"
    assert list((tmp_path / ".tiny.training").iterdir()) == []


def test_a_finished_run_says_when_it_lacked_the_weights_that_were_asked_for(
    phantom_root, tmp_path, monkeypatch, capsys
):
    def unreachable(file_name):
        raise weights.DownloadError("no network.")

    monkeypatch.setattr(weights, "_refuse_unreachable", unreachable)
    with pytest.warns(UserWarning, match="starts from random weights"):
        tiny_run(phantom_root, tmp_path, weights="imagenet", epochs=1)
    assert "started from random weights" not in capsys.readouterr().out
    train(tiny_recipe(weights="imagenet", epochs=1), phantom_root, "tiny", tmp_path, resume=True)
    printed = capsys.readouterr().out
    assert "this finished run started from random weights, since imagenet weights" in printed


def test_profiles_name_their_runs_apart():
    names = [recipe("resnet50", profile).run_name for profile in ("quick", "full", "modern")]
    assert names == ["resnet50", "resnet50-full", "resnet50-modern"]


def test_names_are_not_taken_twice_and_not_escaped(run, phantom_root):
    models = run.folder.parent
    with pytest.raises(TrainingError, match="exists already"):
        train(tiny_recipe(), phantom_root, name="tiny", models=models)
    finished = train(tiny_recipe(), phantom_root, name="tiny", models=models, resume=True)
    assert finished.folder == run.folder
    for name in ("../elsewhere", ".hidden", "a/b"):
        with pytest.raises(TrainingError, match="run name"):
            train(tiny_recipe(), phantom_root, name=name, models=models)


@pytest.mark.parametrize(
    ("name", "start", "told"),
    [
        ("r\udcf6ntgen", None, r"run name r\\xf6ntgen: its bytes are no UTF-8 text"),
        ("x" * 238, None, "run name x+: 1 bytes too long; choose a shorter --name"),
        (
            "tiny",
            "r\udcf6ntgen.keras",
            r"weights r\\xf6ntgen\.keras: the bytes of this path are no",
        ),
    ],
)
def test_what_could_not_be_written_at_the_end_is_refused_at_the_start(tmp_path, name, start, told):
    """Before data are read, of which there are none here."""
    with pytest.raises(TrainingError, match=told):
        train(tiny_recipe(weights=start), tmp_path / "no data", name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_start_that_is_named_by_a_path_can_be_written(run, phantom_root, tmp_path):
    tuned = tiny_run(phantom_root, tmp_path, weights=run.folder / "model.keras", epochs=1)
    assert tuned.recipe["weights"] == str(run.folder / "model.keras")


def test_training_leaves_the_users_own_precision_as_it_was(phantom_root, tmp_path):
    keras.config.set_dtype_policy("float64")
    try:
        tiny_run(phantom_root, tmp_path, epochs=1)
        assert keras.config.dtype_policy().name == "float64"
    finally:
        keras.config.set_dtype_policy("float32")


def _of_tensorflow():
    import tensorflow as tf

    return tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\na tensor")


def _of_jax(name, text="RESOURCE_EXHAUSTED: Out of memory\nallocating 9 GB"):
    return type(name, (RuntimeError,), {})(text)


def _after(error, first):
    error.__context__ = first
    return error


def _failing(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("mura.training.train.checkpoint.fit", fail)


@pytest.mark.parametrize(
    "error",
    [
        _of_tensorflow,
        lambda: _of_jax("XlaRuntimeError"),
        lambda: _of_jax("JaxRuntimeError"),
        lambda: _after(AttributeError("no value"), _of_jax("JaxRuntimeError")),
    ],
    ids=["TensorFlow", "JAX", "newer JAX", "a failed clean-up"],
)
def test_memory_that_runs_out_is_named_with_the_remedy(phantom_root, tmp_path, monkeypatch, error):
    _failing(monkeypatch, error())
    with pytest.raises(TrainingError, match=r"ran out with batches of 7 .*--batch-size \(batch_s"):
        tiny_run(phantom_root, tmp_path, batch_size=7)


def test_an_error_of_another_kind_keeps_its_traceback(phantom_root, tmp_path, monkeypatch):
    _failing(monkeypatch, _of_jax("XlaRuntimeError", "INTERNAL: no memory"))
    with pytest.raises(RuntimeError, match="INTERNAL"):
        tiny_run(phantom_root, tmp_path)


def test_the_quick_profile_is_not_for_radiographs(run, phantom_root, tmp_path, capsys):
    root = shutil.copytree(phantom_root, tmp_path / "MURA-v1.1")
    workshop = tmp_path / "models" / ".tiny.training"
    workshop.mkdir(parents=True)
    (workshop / ".checkpoint.npz.abc.partial").touch()  # of a killed process
    tiny_run(root, tmp_path / "models", epochs=1, train_fraction=0.5)
    printed = capsys.readouterr().out
    assert "of 32 px (50% of the patients), cpu" in printed
    assert "for radiographs take full or modern" in printed
    assert not workshop.exists()
