"""Prediction: one image, one study, many paths, and which model answers."""

import shutil

import keras
import numpy as np
import pytest
from layout import encoded
from PIL import Image

from mura import models, predict
from mura.data import images, load_square
from mura.export import ExportedModel, export
from mura.runs import RUN_FILES, Run

SIZE = 32


class Brightness(ExportedModel):
    """Answers with an image's mean brightness as a share of 255."""

    def __init__(self):
        self.input_shape = (None, SIZE, SIZE, 1)

    def __call__(self, images):
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
    image, whole = predict.predict_each(Brightness(), [study / "image1.png", study])
    assert image.probability == 51 / 255
    assert whole.probability == pytest.approx((51 / 255 + 1) / 2)


def test_above_one_half_is_abnormal():
    """The paper: "greater than 0.5"."""
    answers = [predict.answer(p) for p in (0.0, 0.5, 0.500001, 1.0)]
    assert answers == ["normal", "normal", "abnormal", "abnormal"]


def test_unreadable_files_do_not_stop_the_others(folder):
    (folder / "empty").mkdir()
    shutil.copytree(folder / "study1", folder / "study2")
    shutil.copy(folder / "broken.png", folder / "study2" / "image3.png")
    paths = [folder / name for name in ("broken.png", "study1", "missing.png", "empty", "study2")]
    paths.append(folder / "study1" / "image1.png")
    rows = predict.predict_each(Brightness(), paths)
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.views for row in rows] == [1, 2, 1, 0, 3, 1]
    assert [row.answer for row in rows] == ["", "abnormal", "", "", "", "normal"]
    words = ("not an image", "", "no such file", "no images", "image3.png: not an image", "")
    for row, word in zip(rows, words, strict=True):
        assert word in row.error and (row.error != "") == (word != "")
        assert np.isnan(row.probability) == bool(row.error)
    table = predict.predict_paths(Brightness(), paths)
    assert list(table.columns) == ["path", "probability", "answer", "views", "error"]
    np.testing.assert_array_equal(table["probability"], [row.probability for row in rows])


def test_no_paths_need_no_model():
    assert predict.predict_each(Run("nowhere"), []) == []
    assert predict.predict_paths(Run("nowhere"), []).empty


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose network is logistic regression on the pixels' mean: cheap to export."""
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


@pytest.mark.parametrize(("count", "few", "sizes"), [(3, True, [3]), (7, False, [3, 3, 1])])
def test_few_images_are_answered_without_tracing_a_graph(
    folder, run, monkeypatch, count, few, sizes
):
    batches, asked = [], []

    def answering(model, few):
        asked.append(few)
        return lambda images: batches.append(len(images)) or Brightness()(images)

    monkeypatch.setattr(predict, "BATCH", 3)
    monkeypatch.setattr(models, "answering", answering)
    rows = predict.predict_each(run.load_model(), [folder / "study1" / "image1.png"] * count)
    assert (asked, batches) == ([few], sizes)
    assert [row.probability for row in rows] == [51 / 255] * count


def test_a_run_answers_by_its_export_where_there_is_one(run, folder, monkeypatch):
    image = folder / "study1" / "image1.png"
    expected = 1 / (1 + np.exp(2 - 4 * load_square(image, SIZE).mean() / 255))
    assert predict.predict_each(run, [image])[0].probability == pytest.approx(expected, abs=1e-6)
    export(run)
    monkeypatch.setattr(Run, "load_model", None)
    assert predict.predict_each(run, [image])[0].probability == pytest.approx(expected, abs=1e-4)


def test_a_studys_folder_takes_every_format_that_is_read():
    formats = Image.registered_extensions()
    assert {formats[suffix] for suffix in images.IMAGE_SUFFIXES} == set(images._FORMATS)


def test_files_are_answered_as_the_training_answered_its_images(trained, phantom_root):
    """From the file to the square: a run's predictions are the answers of `mura predict`."""
    run = Run.load(trained[0] / "cnn")
    expected = run.predictions
    found = predict.predict_paths(run, [phantom_root.parent / path for path in expected["path"]])
    assert len(found) > 20
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-5)
