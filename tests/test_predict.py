"""Prediction: one image, one study, many paths, and which model answers."""

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from layout import dicom, encoded
from made_runs import facts
from PIL import Image

from mura import models, predict
from mura.data import images, load_square
from mura.export import ExportedModel, export
from mura.files import InputError, write_json
from mura.runs import NOVELTY_ARRAYS, RUN_FILES, Run

SIZE = 32


class Brightness(ExportedModel):
    """Answers with an image's mean brightness as a share of 255; knows what is not bright."""

    def __init__(self, decisions=None, threshold=None):
        self.input_shape = (None, SIZE, SIZE, 1)
        self.decisions, self.threshold = decisions, threshold

    def __call__(self, images):
        assert images.dtype == np.uint8
        assert images.shape[1:] == (SIZE, SIZE, 1)
        brightness = images.mean(axis=(1, 2, 3))[:, None] / 255
        return {"probability": brightness, "distance": brightness}


def halves(upper, lower, size=SIZE):
    """A square of two gray levels, the upper one first."""
    return np.repeat(np.array([upper, lower], np.uint8), size // 2)[:, None].repeat(size, axis=1)


@pytest.fixture
def folder(tmp_path):
    """A study of two square views of a mean of 51 and 214, and a file that is no image."""
    study = tmp_path / "study1"
    study.mkdir()
    for name, level in (("image1", 51), ("image2", 214)):
        (study / f"{name}.png").write_bytes(encoded(halves(level - 40, level + 40)))
    (study / "._image1.png").write_bytes(b"AppleDouble")
    (tmp_path / "broken.png").write_bytes(b"nothing of an image")
    return tmp_path


def test_an_image_is_answered_by_its_pixels_and_a_study_by_the_mean_of_its_views(folder):
    study = folder / "study1"
    image, whole = predict.predict_each(Brightness(), [study / "image1.png", study])
    assert image.probability == 51 / 255
    assert whole.probability == pytest.approx((51 + 214) / 2 / 255)


def test_a_flipped_answer_is_the_mean_of_both(folder):
    class Left(Brightness):
        def __call__(self, images):
            return super().__call__(np.repeat(images[:, :, : SIZE // 2], 2, axis=2))

    sides = np.zeros((SIZE, SIZE), np.uint8)
    sides[:, : SIZE // 2] = 255
    (folder / "sides.png").write_bytes(encoded(sides))
    for flip, expected in ((False, 1.0), (True, 0.5)):
        [row] = predict.predict_each(Left(), [folder / "sides.png"], flip)
        assert row.probability == expected


DECISIONS = {
    "temperature": 2.0,
    "shift": -1.0,
    "points": {"conformal90": [0.1, 0.5], "trained": [0.5, 0.5], "sensitivity90": [0.15, 0.15]},
}


@pytest.mark.parametrize(
    ("at", "answers"),
    [
        (None, ["not sure", "abnormal"]),
        ("trained", ["normal", "abnormal"]),
        ("sensitivity90", ["abnormal", "abnormal"]),
    ],
)
def test_the_operating_point_decides_and_the_probability_is_calibrated(folder, at, answers):
    paths = [folder / "study1" / f"image{number}.png" for number in (1, 2)]
    rows = predict.predict_each(Brightness(DECISIONS), paths, at=at)
    assert [row.answer for row in rows] == answers
    assert {row.at for row in rows} == {at or "conformal90"}
    odds = 51 / (255 - 51)
    assert rows[0].calibrated == pytest.approx(1 / (1 + np.exp(1) / odds**0.5))


def test_a_model_without_decisions_answers_as_trained(folder):
    [row] = predict.predict_each(Brightness(), [folder / "study1"])
    assert (row.at, row.answer, row.calibrated, row.known) == ("trained", "abnormal", None, None)
    with pytest.raises(InputError, match="'kappa': this model has trained; choose"):
        predict.predict_each(Brightness(), [folder / "study1"], at="kappa")


def test_what_the_model_does_not_know_is_said(folder):
    image, study = predict.predict_each(
        Brightness(threshold=0.5), [folder / "study1" / "image1.png", folder / "study1"]
    )
    assert (image.known, image.notes) == (True, "")
    assert (study.known, study.notes) == (False, f"image2.png: {predict.UNKNOWN}")


def test_the_first_path_is_the_model_if_it_is_one(trained, folder, monkeypatch):
    models = trained[0]
    image, file = folder / "study1" / "image1.png", models / "cnn" / "model.keras"
    for first in ("cnn", models / "cnn", file):
        model, paths = predict.choose_model([Path(first), image], models=models)
        assert getattr(model, "name", "") and paths == [image]
    model, paths = predict.choose_model([Path("phantom"), image], models=models)
    assert (model.path, paths) == (predict.BUNDLED / "phantom.tflite", [image])
    model, paths = predict.choose_model([image, image], models=models)
    assert (model.path, paths) == (predict.bundled()[0], [image, image])
    monkeypatch.chdir(folder)
    (folder / "cnn").mkdir()
    with pytest.raises(InputError, match="name of a run, and also of a file here; name the model"):
        predict.choose_model([Path("cnn"), image], models=models)
    model, paths = predict.choose_model([Path("cnn"), image], run="cnn", models=models)
    assert isinstance(model, Run) and paths == [Path("cnn"), image]
    with pytest.raises(InputError, match="cn: no such run"):
        predict.choose_model([Path("cn"), image], models=models)
    with pytest.raises(InputError, match="name an image or a study, too"):
        predict.choose_model([file], models=models)


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
    assert not any(row.notes for row in rows)
    words = ("not an image", "", "no such file", "no images", "image3.png: not an image", "")
    for row, word in zip(rows, words, strict=True):
        assert word in row.error and (row.error != "") == (word != "")
        assert np.isnan(row.probability) == bool(row.error)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.uint8, "PNG"), (np.uint8, "JPEG"), (np.uint16, "PNG"), ("f4", "TIFF")]
)
def test_a_blank_image_gets_no_answer_and_neither_does_its_study(folder, level, dtype, kind):
    file = folder / "study1" / "image3.png"
    file.write_bytes(encoded(np.full((50, 40), level, dtype), kind))
    blank, study, sound = predict.predict_each(
        Brightness(), [file, folder / "study1", folder / "study1" / "image1.png"]
    )
    for row in (blank, study):
        assert f"{file}: blank (every pixel is " in row.error and "no answer" in row.error
        assert row.answer == "" and np.isnan(row.probability)
    assert (sound.answer, sound.error) == ("normal", "")


def page(background, ink):
    """A page with a line of ink on three in a hundred pixels."""
    pixels = np.full((100, 100), background, np.uint8)
    pixels[40:43] = ink
    return encoded(pixels)


COLOURS = Image.fromarray(np.dstack([halves(10, 90), halves(200, 20), halves(0, 250)]))
FRAMES = [Image.fromarray(halves(0, level)) for level in (90, 190)]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (encoded(halves(0, 5)), "nearly black"),
        (encoded(halves(250, 255)), "nearly white"),
        (encoded(halves(120, 130)), "nearly one gray"),
        (page(255, 0), "97% of its pixels are plain white"),
        (page(0, 255), "97% of its pixels are plain black"),
        (encoded(Image.fromarray(halves(0, 1) > 0), "TIFF"), "50% of its pixels are plain white"),
        (encoded(COLOURS), "red, green and blue differ"),
        (encoded(COLOURS.convert("RGBA")), "red, green and blue differ"),
        (encoded(COLOURS.convert("P"), "GIF"), "red, green and blue differ"),
        (encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "2 frames"),
        (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "2 frames"),
        (dicom(np.stack([halves(9, 90), halves(0, 250)]), NumberOfFrames=2), "2 frames; the first"),
        (encoded(halves(0, 250)), ""),
        (dicom(halves(0, 250)), ""),
    ],
    ids=[
        *("black", "white", "gray", "white-page", "black-page", "1-bit"),
        *(
            "colour",
            "colour-alpha",
            "colour-palette",
            "pages",
            "animated",
            "dicom-frames",
            "usual",
            "dicom",
        ),
    ],
)
def test_an_answer_says_what_the_audit_knows_about_the_image(folder, content, note):
    file = folder / "study1" / "image3.png"
    file.write_bytes(content)
    image, study = predict.predict_each(Brightness(), [file, folder / "study1"])
    assert image.answer and study.answer and note in image.notes
    assert (image.notes != "") == (note != "")
    assert study.notes == (f"image3.png: {image.notes}" if note else "")


def test_a_study_names_the_files_that_it_leaves_out(folder):
    study = folder / "study1"
    for name, content in (
        *(("DICOMDIR", bytes(128) + b"DICM"), ("report.txt", b"normal"), ("empty", b"")),
        *(("Thumbs.db", b"1"), (".DS_Store", b"1")),
    ):
        (study / name).write_bytes(content)
    (study / "old").mkdir()
    (study / "gone").symlink_to(study / "nowhere")
    [row] = predict.predict_each(Brightness(), [study])
    other = "(not named as an image)"
    assert row.notes == (
        f"left out: DICOMDIR {other}, empty {other}, gone {other}, old (a folder), "
        f"report.txt {other}"
    )
    assert (row.answer, row.views, row.error) == ("abnormal", 2, "")
    for number in range(20):
        (study / f"{number}.txt").write_bytes(b"normal")
    [row] = predict.predict_each(Brightness(), [study])
    assert row.notes.count(other) == 10 and row.notes.endswith(" and 15 more")


@pytest.mark.parametrize("name", ["a.dcm", "A.DCM", "a.DICOM", "IM0001", "image1.png"])
def test_dicom_is_answered_alone_and_in_its_study(tmp_path, name):
    study = tmp_path / "study1"
    study.mkdir()
    (study / name).write_bytes(dicom(halves(0, 250)))
    for row in predict.predict_each(Brightness(), [study / name, study]):
        assert (row.views, row.error, row.notes) == (1, "", "")
        assert row.probability == pytest.approx(125 / 255, abs=0.01)
    (study / name).write_bytes(dicom(halves(0, 250))[:300])
    for row in predict.predict_each(Brightness(), [study / name, study]):
        assert row.error.count(str(study / name)) == 1 and row.answer == ""


def test_no_paths_need_no_model():
    assert predict.predict_each(Run("nowhere"), []) == []


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
    write_json(folder / "environment.json", facts())
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
    found = {formats.get(suffix, suffix) for suffix in images.IMAGE_SUFFIXES}
    assert found == {*images._FORMATS, ".dcm", ".dicom"}


def test_files_are_answered_as_the_training_answered_its_images(trained, phantom_root):
    """From the file to the square: a run's predictions are the answers of `mura predict`."""
    run = Run.load(trained[0] / "cnn")
    expected = run.predictions
    assert run.decisions and set(run.novelty) == set(NOVELTY_ARRAYS)
    found = predict.predict_each(run, [phantom_root.parent / path for path in expected["path"]])
    assert len(found) > 20
    np.testing.assert_allclose(
        [row.probability for row in found], expected["probability"], atol=1e-5
    )
