"""What a training starts from: where weights are, and whether their runs saw patients held out."""

import shutil

import pandas as pd
import pytest
from made_runs import make_run, predictions

from mura import data
from mura.data import assign_parts
from mura.files import InputError, read_json, write_json
from mura.models import WeightsError
from mura.training.progress import identify
from mura.training.recipes import Recipe
from mura.training.start import lineage, refuse_patients_seen_before, weight_file


@pytest.fixture(scope="module")
def manifest(phantom_root):
    return assign_parts(data.read(phantom_root), tune_fraction=0.3)


@pytest.fixture
def make(phantom_root, manifest, tmp_path):
    """Make a run that was fitted on the patients of some body parts, from weights of another."""
    table = predictions(phantom_root, 1.0)

    def one(name, weights=None, body_parts=None):
        chosen = table if body_parts is None else table[table["body_part"].isin(body_parts)]
        run = make_run(tmp_path / "models", name, chosen, weights=weights)
        used = manifest[manifest["body_part"].isin(body_parts or data.BODY_PARTS)]
        used[["patient", "part"]].drop_duplicates().to_csv(run.folder / "split.csv", index=False)
        return run

    return one


def seen(manifest):
    """Return the manifest with some patient who was fitted on held out."""
    patient = manifest.loc[manifest["part"] == "fit", "patient"].iloc[0]
    return manifest.assign(part=manifest["part"].mask(manifest["patient"] == patient, "tune"))


def test_a_run_that_was_fitted_on_held_out_patients_is_no_start(make, manifest):
    run = make("first")
    for place in (run.folder, run.folder / "model.keras"):
        refuse_patients_seen_before(str(place), manifest)
        with pytest.raises(WeightsError, match=r"first: was fitted on 1 of the patients that this"):
            refuse_patients_seen_before(str(place), seen(manifest))
    refuse_patients_seen_before(None, seen(manifest))
    assert lineage(None) == lineage("gone") == lineage("imagenet") == []
    # that holds where the lists have changed since
    fewer = seen(manifest)
    fewer = fewer[fewer["path"] != run.predictions["path"].iloc[0]]
    with pytest.raises(WeightsError, match="was fitted on"):
        refuse_patients_seen_before(str(run.folder), fewer)
    # and not for other data, whose patients have the same names
    elsewhere = seen(manifest).assign(path="other/" + manifest["path"])
    refuse_patients_seen_before(str(run.folder), elsewhere)


def test_nor_is_one_that_started_from_such_a_run(make, manifest, tmp_path, monkeypatch):
    first = make("first")
    second = make("second", weights=str(first.folder), body_parts=["XR_WRIST"])
    assert [run.name for run in lineage(str(second.folder))] == ["second", "first"]
    patients = manifest[manifest["body_part"] == "XR_HAND"]
    wrists = set(manifest.loc[manifest["body_part"] == "XR_WRIST", "patient"])
    patient = next(
        name for name in patients.loc[patients["part"] == "fit", "patient"] if name not in wrists
    )
    held = manifest.assign(part=manifest["part"].mask(manifest["patient"] == patient, "tune"))
    with pytest.raises(WeightsError, match="first: was fitted on 1 of the patients"):
        refuse_patients_seen_before(str(second.folder), held)
    # found beside it, whatever the folder of runs is called by now
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "models", moved)
    assert [run.folder for run in lineage(str(moved / "second"))] == [
        moved / "second",
        moved / "first",
    ]
    # nor does another run of that name hide it, where one stands
    recipe = read_json(moved / "second" / "recipe.json")
    write_json(moved / "second" / "recipe.json", recipe | {"weights": "out/first"})
    shutil.copytree(moved / "second", tmp_path / "out" / "first")
    monkeypatch.chdir(tmp_path)
    assert moved / "first" in [run.folder for run in lineage(str(moved / "second"))]
    recipe = read_json(moved / "first" / "recipe.json")
    write_json(moved / "first" / "recipe.json", recipe | {"weights": str(moved / "first")})
    assert [run.name for run in lineage(str(moved / "first"))] == ["first"]  # it took its place
    (moved / "first" / "recipe.json").write_text("{")
    with pytest.raises(InputError, match=r"first.recipe\.json: not a JSON file"):
        lineage(str(moved / "second"))


def test_a_start_that_was_named_from_the_checkout_is_found_from_a_notebook(
    make, tmp_path, monkeypatch
):
    (tmp_path / "src" / "mura").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    first = make("first")
    shutil.move(first.folder, tmp_path / "donors")
    second = make("second", weights="donors")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert [run.name for run in lineage(str(second.folder))] == ["second", "donors"]


def test_weights_are_found_by_a_runs_name_and_every_way_there_is_the_same_training(
    tmp_path, monkeypatch
):
    (tmp_path / "src" / "mura").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    models = [tmp_path / folder / "mine" / "model.keras" for folder in ("models", "other")]
    for model in models:
        model.parent.mkdir(parents=True)
        model.touch()
    manifest, identities = pd.DataFrame({"path": ["a"], "label": [0], "part": ["fit"]}), set()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        for name in ("mine", "models/mine", "models/mine/model.keras", str(models[0].parent)):
            assert weight_file(name) == str(models[0])
            identities.add(identify(Recipe(weights=name), manifest, weight_file(name)))
        assert weight_file("mine", tmp_path / "other") == str(models[1])
    assert len(identities) == 1
    others = [(Recipe(), manifest, str(models[1])), (Recipe(), manifest, None)]
    others += [(Recipe(seed=1), manifest, str(models[0]))]
    others += [(Recipe(), manifest.assign(label=1), str(models[0]))]
    assert len(identities | {identify(*other) for other in others}) == 5
    assert [weight_file(name) for name in (None, "none", "imagenet")] == [None, None, "imagenet"]
    assert weight_file("gone/cnn") == "gone/cnn"
