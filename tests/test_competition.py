"""The competition's program: its formats byte for byte, and every study once."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from layout import PREFIX, encoded, write_lines
from made_runs import make_run, predictions

from mura import competition
from mura.competition import main, predict_competition
from mura.files import write_json
from mura.runs import RUN_FILES

STUDIES = {
    # bright: abnormal to the model below; two of three views decide by their mean
    f"{PREFIX}/valid/XR_WRIST/patient11185/study1": (250, 240, 200),
    f"{PREFIX}/valid/XR_HAND/patient11185/study1": (10, 20),
    f"{PREFIX}/valid/XR_ELBOW/patient11190/study2_positive": (0, 250, 250),
}


def write_run(folder):
    """A run whose model answers an image's mean brightness: what it predicts is known."""
    folder.mkdir(parents=True)
    image = keras.Input((32, 32, 1), dtype="uint8")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    keras.Model(image, mean).save(folder / "model.keras")
    for name in RUN_FILES[1:]:
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "brightness")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with the images of ``STUDIES`` and their list."""
    monkeypatch.chdir(tmp_path)
    paths = []
    for study, views in STUDIES.items():
        for number, gray in enumerate(views, 1):
            paths.append(f"{study}/image{number}.png")
            (tmp_path / study).mkdir(parents=True, exist_ok=True)
            (tmp_path / paths[-1]).write_bytes(encoded(np.full((40, 40), gray, np.uint8)))
    write_lines(tmp_path / "valid_image_paths.csv", paths)
    return tmp_path


def test_the_output_is_the_competitions_byte_for_byte(here, run, capsys):
    assert main(["valid_image_paths.csv", "predictions.csv", "--run", str(run)]) == 0
    assert (here / "predictions.csv").read_bytes() == (
        b"MURA-v1.1/valid/XR_WRIST/patient11185/study1/,1\n"
        b"MURA-v1.1/valid/XR_HAND/patient11185/study1/,0\n"
        b"MURA-v1.1/valid/XR_ELBOW/patient11190/study2_positive/,1\n"
    )
    assert capsys.readouterr() == ("", "")


def test_studies_stand_once_in_order_of_first_appearance(here, run):
    lines = (here / "valid_image_paths.csv").read_text().splitlines()
    write_lines(here / "mixed.csv", [lines[4], *lines[5:], *lines[:4]])
    assert main(["mixed.csv", "out/predictions.csv", "--run", str(run)]) == 0
    found = (here / "out" / "predictions.csv").read_text().splitlines()
    wrist, hand, elbow = STUDIES
    assert found == [f"{hand}/,0", f"{elbow}/,1", f"{wrist}/,1"]


def test_a_study_is_the_mean_of_its_readable_views(here, run, capsys):
    wrist, hand, elbow = STUDIES
    (here / elbow / "image2.png").write_bytes(b"no image")
    (here / elbow / "image3.png").unlink()
    for number in (1, 2):
        (here / hand / f"image{number}.png").write_bytes(b"")
    assert main(["valid_image_paths.csv", "predictions.csv", "--run", str(run)]) == 0
    # of the elbow the dark view alone is left
    assert (here / "predictions.csv").read_text() == f"{wrist}/,1\n{hand}/,0\n{elbow}/,0\n"
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("mura: ") for line in errors)
    for number, path in enumerate(
        (f"{hand}/image1.png", f"{hand}/image2.png", f"{elbow}/image2.png", f"{elbow}/image3.png")
    ):
        assert path in errors[number]
    assert errors[4] == f"mura: {hand}: no view could be read; answered normal"
    assert len(errors) == 5


def test_links_out_of_the_data_folder_are_not_followed(here, run, capsys):
    wrist, *_ = STUDIES
    (here / "elsewhere.png").write_bytes(encoded(np.zeros((40, 40), np.uint8)))
    (here / wrist / "image1.png").unlink()
    (here / wrist / "image1.png").symlink_to(here / "elsewhere.png")
    assert predict_competition("valid_image_paths.csv", "predictions.csv", str(run)) == 1
    assert f"{wrist}/image1.png: a symbolic link" in capsys.readouterr().err
    assert (here / "predictions.csv").read_text().startswith(f"{wrist}/,1\n")


def test_the_data_folder_itself_may_be_a_link(here, run):
    (here / PREFIX).rename(here / "disk")
    (here / PREFIX).symlink_to(here / "disk")
    assert predict_competition("valid_image_paths.csv", "predictions.csv", str(run)) == 0


def test_a_windows_list_with_a_mark_and_blank_lines_is_read(here, run):
    lines = (here / "valid_image_paths.csv").read_text().splitlines()
    text = "\ufeff" + "\r\n\r\n".join(line.replace("/", "\\") for line in lines)
    (here / "windows.csv").write_bytes(text.encode())
    assert main(["windows.csv", "predictions.csv", "--run", str(run)]) == 0
    assert len((here / "predictions.csv").read_text().splitlines()) == 3


def test_the_run_that_stands_for_all_is_the_default(here, phantom_root, capsys):
    # by AUROC on tune, whatever finished last, as in the evaluation
    for name, skill, finished in (("able", 3.0, "2026-01-01"), ("newest", 0.0, "2026-03-01")):
        make_run(here / "models", name, predictions(phantom_root, skill), finished=finished)
    torn = make_run(here / "models", "torn", predictions(phantom_root, 9.0))
    (torn.folder / "environment.json").write_text("{")
    lists = ["valid_image_paths.csv", "named.csv"]
    assert main([*lists, "--run", "able"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["valid_image_paths.csv", "default.csv"]) == 0
    assert capsys.readouterr().err == "mura: run able\n"
    assert (here / "named.csv").read_bytes() == (here / "default.csv").read_bytes()
    # one of the listed images' data comes first
    other = make_run(here / "models", "radiographs", predictions(phantom_root, 1.0))
    facts = other.environment | {"data": other.environment["data"] | {"name": PREFIX}}
    write_json(other.folder / "environment.json", facts)
    assert main(["valid_image_paths.csv", "default.csv"]) == 0
    assert capsys.readouterr().err == "mura: run radiographs\n"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["none.csv", "out.csv", "--run", "RUN"], "none.csv: no such file"),
        (["valid_image_paths.csv", "out.csv"], "no complete runs"),
        (["valid_image_paths.csv", "out.csv", "--run", "other"], "other: no such run"),
        (["valid_image_paths.csv", "valid_image_paths.csv/out.csv", "--run", "RUN"], "out.csv"),
        (["empty.csv", "out.csv", "--run", "RUN"], "no image paths"),
        (["outside.csv", "out.csv", "--run", "RUN"], "lead out of the root"),
        (["valid_image_paths.csv"], "--help"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(here, run, capsys, arguments, found):
    (here / "empty.csv").write_text("")
    write_lines(here / "outside.csv", [f"../{next(iter(STUDIES))}/image1.png"])
    before = sorted(here.rglob("*"))
    assert main([str(run) if argument == "RUN" else argument for argument in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert found in line
    assert sorted(here.rglob("*")) == before


def test_ctrl_c_is_one_line(here, run, monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(competition, "read_image_paths", stop)
    assert main(["valid_image_paths.csv", "predictions.csv", "--run", str(run)]) == 130
    assert capsys.readouterr().err.startswith("mura: stopped.")


def test_it_is_called_as_a_module(here, run):
    command = [sys.executable, "-m", "mura.competition", "valid_image_paths.csv", "out.csv"]
    result = subprocess.run([*command, "--run", run], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert (here / "out.csv").read_text().count("\n") == len(STUDIES)
