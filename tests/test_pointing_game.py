"""The pointing game, by hand and on a phantom with models whose maps are known."""

import numpy as np
import pandas as pd
import pytest
from layout import write_layout

from mura import data, plots
from mura.data.sources.mura import read_truth
from mura.evaluation import pointing_table
from mura.explain.cam import LocalizationError, activation_maps
from mura.explain.pointing_game import pointing_game, points_at


def test_hit_energy_and_chance_by_hand():
    activation = np.array([[0.0, 1.0], [0.5, 0.5]])  # of an image of 40 x 20 pixels
    # the upper right quarter: columns 10-20, rows 0-20
    assert points_at(activation, [(10, 0, 20, 20)], (40, 20)) == (1.0, 0.5, 0.25)
    # half of it and half of the cell below: 0.5 * 1 + 0.5 * 0.5, of 2 in all
    hit, energy, chance = points_at(activation, [(10, 10, 20, 30)], (40, 20))
    assert (hit, energy, chance) == (1.0, 0.375, 0.25)
    # the maximum's cell has its centre at (15, 10)
    assert points_at(activation, [(10, 11, 20, 30)], (40, 20))[0] == 0
    assert points_at(activation, [(0, 20, 10, 40)], (40, 20)) == (0.0, 0.25, 0.25)
    assert points_at(np.zeros((2, 2)), [(0, 0, 20, 40)], (40, 20)) == (0.0, 0.0, 1.0)


def test_of_tied_places_the_share_in_the_box_hits():
    even = np.full((64, 64), 0.3, np.float32)
    # 16 x 24 of 64 x 64 places have their centre in the box, wherever it lies
    for x0, y0 in ((0, 0), (40, 30), (48, 40)):
        box = (x0, y0, x0 + 16, y0 + 24)
        hit, energy, chance = points_at(even, [box], (64, 64))
        assert hit == chance == 16 * 24 / 64**2
        assert energy == pytest.approx(chance)
    # up to rounding to pixels: columns 0 to 10 have their centre below 10.6
    assert points_at(even, [(0, 0, 10.6, 64)], (64, 64))[0] == 11 / 64
    # a coarse map, enlarged as for a network: its corner is a plateau of 16 x 16 places
    [corner] = activation_maps(np.array([[[0.0, 0.2], [0.1, 1.0]]], np.float32), 64)
    assert (corner == corner.max()).sum() == 16**2
    assert points_at(corner, [(56, 48, 64, 64)], (64, 64))[0] == 0.5
    assert points_at(corner, [(40, 48, 52, 64)], (64, 64))[0] == 0.25
    assert points_at(corner, [(0, 0, 32, 32)], (64, 64))[0] == 0


def test_an_even_map_points_as_often_as_chance_and_only_where_called_abnormal(phantom_root):
    valid = data.read(phantom_root).query("split == 'valid'")
    called = np.arange(len(valid)) % 3 > 0
    valid = valid.assign(probability=np.where(called, 0.9, 0.5))
    pointed = pointing_game(_constant_map(), phantom_root, valid)
    truth = read_truth(phantom_root)
    shown = truth[(truth["visible"] == 1) & truth["path"].isin(valid["path"][called])]
    assert list(pointed["path"]) == list(shown["path"])
    assert list(pointed["finding"]) == list(shown["finding"])
    np.testing.assert_allclose(pointed["energy"], pointed["chance"], rtol=1e-6)
    # as often as a random point, but for boxes' edges that cut through the map's few places
    assert pointing_table(pointed)["times_chance"][0] == pytest.approx(1, abs=0.05)
    assert list(pointed["patient"]) == [path.split("/")[3] for path in pointed["path"]]


def test_table_sums_up_each_group():
    pointed = pd.DataFrame(
        {
            "patient": ["patient00001", "patient00001", "patient00002", "patient00003"],
            "finding": ["lesion", "fracture", "lesion", "lesion"],
            "body_part": ["XR_WRIST", "XR_ELBOW", "XR_ELBOW", "XR_WRIST"],
            "hit": [1.0, 0.0, 0.75, 0.25],
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
    # one patient has all fractures: resamples without this patient are left out
    assert table.loc["fracture", ["low", "high"]].tolist() == [0, 0]
    assert list(pointing_table(pointed, "body_part")["group"]) == ["all", "XR_ELBOW", "XR_WRIST"]


def test_the_interval_is_over_patients_whose_images_are_alike():
    patients = np.repeat(np.arange(20), 10)
    alike = pd.DataFrame(
        {"patient": patients, "finding": "lesion", "energy": 0.5, "chance": 0.1}
    ).assign(hit=(patients % 2).astype(float))
    alone = alike.assign(patient=np.arange(len(alike)))  # as if each image were another patient
    rows = [pointing_table(table).iloc[0] for table in (alike, alone)]
    assert [row["accuracy"] for row in rows] == [0.5, 0.5]
    wide, narrow = (row["high"] - row["low"] for row in rows)
    # 20 patients, or 200: their standard errors are as the roots of those numbers
    assert wide / narrow == pytest.approx(np.sqrt(10), rel=0.15)
    assert narrow == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(200), rel=0.1)


def test_without_known_findings_there_is_nothing_to_point_at(tmp_path):
    root = write_layout(tmp_path)
    with pytest.raises(LocalizationError, match=r"does not say where"):
        pointing_game(_constant_map(), root, pd.DataFrame())


def test_a_model_that_calls_nothing_abnormal_points_nowhere(phantom_root):
    rows = data.read(phantom_root).head(40).assign(probability=0.5)
    pointed = pointing_game(_constant_map(), phantom_root, rows)
    assert pointed.empty
    table = pointing_table(pointed)
    assert table[["group", "images"]].to_numpy().tolist() == [["all", 0]]
    assert table[["accuracy", "low", "high"]].isna().all(axis=None)
    assert pointed["hit"].dtype == float
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
