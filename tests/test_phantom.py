"""The phantom on disk: MURA's layout to the letter, the truth table, and when it refuses."""

import hashlib
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura import phantom
from mura.data import BODY_PARTS
from mura.data.sources.mura import CSV_FILES
from mura.phantom import PhantomError, StudyPlan, dataset, generate

SMALLEST = 0.0001  # one study of each body part and label in each split


def draw(root, **changes):
    return generate(root, **({"scale": SMALLEST, "jobs": 1, "progress": False} | changes))


@pytest.fixture(scope="module")
def truth(phantom_root):
    table = pd.read_csv(phantom_root.parent / "truth.csv", keep_default_na=False)
    table["study"] = table["path"].str.rsplit("/", n=1).str[0]
    table["abnormal"] = table["study"].str.endswith("_positive")
    return table


def digests(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).digest() for file in files
    }


def lines(file):
    text = file.read_bytes().decode("ascii")
    assert text.endswith("\n") and "\r" not in text
    return text[:-1].split("\n")


def listed(root):
    return [
        path for split in ("train", "valid") for path in lines(root / f"{split}_image_paths.csv")
    ]


def test_the_folder_holds_the_four_lists_and_the_listed_images_and_nothing_else(
    phantom_root, truth
):
    files = {str(f.relative_to(phantom_root)) for f in phantom_root.rglob("*") if f.is_file()}
    images = {path.removeprefix("MURA-v1.1/") for path in listed(phantom_root)}
    assert files == images | set(CSV_FILES)
    beside = {f.name for f in phantom_root.parent.iterdir()}
    assert beside - {"cache"} == {"MURA-v1.1", "truth.csv", "phantom.json"}
    assert truth["path"].tolist() == listed(phantom_root)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_lists_are_headerless_as_in_mura(phantom_root, split):
    part = "(" + "|".join(BODY_PARTS) + ")"
    study = rf"MURA-v1\.1/{split}/{part}/patient\d{{5}}/study[1-9]_(negative|positive)"
    images = pd.Series(lines(phantom_root / f"{split}_image_paths.csv"))
    assert images.str.fullmatch(rf"{study}/image[1-9]\d*\.png").all()
    studies = pd.Series(lines(phantom_root / f"{split}_labeled_studies.csv"))
    assert studies.str.fullmatch(rf"{study}/,[01]").all()
    assert (studies.str.contains("_positive") == studies.str.endswith(",1")).all()
    # the same studies in the same order, their images numbered from 1
    of_images = images.str.rsplit("/", n=1).str[0]
    assert of_images.drop_duplicates().tolist() == [line.split("/,")[0] for line in studies]
    numbers = images.str.extract(r"image(\d+)\.png")[0].astype(int)
    assert (numbers == images.groupby(of_images).cumcount() + 1).all()


def test_images_are_gray_png_files_of_varying_size_a_few_encoded_as_rgb(phantom_root):
    modes, sizes = [], set()
    for file in phantom_root.rglob("*.png"):
        with Image.open(file) as image:
            assert image.format == "PNG" and max(image.size) <= 512
            modes.append(image.mode)
            sizes.add(image.size)
            if image.mode == "RGB":
                red, green, blue = image.split()
                assert red.tobytes() == green.tobytes() == blue.tobytes()
    assert set(modes) == {"L", "RGB"}
    assert np.mean([mode == "RGB" for mode in modes]) < 0.15
    assert len(sizes) > 0.5 * len(modes)


def test_abnormal_studies_have_one_finding_and_normal_ones_none(truth):
    assert truth.groupby("study")["finding"].nunique().max() == 1
    assert ((truth["finding"] != "none") == truth["abnormal"]).all()
    assert set(truth["finding"]) == {"none", *phantom.FINDINGS}
    assert set(truth["variant"]) == set(phantom.VARIANTS)
    assert set(truth["projection"]) == {"frontal", "lateral", "oblique"}


def test_visible_findings_have_a_box_inside_their_image(phantom_root, truth):
    visible = truth["visible"] == 1
    boxes = truth[["x0", "y0", "x1", "y1"]]
    assert (boxes[~visible] == "").all(axis=None)
    for row in truth[visible].itertuples():
        with Image.open(phantom_root.parent / row.path) as image:
            width, height = image.size
        assert 0 <= int(row.x0) < int(row.x1) <= width
        assert 0 <= int(row.y0) < int(row.y1) <= height
    assert not truth.loc[~truth["abnormal"], "visible"].any()
    assert 0.6 < truth.loc[truth["abnormal"], "visible"].mean() < 0.95
    studies = truth[truth["abnormal"]].groupby("study")["visible"].agg(["min", "max"])
    assert (studies["max"] == 1).mean() > 0.9  # nearly every study shows its finding somewhere
    assert ((studies["max"] == 1) & (studies["min"] == 0)).any()  # in some of its views only


def test_a_hidden_view_is_the_normal_view_of_its_patient(tmp_path, monkeypatch):
    """Some views are drawn without the finding, to the byte, and no truth claims it there."""
    monkeypatch.setattr(dataset, "HIDDEN_VIEWS", 0.5)
    plans = {label: StudyPlan("train", "XR_WRIST", label, 1, 1, 10) for label in (0, 1)}
    drawn = {label: dataset.draw_study(tmp_path, 5, plan, 7) for label, plan in plans.items()}
    same = []
    for view in range(1, 11):
        files = [tmp_path / plans[label].folder / f"image{view}.png" for label in (0, 1)]
        same.append(files[0].read_bytes() == files[1].read_bytes())
    assert 0 < sum(same) < 10
    visible = [row[dataset._TRUTH.index("visible")] for row in drawn[1]]
    assert not any(seen and unchanged for seen, unchanged in zip(visible, same, strict=True))


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smallest") / "phantom"
    draw(folder)
    return folder


def test_two_processes_draw_the_same_bytes_as_one(smallest, tmp_path):
    draw(tmp_path / "two", jobs=2)
    assert digests(tmp_path / "two") == digests(smallest)


def test_the_same_phantom_is_not_drawn_twice(smallest, monkeypatch):
    monkeypatch.setattr(dataset, "draw_study", None)  # drawing would fail
    assert draw(smallest) == smallest / "MURA-v1.1"


@pytest.mark.parametrize(
    "changes", [{"scale": 0}, {"scale": 1.01}, {"scale": float("nan")}, {"jobs": 0}, {"seed": -1}]
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, changes):
    [(name, value)] = changes.items()
    with pytest.raises(PhantomError, match=f"{name} {value}"):
        draw(tmp_path / "phantom", **changes)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused_and_kept(smallest, tmp_path):
    (tmp_path / "mine.csv").write_text("mine\n")
    for folder, found in ((smallest, "the phantom"), (tmp_path, "no phantom of this project")):
        before = digests(folder)
        with pytest.raises(PhantomError, match=rf"holds {found}.*delete the folder.*--out"):
            draw(folder, seed=1)
        assert digests(folder) == before


def test_an_error_while_drawing_leaves_nothing(tmp_path, monkeypatch):
    whole = dataset.render

    def break_at_humerus(body_part, *rest, **more):
        if body_part == "XR_HUMERUS":
            raise KeyboardInterrupt
        return whole(body_part, *rest, **more)

    monkeypatch.setattr(dataset, "render", break_at_humerus)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "deep" / "phantom")
    assert not list((tmp_path / "deep").iterdir())


def test_a_killed_drawing_leaves_no_phantom_and_the_next_one_cleans_up(tmp_path):
    code = (
        "import sys; from mura import phantom; "
        "phantom.generate(sys.argv[1], scale=0.05, jobs=1, progress=False)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "phantom")]) as process:
        while not list(tmp_path.rglob("*.png")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".phantom.drawing-")
    draw(tmp_path / "phantom")
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_of_two_drawings_the_second_finds_the_first(tmp_path, monkeypatch):
    whole = dataset._write_lists

    def be_late(data, studies):
        whole(data, studies)
        monkeypatch.undo()
        draw(tmp_path / "phantom")

    monkeypatch.setattr(dataset, "_write_lists", be_late)
    assert draw(tmp_path / "phantom").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]
    assert phantom.is_current(tmp_path / "phantom")
