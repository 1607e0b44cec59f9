"""What a training reads: loss weights, parts, targets, and images of a size once."""

import numpy as np
import pandas as pd
import pytest
from layout import write_layout
from mura.data.training_data import TrainingError, batches, load_data, loss_weights, read_parts
from tiny import tiny_recipe

from mura.data import BODY_PARTS, training_data


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


def test_a_body_part_without_fit_images_still_has_a_loss(phantom_root):
    chosen = tiny_recipe(train_fraction=0.1)
    data = load_data(chosen, phantom_root)
    rows = {part: data.manifest.iloc[data.rows(part)] for part in ("fit", "tune")}
    missing = set(rows["tune"]["body_part"]) - set(rows["fit"]["body_part"])
    assert missing  # of so few patients
    of_missing = rows["tune"]["body_part"].isin(missing).to_numpy()
    tune = batches(data, "tune", chosen)
    weights = np.concatenate([tune[index][2] for index in range(len(tune))])
    assert set(weights[of_missing]) == {0.5}


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


def test_every_run_of_an_image_size_reads_the_same_pixels(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path))
    for changes in ({}, {"body_parts": ("XR_WRIST",)}, {"train_fraction": 0.5}):
        data = load_data(tiny_recipe(**changes), phantom_root)
        assert len(data.pixels) == len(data.manifest)
    assert len(list(tmp_path.glob("*.pixels"))) == 1


def test_parts_are_known_before_an_image_is_read(phantom_root, tmp_path, monkeypatch):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path))
    manifest = read_parts(tiny_recipe(), phantom_root)
    assert set(manifest["part"]) == {"fit", "tune", "valid"}
    assert not list(tmp_path.iterdir())


def test_a_part_with_one_label_is_refused(tmp_path):
    studies = [("train", "XR_WRIST", patient, 1, 1, 1) for patient in range(1, 21)]
    studies += [("valid", "XR_WRIST", 21, 1, 0, 1)]
    root = write_layout(tmp_path, studies)
    with pytest.raises(TrainingError, match=r"fit part holds labels \[1\] only for XR_ELBOW"):
        read_parts(tiny_recipe(), root)


def test_the_share_that_is_trained_on_is_of_patients(phantom_root):
    whole = read_parts(tiny_recipe(), phantom_root)
    half = read_parts(tiny_recipe(train_fraction=0.5), phantom_root)
    fit = set(whole.loc[whole["part"] == "fit", "patient"])
    chosen = set(half.loc[half["part"] == "fit", "patient"])
    assert chosen < fit
    assert len(chosen) == round(0.5 * len(fit))
    assert chosen.isdisjoint(half.loc[half["part"] == "unused", "patient"])
    for part in ("tune", "valid"):
        pd.testing.assert_frame_equal(whole[whole["part"] == part], half[half["part"] == part])
