"""Prediction: one image, one study, many paths, and which model answers."""

import shutil

import keras
import numpy as np
import pytest
from layout import encoded
from PIL import Image

from mura import predict as prediction
from mura.data import images
from mura.data.images import load_square
from mura.export import export
from mura.runs import RUN_FILES, Run

SIZE = 32


class Brightness:
    """Says an image's mean brightness as a share of 255, and counts how it is called."""

    input_shape = (None, SIZE, SIZE, 1)

    def __init__(self) -> None:
        self.calls, self.batches = 0, []

    def __call__(self, images, training=False):
        assert not training
        self.calls += 1
        return self._answer(images)

    def predict_on_batch(self, images):
        self.batches.append(len(images))
        return self._answer(images)

    def _answer(self, images):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE, SIZE, 1)
        return images.mean(axis=(1, 2, 3))[:, None] / 255


@pytest.fixture
def folder(tmp_path):
    """A study of two square views of one gray level each, and a file that is no image."""
    study = tmp_path / "study1"
    study.mkdir()
    for name, level in (("image1", 51), ("image2", 255)):
        content = encoded(np.full((40, 40), level, np.uint8))
        (study / f"{name}.png").write_bytes(content)
    (study / "._image1.png").write_bytes(b"AppleDouble")
    (tmp_path / "broken.png").write_bytes(b"nothing of an image")
    return tmp_path


def test_an_image_is_answered_by_its_pixels_and_a_study_by_the_mean_of_its_views(folder):
    study = folder / "study1"
    image, whole = prediction.predict_each(Brightness(), [study / "image1.png", study])
    assert image.probability == 51 / 255
    assert whole.probability == pytest.approx((51 / 255 + 1) / 2)


def test_above_one_half_is_abnormal():
    """The paper: "greater than 0.5"."""
    answers = [prediction.answer(p) for p in (0.0, 0.5, 0.500001, 1.0)]
    assert answers == ["normal", "normal", "abnormal", "abnormal"]


def test_what_cannot_be_read_does_not_stop_the_others(folder):
    (folder / "empty").mkdir()
    paths = [folder / name for name in ("broken.png", "study1", "missing.png", "empty")]
    paths.append(folder / "study1" / "image1.png")
    rows = prediction.predict_each(Brightness(), paths)
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.views for row in rows] == [1, 2, 1, 0, 1]
    assert [row.answer for row in rows] == ["", "abnormal", "", "", "normal"]
    assert [row.error != "" for row in rows] == [True, False, True, True, False]
    for row, word in zip(rows, ("not an image", "", "no such file", "no images", ""), strict=True):
        assert word in row.error
        assert np.isnan(row.probability) == bool(row.error)
    table = prediction.predict_paths(Brightness(), paths)
    assert list(table.columns) == ["path", "probability", "answer", "views", "error"]
    np.testing.assert_array_equal(table["probability"], [row.probability for row in rows])


def test_a_study_with_one_broken_view_is_an_error(folder):
    shutil.copy(folder / "broken.png", folder / "study1" / "image3.png")
    [row] = prediction.predict_each(Brightness(), [folder / "study1"])
    assert "image3.png" in row.error
    assert np.isnan(row.probability)


def test_no_paths_need_no_model():
    class Unopened(Run):
        def load_model(self):
            raise AssertionError("nothing to predict")

    assert prediction.predict_each(Unopened("nowhere"), []) == []
    assert prediction.predict_paths(Unopened("nowhere"), []).empty


def test_few_images_are_answered_without_tracing_a_graph(folder, monkeypatch):
    monkeypatch.setattr(prediction, "BATCH", 3)
    image = folder / "study1" / "image1.png"
    few, many = Brightness(), Brightness()
    prediction.predict_each(few, [image] * 3)
    assert (few.calls, few.batches) == (1, [])
    rows = prediction.predict_each(many, [image] * 7)
    assert (many.calls, many.batches) == (0, [3, 3, 1])
    assert [row.probability for row in rows] == [51 / 255] * 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose network is logistic regression on the pixels' mean: cheap to export."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    output = keras.layers.Dense(1, "sigmoid", dtype="float32")
    model = keras.Model(image, output(x))
    output.set_weights([np.array([[4.0]]), np.array([-2.0])])
    folder = tmp_path_factory.mktemp("models") / "mean"
    folder.mkdir()
    for name in RUN_FILES:
        (folder / name).write_text("{}")
    model.save(folder / "model.keras")
    return Run(folder)


def test_a_run_answers_by_its_export_where_there_is_one(run, folder, monkeypatch):
    image = folder / "study1" / "image1.png"
    expected = 1 / (1 + np.exp(2 - 4 * load_square(image, SIZE).mean() / 255))
    assert prediction.predict_each(run, [image])[0].probability == pytest.approx(expected, abs=1e-6)
    export(run)

    def not_asked(self):
        raise AssertionError("the exported model was to answer")

    monkeypatch.setattr(Run, "load_model", not_asked)
    assert prediction.predict_each(run, [image])[0].probability == pytest.approx(expected, abs=1e-4)


def test_a_studys_folder_takes_every_format_that_is_read():
    formats = Image.registered_extensions()
    assert {formats[suffix] for suffix in prediction.IMAGE_SUFFIXES} == set(images._FORMATS)


def test_files_are_answered_as_the_training_answered_its_images(trained, phantom_root):
    """From the file to the square: what a run's predictions say is what `mura predict` says."""
    run = Run.load(trained[0] / "cnn")
    expected = run.predictions
    found = prediction.predict_paths(run, [phantom_root.parent / path for path in expected["path"]])
    assert len(found) > 20
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-5)
