"""The run folder: written whole or not at all, opened by name, refused when damaged."""

import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from disks import keep_folders, refuse_permissions
from layout import PREFIX

from mura.runs import RUN_FILES, Run, RunError, clear_leftovers, list_runs, load_model, write_run

CONTENT = {
    "recipe.json": json.dumps(
        {"architecture": "cnn", "head": "binary", "body_parts": ["XR_HAND"], "image_size": 32}
    ),
    "history.csv": "stage,epoch,tune_loss\nall,1,0.5\n",
    "predictions.csv": "path,study,view,body_part,patient,split,label,probability\n"
    f"{PREFIX}/valid/XR_HAND/patient1/study1/image1.png,{PREFIX}/valid/XR_HAND/patient1/study1,"
    "1,XR_HAND,patient1,valid,1,0.25\n",
    "split.csv": "patient,part\npatient1,valid\n",
    "environment.json": json.dumps(
        {
            **dict.fromkeys(("parameters", "epochs", "best_epoch"), 1),
            **dict.fromkeys(("training_seconds", "images_per_second"), 1),
            **{"weights": "random", "compute": {"device": "cpu"}},
            "data": {"name": "phantom", "images": {"fit": 1}},
        }
    ),
    "metrics.json": json.dumps({"split": "valid", "table": []}),
}

DATA = {"name": "phantom", "images": {"fit": 1}}


def changed(name, **values):
    return json.dumps(json.loads(CONTENT[name]) | values)


def write_files(folder, mark="", leave_out=()):
    for name in RUN_FILES:
        if name not in leave_out:
            (folder / name).write_text(CONTENT.get(name, mark))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "models" / "one", write_files)


def test_a_run_is_opened_by_folder_and_by_name(run, tmp_path, monkeypatch):
    models = tmp_path / "models"
    assert Run.load(run.folder).name == Run.load("one", models).name == "one"
    assert [found.name for found in list_runs(models)] == ["one"]
    assert list_runs(tmp_path / "none") == []
    # a folder of that name in the current one is no run
    (tmp_path / "here" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert Run.load("one", models).folder == run.folder
    assert Run(tmp_path / "models" / "x" / ".." / "one").name == "one"


def test_a_tilde_in_a_folder_of_runs_is_ones_home(home):
    write_run(home / "runs" / "mine", write_files)
    assert [run.name for run in list_runs("~/runs")] == ["mine"]
    assert Run.load("mine", "~/runs").folder == home / "runs" / "mine"
    assert Run.load("~/runs/mine").folder == home / "runs" / "mine"


def test_unfinished_and_hidden_folders_are_no_runs(run):
    models = run.folder.parent
    for name, left_out in (("half", ("metrics.json",)), (".one.writing-x", ())):
        (models / name).mkdir()
        write_files(models / name, leave_out=left_out)
    (models / "README.md").write_text("")
    assert [found.name for found in list_runs(models)] == ["one"]
    with pytest.raises(RunError, match=r"half: not a complete run, metrics\.json missing"):
        Run.load("half", models)
    with pytest.raises(RunError, match=r"no such run; complete runs under .*: one"):
        Run.load("two", models)


def test_tables_are_read_with_their_types(run):
    assert run.predictions["label"].dtype == "Int64"
    assert run.predictions["body_part"].cat.ordered
    assert run.predictions["probability"].tolist() == [0.25]
    assert run.history["tune_loss"].tolist() == [0.5]
    assert run.split.to_dict("list") == {"patient": ["patient1"], "part": ["valid"]}
    assert run.recipe["image_size"] == 32
    assert run.metrics["split"] == "valid"
    assert run.environment["data"]["name"] == "phantom"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("recipe.json", "{", "not a JSON file"),
        ("recipe.json", "[]", "architecture"),
        ("recipe.json", '{"architecture": "cnn"}', "head"),
        ("metrics.json", "\0", "not a JSON file"),
        ("metrics.json", "{}", "table"),
        ("environment.json", "3", "weights"),
        ("environment.json", CONTENT["environment.json"].replace("name", "n"), "no name"),
        (
            "environment.json",
            changed("environment.json", parameters="many"),
            "parameters is 'many'",
        ),
        ("environment.json", changed("environment.json", epochs=True), "epochs is True"),
        ("environment.json", changed("environment.json", weights=None), "weights is None"),
        ("environment.json", changed("environment.json", finished=5), "finished is 5"),
        ("environment.json", changed("environment.json", data=[]), "data is []"),
        ("environment.json", changed("environment.json", data=DATA | {"name": ["x"]}), "['x']"),
        ("environment.json", changed("environment.json", data=DATA | {"images": {}}), "one of fit"),
        ("environment.json", changed("environment.json", data={"images": {}}), "no name"),
        ("recipe.json", changed("recipe.json", weights=5), "weights is 5, expected text or null"),
        ("recipe.json", changed("recipe.json", body_parts="XR_HAND"), "expected a list of text"),
        ("metrics.json", changed("metrics.json", table={}), "table is {}, expected a list"),
        ("history.csv", "", "No columns"),
        ("history.csv", "epoch,loss\n1,2\n", "tune_loss"),
        ("history.csv", "epoch,tune_loss\n1,low\n", "low"),
        ("history.csv", "epoch,tune_loss\n", "no rows"),
        ("predictions.csv", 'path\n"a\n', "damaged"),
        ("predictions.csv", "path,probability\na,0.5\n", "no column study"),
        ("predictions.csv", CONTENT["predictions.csv"].replace("0.25", "nan"), "not from 0 to 1"),
        ("predictions.csv", CONTENT["predictions.csv"].replace("0.25", "1.01"), "not from 0 to 1"),
        ("predictions.csv", CONTENT["predictions.csv"].replace(",1,0.25", ",x,0.25"), "x"),
        ("split.csv", "patient\npatient1\n", "no column part"),
    ],
)
def test_damaged_files_are_named_with_what_is_wrong_and_the_remedy(run, name, content, found):
    (run.folder / name).write_text(content)
    with pytest.raises(ValueError) as caught:
        getattr(run, name.partition(".")[0])
    assert str(caught.value).startswith(f"{run.folder / name}: ")
    assert found in str(caught.value)
    assert "restore" in str(caught.value)


def test_a_run_is_not_written_over_and_may_be_replaced(run):
    with pytest.raises(RunError, match="exists already"):
        write_run(run.folder, write_files)
    write_run(run.folder, lambda folder: write_files(folder, "new"), replace=True)
    assert (run.folder / "README.md").read_text() == "new"
    assert [path.name for path in run.folder.parent.iterdir()] == ["one"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), None])
def test_what_stood_there_stays_when_writing_fails(run, error):
    def fail(folder):
        write_files(folder, "new", leave_out=("metrics.json",))
        if error:
            raise error

    with pytest.raises(type(error) if error else RuntimeError):
        write_run(run.folder, fail, replace=True)
    assert (run.folder / "README.md").read_text() == ""
    assert [path.name for path in run.folder.parent.iterdir()] == ["one"]


@pytest.mark.parametrize("name", ["one", "a[b]*"])
def test_a_kill_between_the_two_renames_loses_no_run(tmp_path, name):
    run = write_run(tmp_path / name, lambda folder: write_files(folder, "old"))
    other = write_run(tmp_path / f"{name}x", write_files)
    (tmp_path / f".{name}.old-0123abc_").mkdir()
    run.folder.rename(tmp_path / f".{name}.old-0123abc_" / name)
    (tmp_path / f".{name}.writing-4567def_").mkdir()
    write_files(tmp_path / f".{name}.writing-4567def_", "new")
    clear_leftovers(run.folder)
    assert (run.folder / "README.md").read_text() == "old"
    assert set(tmp_path.iterdir()) == {run.folder, other.folder}


def test_a_run_is_written_to_a_file_system_without_permissions(tmp_path, monkeypatch):
    refuse_permissions(monkeypatch)
    assert write_run(tmp_path / "models" / "one", write_files).name == "one"


def test_a_replaced_run_that_cannot_be_deleted_does_not_come_back(run, monkeypatch):
    models = run.folder.parent
    with monkeypatch.context() as patch:
        keep_folders(patch, lambda name: name.startswith((".one.", "one")))
        write_run(run.folder, lambda folder: write_files(folder, "new"), replace=True)
        assert (run.folder / "README.md").read_text() == "new"
        (models / ".one.writing-0123abc_").mkdir()
        clear_leftovers(run.folder)
        assert [found.name for found in list_runs(models)] == ["one"]
    shutil.rmtree(run.folder)
    clear_leftovers(run.folder)
    assert list(models.iterdir()) == []


def _model(path):
    image = keras.Input((32, 32, 1), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 255)(image)
    pooled = keras.layers.GlobalAveragePooling2D()(scaled)
    keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="d")(pooled)).save(path)


def rewritten(path, change):
    """Rewrite an archive's members: ``change(name, content) -> content``."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_a_sound_model_is_loaded(tmp_path):
    _model(tmp_path / "model.keras")
    model = load_model(tmp_path / "model.keras")
    answers = model.predict(np.zeros((2, 32, 32, 1), np.uint8), verbose=0)
    assert answers.shape == (2, 1)


def test_other_formats_are_refused_by_name_and_content(tmp_path):
    _model(tmp_path / "model.keras")
    (tmp_path / "model.keras").rename(tmp_path / "model.h5")
    with pytest.raises(RunError, match=r"model\.h5: not a Keras model"):
        load_model(tmp_path / "model.h5")
    with pytest.raises(RunError, match="no such model file"):
        load_model(tmp_path)
    with h5py.File(tmp_path / "legacy.keras", "w") as file:
        file.attrs["model_config"] = "{}"
    with pytest.raises(RunError, match="not a whole"):
        load_model(tmp_path / "legacy.keras")


def test_a_model_cannot_name_code_to_run(tmp_path):
    path, ran = tmp_path / "model.keras", tmp_path / "ran"
    _model(path)

    def plant(name, content):
        if name != "config.json":
            return content
        config = json.loads(content)
        layer = config["config"]["layers"][1]
        layer["module"], layer["class_name"], layer["registered_name"] = "os", "system", None
        layer["config"] = {"command": f"touch {ran}"}
        return json.dumps(config)

    rewritten(path, plant)
    with pytest.raises(RunError, match="loaded safely"):
        load_model(path)
    assert not ran.exists()


@pytest.mark.parametrize("newer", [True, False])
def test_a_model_of_a_newer_keras_says_so(tmp_path, newer):
    path = tmp_path / "model.keras"
    _model(path)
    release = "99.1.0" if newer else keras.__version__

    def plant(name, content):
        if name == "metadata.json":
            return json.dumps(json.loads(content) | {"keras_version": release})
        if name != "config.json":
            return content
        return content.decode().replace('"units"', '"unheard_of": 1, "units"')

    rewritten(path, plant)
    with pytest.raises(RunError, match="loaded safely") as error:
        load_model(path)
    said = f"it was saved by Keras 99.1.0, and here is {keras.__version__}: update it"
    assert (said in str(error.value)) is newer


@pytest.mark.parametrize("kind", ["link", "dataset"])
def test_weights_cannot_reach_outside_their_file(tmp_path, kind):
    path, secret = tmp_path / "model.keras", tmp_path / "secret.h5"
    _model(path)
    with h5py.File(secret, "w") as file:
        file["0"] = np.ones((1, 1), np.float32)

    def plant(name, content):
        if not name.endswith(".h5"):
            return content
        weights = tmp_path / "weights.h5"
        weights.write_bytes(content)
        with h5py.File(weights, "r+") as file:
            variables = file["layers/dense/vars"]
            del variables["0"]
            if kind == "link":
                variables["0"] = h5py.ExternalLink(str(secret), "/0")
            else:
                variables.create_dataset(
                    "0", (1, 1), np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
                )
        return weights.read_bytes()

    rewritten(path, plant)
    with pytest.raises(RunError, match="loaded safely"):
        load_model(path)


def test_a_member_that_names_a_path_outside_is_not_written_there(tmp_path):
    path = tmp_path / "folder" / "model.keras"
    path.parent.mkdir()
    _model(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped", "x")
        archive.writestr("assets/../../escaped", "x")
    try:
        load_model(path)
    except RunError as error:
        assert "loaded safely" in str(error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert [entry.name for entry in path.parent.iterdir()] == ["model.keras"]


def test_any_damage_to_a_model_is_a_documented_error(tmp_path):
    path = tmp_path / "model.keras"
    _model(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(whole), 40):
        content = bytearray(whole)
        content[position] ^= 1 << random.integers(8)
        path.write_bytes(content)
        try:
            load_model(path)
        except RunError as error:
            assert str(error).startswith(f"{path}: ")


def test_leftovers_of_a_run_of_a_longer_name_stay(tmp_path):
    (tmp_path / ".cnn.old-lr3.lock").touch()
    for name in (".cnn.old-lr3.training", ".cnn.writing-ab12_3de"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path / "cnn")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".cnn.old-lr3.lock",
        ".cnn.old-lr3.training",
    }


def test_another_folder_is_no_run_and_not_to_be_deleted(run, tmp_path):
    """The arguments in the wrong order: a folder of radiographs is named as the run."""
    (tmp_path / "study1").mkdir()
    (tmp_path / "study1" / "image1.png").touch()
    (tmp_path / "study1" / "README.md").touch()
    with pytest.raises(RunError, match="study1: not a run; complete runs: ") as caught:
        Run.load(tmp_path / "study1", run.folder.parent)
    assert run.name in str(caught.value) and "delete" not in str(caught.value)


def test_a_layer_that_is_not_imported_is_named(tmp_path):
    @keras.saving.register_keras_serializable(package="test")
    class Forgotten(keras.layers.Layer):
        def call(self, x):
            return x

    image = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.Flatten()(Forgotten()(keras.layers.Rescaling(1 / 255)(image)))
    keras.Model(image, keras.layers.Dense(1)(x)).save(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["test>Forgotten"]
    with pytest.raises(RunError, match="import the module that defines its layer Forgotten first"):
        load_model(tmp_path / "model.keras")
