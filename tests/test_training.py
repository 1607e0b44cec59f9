"""Training: the loss weights, the split, the stages, and that a seed decides everything."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_recipe, tiny_run

from mura import architectures, training_data
from mura.fitting import stages
from mura.manifest import BODY_PARTS
from mura.recipes import PAPER, RecipeError, recipe
from mura.runs import RUN_FILES
from mura.training import train
from mura.training_data import TrainingError, batches, load_data, loss_weights


@pytest.fixture(scope="module")
def run(phantom_root, tmp_path_factory):
    return tiny_run(phantom_root, tmp_path_factory.mktemp("models"))


def test_loss_weights_are_the_papers():
    manifest = pd.DataFrame(
        {
            "part": ["fit"] * 5 + ["tune"],
            "body_part": ["XR_WRIST"] * 4 + ["XR_HAND", "XR_HAND"],
            "label": [0, 0, 0, 1, 0, 1],
        }
    )
    weights = loss_weights(manifest)
    # wrist: 1 abnormal, 3 normal; abnormal weighs 3/4, normal 1/4. The tune row counts nowhere.
    assert weights.loc["XR_WRIST"].to_dict() == {0: 0.25, 1: 0.75}
    assert weights.loc["XR_HAND"].to_dict() == {0: 0.0, 1: 1.0}


def test_batches_carry_targets_and_weights_of_their_rows(phantom_root):
    for head, width in (("binary", 1), ("joint", 14)):
        chosen = tiny_recipe(head=head)
        data = load_data(chosen, phantom_root)
        tune = batches(data, "tune", chosen)
        x, y, w = tune[0]
        rows = data.manifest.iloc[data.rows("tune")[: len(x)]]
        assert x.dtype == np.uint8
        assert x.shape[1:] == (32, 32, 1)
        np.testing.assert_array_equal(x[..., 0], data.pixels[rows.index])
        assert y.shape == (len(x), width)
        labels = rows["label"].to_numpy(int)
        if head == "binary":
            np.testing.assert_array_equal(y[:, 0], labels)
        else:
            parts = [BODY_PARTS.index(part) for part in rows["body_part"]]
            np.testing.assert_array_equal(y.argmax(axis=1), labels * 7 + np.array(parts))
        table = loss_weights(data.manifest)
        expected = [table.loc[p, label] for p, label in zip(rows["body_part"], labels, strict=True)]
        np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_parts_share_no_patient_and_all_runs_share_the_tune_patients(phantom_root):
    whole = load_data(tiny_recipe(), phantom_root).manifest
    wrist = load_data(
        tiny_recipe(body_parts=("XR_WRIST",), seed=3, train_fraction=0.5), phantom_root
    ).manifest
    for manifest in (whole, wrist):
        patients = [set(manifest.loc[manifest["part"] == p, "patient"]) for p in ("fit", "tune")]
        assert not patients[0] & patients[1]
    tune = whole[(whole["part"] == "tune") & (whole["body_part"] == "XR_WRIST")]
    pd.testing.assert_series_equal(wrist.loc[wrist["part"] == "tune", "path"], tune["path"])
    assert set(wrist.loc[wrist["part"].isin(["fit", "tune"]), "body_part"]) == {"XR_WRIST"}
    fit = [(manifest["part"] == "fit").sum() for manifest in (whole, wrist)]
    assert fit[1] < fit[0]


def test_a_patient_in_two_parts_is_refused(phantom_root, monkeypatch):
    read = training_data.read_manifest

    def crossed(root):
        manifest = read(root)
        manifest.loc[manifest["split"] == "valid", "patient"] = manifest["patient"].iloc[0]
        return manifest

    monkeypatch.setattr(training_data, "read_manifest", crossed)
    with pytest.raises(TrainingError, match="more than one part"):
        load_data(tiny_recipe(), phantom_root)


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
    assert run.environment["weights"] == "random"
    assert "not a medical device" in (run.folder / "README.md").read_text()


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


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "joint"},
        {"body_parts": ("XR_WRIST", "XR_HAND")},
        {
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup_fraction": 0.2,
            "average_momentum": 0.9,
            "label_smoothing": 0.1,
        },
    ],
    ids=["joint", "two body parts", "modern"],
)
def test_every_way_of_training_ends_in_the_same_kind_of_run(changes, phantom_root, tmp_path):
    run = tiny_run(phantom_root, tmp_path, epochs=1, **changes)
    assert run.load_model().output_shape == (None, 1)
    assert run.predictions["probability"].between(0, 1).all()
    assert set(run.predictions["body_part"]) <= set(changes.get("body_parts", BODY_PARTS))


def test_names_are_not_taken_twice_and_not_escaped(run, phantom_root):
    models = run.folder.parent
    with pytest.raises(TrainingError, match="exists already"):
        train(tiny_recipe(), phantom_root, name="tiny", models=models)
    finished = train(tiny_recipe(), phantom_root, name="tiny", models=models, resume=True)
    assert finished.folder == run.folder
    for name in ("../elsewhere", ".hidden", "a/b"):
        with pytest.raises(TrainingError, match="run name"):
            train(tiny_recipe(), phantom_root, name=name, models=models)


def test_freezing_is_real(phantom_root, tmp_path):
    """After the warm-up the backbone is untouched, moving statistics too; afterwards it is not."""
    donor = tiny_run(phantom_root, tmp_path, name="donor", epochs=1)
    start = [np.array(v) for v in _backbone_variables(donor.load_model())]
    frozen = tiny_run(
        phantom_root,
        tmp_path,
        name="frozen",
        weights=str(donor.folder / "model.keras"),
        head_epochs=1,
        epochs=1,
        learning_rate=1e-9,
    )
    assert [row.stage for row in frozen.history.itertuples()] == ["head", "all"]
    tuned = tiny_run(
        phantom_root,
        tmp_path,
        name="tuned",
        weights=str(donor.folder / "model.keras"),
        head_epochs=1,
        epochs=2,
        learning_rate=1e-2,
        early_stopping=0,
    )
    assert frozen.environment["weights"].startswith("run:")
    checkpoint = _after_warm_up(donor, phantom_root, tmp_path)
    for name, before, after in zip(range(len(start)), start, checkpoint, strict=True):
        np.testing.assert_array_equal(before, after, err_msg=str(name))
    if tuned.environment["best_epoch"] > 1:
        changed = [
            not np.array_equal(a, b)
            for a, b in zip(start, _backbone_variables(tuned.load_model()), strict=True)
        ]
        assert all(changed)


def _backbone_variables(model):
    return [
        variable.numpy()
        for layer in architectures.backbone_layers(model)
        for variable in layer.weights
    ]


def _after_warm_up(donor, root, folder):
    """Return the backbone of a training that ends with its warm-up being the best epoch."""
    run = tiny_run(
        root,
        folder,
        name="warm",
        weights=str(donor.folder / "model.keras"),
        head_epochs=1,
        epochs=1,
        learning_rate=10.0,  # the second stage diverges, so that the best epoch is the warm-up
    )
    assert run.environment["best_epoch"] == 1
    return _backbone_variables(run.load_model())


def test_stages_need_something_worth_freezing():
    assert [stage.name for stage in stages(PAPER, pretrained=True)] == ["head", "all"]
    assert [stage.name for stage in stages(PAPER, pretrained=False)] == ["all"]
    assert stages(PAPER, pretrained=True)[0].frozen_backbone


def test_the_full_profile_of_densenet169_is_the_papers_recipe():
    full = recipe("densenet169", "full")
    assert (full.image_size, full.batch_size, full.learning_rate) == (320, 8, 1e-4)
    assert (full.optimizer, full.schedule, full.plateau_factor) == ("adam", "plateau", 0.1)
    assert (full.rotation, full.flip, full.weighted_loss) == (30.0, True, True)
    assert full.weights == "imagenet"
    assert full.strict_weights


@pytest.mark.parametrize(
    "changes",
    [
        {"body_parts": ("XR_KNEE",)},
        {"head": "three"},
        {"epochs": 0},
        {"image_size": 8},
        {"schedule": "never"},
        {"colour": "blue"},
    ],
)
def test_impossible_recipes_are_refused_by_name(changes):
    with pytest.raises(RecipeError, match=next(iter(changes)).split("_")[0]):
        recipe("cnn", **changes)
