"""Activation maps are the log-odds laid out over the image, and stay in place when drawn."""

import keras
import numpy as np
import pandas as pd
import pytest
from layout import write_layout
from made_runs import brightness_model, make_run, predictions

from mura import data, plots
from mura.data.images import ImageError, fit_square, read_gray, unpadded
from mura.evaluation import pointing_table
from mura.explain import receptive_field
from mura.explain.cam import (
    LocalizationError,
    activation_maps,
    evidence_reader,
    look,
    look_at_files,
)
from mura.explain.pointing_game import pointing_game
from mura.models import architectures


def images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), dtype=np.uint8)


def log_odds(probability: np.ndarray) -> np.ndarray:
    probability = probability.astype(float)
    return np.log(probability) - np.log1p(-probability)


LARGE = ("vgg16", "resnet50", "densenet121", "inception_v3", "xception")
LARGE += ("efficientnet_v2_b0", "convnext_tiny")


@pytest.mark.parametrize(
    "name", ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_the_evidence_adds_up_to_the_answer_after_reloading(name, tmp_path):
    size = 96
    architectures.build(name, size, seed=1).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    head = model.get_layer("abnormal")
    head.set_weights([head.get_weights()[0] * 0.1, np.array([0.3])])  # away from 0 and 1
    batch = images(3, size)
    evidence, probabilities = evidence_reader(model)(batch)
    expected = model.predict_on_batch(batch)[:, 0]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(
        evidence.mean(axis=(1, 2)) + 0.3, log_odds(expected), rtol=1e-3, atol=1e-4
    )
    maps = activation_maps(evidence, size)
    assert (maps.shape, maps.dtype) == ((3, size, size), np.float32)
    assert maps.min() >= 0
    assert maps.max(axis=(1, 2)).tolist() == (evidence.max(axis=(1, 2)) > 0).tolist()


def test_the_evidence_of_fourteen_classes_is_the_slope_of_the_log_odds():
    joint = architectures.build("cnn", 32, head="joint", seed=3)
    kernel, bias = joint.get_layer("classes").get_weights()
    bias = np.linspace(-1, 1, 14)
    joint.get_layer("classes").set_weights([kernel, bias])
    model = architectures.abnormal_model(joint)
    batch = images(4, 32)
    reading = keras.Model(joint.input, joint.get_layer("pool").output)
    pooled = reading.predict_on_batch(batch).astype(float)

    def odds(features):
        classes = np.exp(features @ kernel + bias)
        return np.log(classes[:, 7:].sum(axis=1) / classes[:, :7].sum(axis=1))

    evidence, probabilities = evidence_reader(model)(batch)
    np.testing.assert_allclose(odds(pooled), log_odds(probabilities), atol=1e-4)
    # along the features themselves, by a central difference
    expected = (odds(pooled * 1.001) - odds(pooled * 0.999)) / 0.002
    np.testing.assert_allclose(evidence.mean(axis=(1, 2)), expected, rtol=1e-3)


def test_the_maximum_is_where_the_sign_of_a_finding_is():
    batch = np.zeros((2, 32, 32, 1), np.uint8)
    batch[0, 20:24, 4:8] = 200
    batch[1, 8:12, 24:28] = 90
    evidence, _ = evidence_reader(brightness_model())(batch)
    maps = activation_maps(evidence, 32)
    for one, (row, column) in zip(maps, ((22, 6), (10, 26)), strict=True):
        top, left = np.unravel_index(one.argmax(), one.shape)
        assert abs(top - row) <= 2
        assert abs(left - column) <= 2
        assert one[0, 16] == 0
    assert activation_maps(-evidence, 32).max() == 0  # evidence against a finding


def test_a_cell_is_drawn_where_it_looks():
    """A stride that takes the first pixel of each cell, as in ResNet-50."""
    image = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.MaxPooling2D(1, 8)(x)
    x = keras.layers.Identity(name="feature_maps")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, keras.layers.Dense(1, "sigmoid", name="abnormal")(x))
    model.get_layer("abnormal").set_weights([np.array([[1.0]]), np.array([0.0])])
    batch = np.zeros((1, 32, 32, 1), np.uint8)
    batch[0, 16, 8] = 200
    evidence, _ = evidence_reader(model)(batch)
    [one] = activation_maps(evidence, 32, receptive_field.grid(model, "feature_maps"))
    assert np.argwhere(one == 1).tolist() == [[16, 8]]
    np.testing.assert_allclose(one[16, 8:17], np.linspace(1, 0, 9), atol=1e-6)
    assert one[:9].max() == one[:, 17:].max() == 0


@pytest.mark.parametrize("shape", [(400, 200), (200, 400), (300, 300), (89, 132), (512, 31)])
def test_what_is_cut_out_of_the_square_is_where_the_image_stands_in_it(shape):
    square = fit_square(np.full(shape, 255, np.uint8), 96)
    inside = unpadded(square, *shape)
    assert inside.min() == 255
    assert inside.size == (square > 0).sum()


def test_looking_keeps_each_radiographs_own_size(tmp_path):
    root = write_layout(tmp_path)
    rows = data.read(root)
    rows.loc[0, "label"] = pd.NA
    views = look(brightness_model(), root, rows)
    assert [view.path for view in views] == list(rows["path"])
    assert views[0].label is None
    assert [view.label for view in views[1:]] == rows["label"][1:].astype(int).tolist()
    for view, path in zip(views, rows["path"], strict=True):
        np.testing.assert_array_equal(view.image, read_gray(tmp_path / path))
        height, width = view.image.shape
        # 32 pixels along the longer side, the other in proportion
        expected = [round(side * 32 / max(height, width)) for side in (height, width)]
        assert list(view.activation.shape) == expected
        assert view.boxes == ()
    ax = plots.view_grid(views[:3])
    assert [len(panel.images) for panel in ax.child_axes] == [2] * 3


def test_a_phantoms_findings_come_with_their_boxes(phantom_root):
    truth = pd.read_csv(phantom_root.parent / "truth.csv")
    shown = truth[truth["visible"] == 1].head(2)
    hidden = truth[truth["visible"] == 0].head(1)
    paths = [*shown["path"], *hidden["path"]]
    views = look(brightness_model(), phantom_root, pd.DataFrame({"path": paths}))
    expected = [tuple(row) for row in shown[["x0", "y0", "x1", "y1"]].to_numpy(float)]
    assert [view.boxes for view in views] == [*([box] for box in expected), ()]
    assert all(view.label is None for view in views)
    ax = plots.view_grid(views)
    assert [len(panel.patches) for panel in ax.child_axes] == [2, 2, 0]  # two lines a box


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"broken\.png"):
        look_at_files(brightness_model(), [tmp_path / "broken.png"])


def network(maps=lambda x: x, pooled=lambda x: x, answer=lambda x: x, **head):
    """A network of 16 x 16 images, its own but for what is done to maps, features and answer."""
    image = keras.Input((16, 16, 1), dtype="uint8")
    x = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.Rescaling(1 / 255)(image))
    x = maps(keras.layers.Identity(name="feature_maps")(x))
    x = pooled(x if len(x.shape) == 2 else keras.layers.GlobalAveragePooling2D(name="pool")(x))
    x = keras.layers.Dense(1, "sigmoid", name="abnormal", **head)(x)
    return keras.Model(image, answer(x), name="foreign")


def nested():
    inner = network()
    image = keras.Input((16, 16, 1), dtype="uint8")
    return keras.Model(image, inner(image), name="foreign")


def called_twice():
    image = keras.Input((16, 16, 1), dtype="uint8")
    same = keras.layers.Identity(name="feature_maps")
    x = same(same(keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(1 / 255)(image))))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(1, "sigmoid", name="abnormal")(x), name="foreign")


def sequential(*between):
    layers = [
        keras.Input((16, 16, 1), dtype="uint8"),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(3, 3, name="feature_maps"),
        *between,
        keras.layers.Dense(1, "sigmoid", name="abnormal"),
    ]
    return keras.Sequential(layers, name="foreign")


L = keras.layers
OTHERS = {
    "maximum": lambda: network(maps=L.GlobalMaxPooling2D()),
    "flattened": lambda: network(maps=L.Flatten()),
    "later maps": lambda: network(maps=L.Conv2D(3, 3, activation="relu")),
    "part of the maps": lambda: network(maps=L.Cropping2D(4)),
    "hidden layer": lambda: network(pooled=L.Dense(3, "tanh")),
    "normalised": lambda: network(pooled=L.LayerNormalization()),
    "another answer": lambda: network(answer=lambda x: 1 - x),
    "another activation": lambda: network(answer=lambda x: x**2),
    "nested": nested,
    "sequential, flattened": lambda: sequential(L.Flatten()),
    "sequential, maximum": lambda: sequential(L.GlobalMaxPooling2D()),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_map_of_something_else_is_refused(other, tmp_path, phantom_root):
    model = OTHERS[other]()
    with pytest.raises(LocalizationError, match="foreign: cannot show where this model looks"):
        evidence_reader(model)(images(4, 16))
    files = [phantom_root.parent / path for path in data.read(phantom_root)["path"][:2]]
    with pytest.warns(UserWarning, match="shown without maps"):
        views = look_at_files(model, files)
    assert [view.activation for view in views] == [None, None]
    squares = np.stack([fit_square(view.image, 16) for view in views])[..., None]
    expected = np.asarray(model(squares))[:, 0]
    np.testing.assert_allclose([view.probability for view in views], expected, rtol=1e-5)
    assert len(plots.view_grid(views).child_axes) == 2


@pytest.mark.parametrize(
    "right",
    [
        network,
        called_twice,
        lambda: network(use_bias=False),
        lambda: network(pooled=keras.layers.Dropout(0.5)),
        lambda: sequential(keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.1)),
    ],
)
def test_a_foreign_network_of_the_same_end_has_its_map(right, phantom_root):
    model, batch = right(), images(4, 16)
    evidence, probabilities = evidence_reader(model)(batch)
    view = look_at_files(model, [phantom_root.parent / data.read(phantom_root)["path"][0]])[0]
    assert view.activation.max() in (0, 1)
    bias = (*model.get_layer("abnormal").get_weights(), np.zeros(1))[1]
    np.testing.assert_allclose(
        evidence.mean(axis=(1, 2)) + bias, log_odds(probabilities), rtol=1e-3, atol=1e-4
    )


def test_a_network_without_maps_does_not_stop_the_pointing_game(phantom_root):
    rows = data.read(phantom_root).assign(probability=0.9)
    with pytest.warns(UserWarning, match="shown without maps"):
        played = pointing_game(OTHERS["maximum"](), phantom_root, rows)
    assert played.empty and pointing_table(played)["images"].tolist() == [0]


def test_a_run_whose_model_cannot_be_loaded_is_shown_without_maps(phantom_root, tmp_path):
    run = make_run(tmp_path, "damaged", predictions(phantom_root, 1.0))
    (run.folder / "model.keras").write_bytes(b"PK")
    rows = run.predictions.head(3)
    with pytest.warns(UserWarning, match=r"damaged.model\.keras: .* shown without maps"):
        views = look(run, phantom_root, rows)
    assert [view.activation for view in views] == [None] * 3
    assert [view.probability for view in views] == rows["probability"].tolist()
    with pytest.warns(UserWarning, match="shown without maps"):
        assert pointing_game(run, phantom_root, run.predictions).empty
