"""Loading saved models: damaged, hostile and foreign files are refused, nothing in them runs."""

import json
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest

from mura.models import ModelError, load


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


def test_other_formats_are_refused_by_name_and_content(tmp_path):
    _model(tmp_path / "model.keras")
    (tmp_path / "model.keras").rename(tmp_path / "model.h5")
    (tmp_path / "legacy.keras").write_bytes(b"\x89HDF\r\n")
    for name in ("model.h5", "legacy.keras", "gone.keras", ""):
        told = "not a whole .keras" if (tmp_path / name).is_file() else "no such model file"
        with pytest.raises(ModelError, match=told):
            load(tmp_path / name)


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
    with pytest.raises(ModelError, match="cannot load it safely"):
        load(path)
    assert not ran.exists()


def test_weights_cannot_reach_outside_their_file(tmp_path):
    path, secret = tmp_path / "model.keras", tmp_path / "secret.h5"
    _model(path)
    with h5py.File(secret, "w") as file:
        file["0"] = np.ones((1, 1), np.float32)

    def plant(name, content):
        if not name.endswith(".h5"):
            return content
        (tmp_path / "weights.h5").write_bytes(content)
        with h5py.File(tmp_path / "weights.h5", "r+") as file:
            del file["layers/dense/vars/0"]
            file["layers/dense/vars/0"] = h5py.ExternalLink(str(secret), "/0")
        return (tmp_path / "weights.h5").read_bytes()

    rewritten(path, plant)
    with pytest.raises(ModelError, match="cannot load it safely"):
        load(path)


def test_a_member_that_names_a_path_outside_is_not_written_there(tmp_path):
    path = tmp_path / "folder" / "model.keras"
    path.parent.mkdir()
    _model(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped", "x")
        archive.writestr("assets/../../escaped", "x")
    try:
        load(path)
    except ModelError as error:
        assert "cannot load it safely" in str(error)
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
            load(path)
        except ModelError as error:
            assert str(error).startswith(f"{path}: ")


def test_a_pickle_in_a_lambda_is_not_run(tmp_path):
    path = tmp_path / "model.keras"
    image = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Lambda(lambda x: x / 255)(image))
    keras.Model(image, keras.layers.Dense(1)(x)).save(path)
    with pytest.raises(ModelError, match="cannot load it safely"):
        load(path)
    path.write_bytes(pickle.dumps(Planted()))
    with pytest.raises(ModelError, match="cannot load it safely"):
        load(path)


class Planted:
    def __reduce__(self):
        return (pytest.fail, ("was unpickled",))


@pytest.mark.parametrize(
    ("shape", "dtype", "outputs"),
    [((32, 32, 3), "uint8", 1), ((32, 16, 1), "uint8", 1), ((None, None, 1), "uint8", 1),
     ((32, 32, 1), "float32", 1), ((32, 32, 1), "uint8", 14)],
)  # fmt: skip
def test_a_model_of_another_kind_is_refused(tmp_path, shape, dtype, outputs):
    image = keras.Input(shape, dtype=dtype)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    keras.Model(image, keras.layers.Dense(outputs)(x)).save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match=r"the model maps .* expected uint8 \(None, S, S, 1\)"):
        load(tmp_path / "model.keras")
