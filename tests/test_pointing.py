"""The pointing game, by hand and on a phantom with models whose maps are known."""

import numpy as np
import pandas as pd
import pytest
from layout import write_layout

from mura import localization, plots
from mura.evaluation import read_truth
from mura.localization import LocalizationError
from mura.manifest import read_manifest
from mura.pointing import pointing_game, pointing_table, points_at


def test_hit_energy_and_chance_by_hand():
    activation = np.array([[0.0, 1.0], [0.5, 0.5]])  # of an image of 40 x 20 pixels
    # the upper right quarter: columns 10-20, rows 0-20
    assert points_at(activation, (10, 0, 20, 20), (40, 20)) == (True, 0.5, 0.25)
    # half of it and half of the cell below: 0.5 * 1 + 0.5 * 0.5, of 2 in all
    hit, energy, chance = points_at(activation, (10, 10, 20, 30), (40, 20))
    assert (hit, energy, chance) == (True, 0.375, 0.25)
    # the maximum's cell has its centre at (15, 10)
    assert not points_at(activation, (10, 11, 20, 30), (40, 20))[0]
    assert points_at(activation, (0, 20, 10, 40), (40, 20)) == (False, 0.25, 0.25)
    assert points_at(np.zeros((2, 2)), (0, 0, 20, 40), (40, 20)) == (False, 0.0, 1.0)


def test_an_even_map_holds_in_the_box_what_chance_says(phantom_root):
    manifest = read_manifest(phantom_root)
    valid = manifest[manifest["split"] == "valid"]
    even = _constant_map()
    pointed = pointing_game(even, phantom_root, valid)
    truth = read_truth(phantom_root)
    shown = truth[(truth["visible"] == 1) & truth["path"].isin(valid["path"])]
    assert list(pointed["path"]) == list(shown["path"])  # all are called abnormal
    assert list(pointed["finding"]) == list(shown["finding"])
    np.testing.assert_allclose(pointed["energy"], pointed["chance"], rtol=1e-6)
    assert (pointed["probability"] > 0.5).all()


def test_with_known_probabilities_only_what_is_called_abnormal_is_read(phantom_root, monkeypatch):
    manifest = read_manifest(phantom_root).head(60)
    everything = pointing_game(_constant_map(), phantom_root, manifest)
    read = []

    def watched(model, root, rows):
        read.extend(rows["path"])
        return localization.look(model, root, rows)

    monkeypatch.setattr("mura.pointing.look", watched)
    called = np.arange(len(manifest)) % 2 == 0
    known = manifest.assign(probability=np.where(called, 0.9, 0.5))
    found = pointing_game(_constant_map(), phantom_root, known)
    expected = everything[everything["path"].isin(manifest.loc[called, "path"])]
    assert 0 < len(expected) < len(everything)
    assert read == expected["path"].tolist()
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))


def test_table_sums_up_each_group():
    pointed = pd.DataFrame(
        {
            "finding": ["lesion", "fracture", "lesion", "lesion"],
            "body_part": ["XR_WRIST", "XR_ELBOW", "XR_ELBOW", "XR_WRIST"],
            "hit": [True, False, True, False],
            "energy": [0.4, 0.0, 0.2, 0.6],
            "chance": [0.1, 0.2, 0.1, 0.1],
        }
    )
    table = pointing_table(pointed).set_index("group")
    assert list(table.index) == ["all", "fracture", "lesion"]
    assert table.loc["all", ["hits", "images"]].tolist() == [2, 4]
    assert table.loc["lesion", ["accuracy", "energy", "chance"]].tolist() == pytest.approx(
        [2 / 3, 0.4, 0.1]
    )
    assert table.loc["all", "times_chance"] == pytest.approx(0.5 / 0.125)
    assert list(pointing_table(pointed, "body_part")["group"]) == ["all", "XR_ELBOW", "XR_WRIST"]


def test_without_known_findings_there_is_nothing_to_point_at(tmp_path):
    root = write_layout(tmp_path)
    with pytest.raises(LocalizationError, match=r"no truth\.csv beside it"):
        pointing_game(_constant_map(), root, read_manifest(root))


def test_a_model_that_calls_nothing_abnormal_points_nowhere(phantom_root):
    manifest = read_manifest(phantom_root)
    pointed = pointing_game(_constant_map(), phantom_root, manifest.head(40), threshold=0.99)
    assert pointed.empty
    table = pointing_table(pointed)
    assert table[["group", "images"]].to_numpy().tolist() == [["all", 0]]
    assert table["accuracy"].isna().all()
    assert pointed["hit"].dtype == bool
    assert not plots.pointing_bars(table[table["images"] > 0]).patches


def _constant_map():
    """Return a model that calls every image abnormal, for the same reason everywhere."""
    import keras

    image = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(0.0, offset=1.0)(image))
    x = keras.layers.Identity(name="feature_maps")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid", name="abnormal")(x))
    model.get_layer("abnormal").set_weights([np.array([[1.0]]), np.array([0.5])])
    return model
