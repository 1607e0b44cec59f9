"""The phantom: MURA's layout and published counts, true boxes, and folders it refuses."""

import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest

from mura import data, phantom
from mura.data import BODY_PARTS
from mura.data.sources.mura import CSV_FILES
from mura.phantom import FINDINGS, PhantomError, counts, dataset, generate, plan_studies, render

SMALLEST = 0.0001  # one study of each body part and label in each split


def draw(root, **changes):
    return generate(root, **({"scale": SMALLEST, "jobs": 1, "progress": False} | changes))


def digests(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).digest() for file in files
    }


def test_the_folder_holds_what_the_lists_name_and_the_truth_of_it(phantom_root):
    files = {str(f.relative_to(phantom_root)) for f in phantom_root.rglob("*") if f.is_file()}
    listed = data.read(phantom_root)["path"]
    assert files == {*listed.str.removeprefix("MURA-v1.1/"), *CSV_FILES}
    beside = {f.name for f in phantom_root.parent.iterdir()}
    assert beside - {"cache"} == {"MURA-v1.1", "truth.csv", "phantom.json"}
    truth = pd.read_csv(phantom_root.parent / "truth.csv", keep_default_na=False)
    assert truth["path"].tolist() == listed.tolist()
    abnormal = truth["path"].str.contains("_positive")
    assert ((truth["finding"] != "none") == abnormal).all()
    assert not truth.loc[~abnormal, "visible"].any()
    assert 0.6 < truth.loc[abnormal, "visible"].mean() < 0.95
    assert ((truth["x0"] == "") == (truth["visible"] == 0)).all()


@pytest.fixture(scope="module")
def smallest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smallest") / "phantom"
    draw(folder)
    return folder


def test_two_processes_draw_the_same_bytes_as_one_and_only_once(smallest, tmp_path, monkeypatch):
    draw(tmp_path / "two", jobs=2)
    assert digests(tmp_path / "two") == digests(smallest)
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


def per_cell(studies, count):
    totals = Counter()
    for study in studies:
        totals[study.body_part, study.label] += count(study)
    return totals


def cells(table):
    return {(part, label): table[part][label] for part in table for label in (0, 1)}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_full_scale_has_the_published_counts(split):
    studies = [study for study in plan_studies(1, seed=0) if study.split == split]
    assert per_cell(studies, lambda study: 1) == cells(counts.STUDY_COUNTS[split])
    assert per_cell(studies, lambda study: study.views) == cells(counts.IMAGE_COUNTS[split])
    assert Counter(study.views for study in studies) == counts.VIEWS_PER_STUDY[split]
    parts, labels = defaultdict(set), defaultdict(set)
    for study in studies:
        parts[study.patient].add(study.body_part)
        labels[study.patient].add(study.label)
    first = 1 if split == "train" else counts.PATIENT_COUNTS["train"] + 1
    assert sorted(parts) == list(range(first, first + counts.PATIENT_COUNTS[split]))
    several = sum(len(found) > 1 for found in parts.values())
    assert several == counts.PATIENTS_WITH_SEVERAL_PARTS[split]
    both = sum(len(found) > 1 for found in labels.values())
    assert both == counts.PATIENTS_WITH_BOTH_LABELS[split]


@pytest.mark.parametrize("scale", [0.5, 0.14, 0.001, 1e-9])
def test_smaller_scales_keep_the_proportions_and_every_cell(scale):
    plan = plan_studies(scale, seed=0)
    patients = {}
    for split in ("train", "valid"):
        studies = [study for study in plan if study.split == split]
        found = per_cell(studies, lambda study: 1)
        for cell, number in cells(counts.STUDY_COUNTS[split]).items():
            assert abs(found[cell] - number * scale) <= 0.5 or found[cell] == 1
        patients[split] = {study.patient for study in studies}
    assert not patients["train"] & patients["valid"]


@pytest.mark.parametrize("part", BODY_PARTS)
@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_what_its_box_holds_and_nothing_else(part, finding):
    """The same patient and pose with and without: pose, exposure and noise do not depend on it."""
    shown = 0
    for study in range(3):
        seeds = (0, study, 1), (0, study, 2, 0)
        without = render(part, "frontal", "none", "", *seeds)
        drawn = render(part, "frontal", finding, "", *seeds)
        assert without.box is None
        assert drawn.image.shape == without.image.shape
        if drawn.box is None:
            continue
        shown += 1
        x0, y0, x1, y1 = drawn.box
        height, width = drawn.image.shape
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        changed = beyond_the_window(drawn.image, without.image, drawn.box) > 25
        margin = 4  # pixels: blur, and the faint edge that the box leaves out
        near = changed[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin]
        assert near.sum() >= 10
        assert near.sum() > 0.9 * changed.sum()
    assert shown >= 1


def beyond_the_window(with_it, without, box):
    """How far gray levels differ beyond what another display window explains, [H, W].

    The densest part sets the window, so that metal darkens all the rest: outside the box equal
    levels become equal levels, and a finding is what that map does not predict.
    """
    x0, y0, x1, y1 = box
    outside = np.ones(without.shape, bool)
    outside[y0:y1, x0:x1] = False
    seen = without[outside]
    sums = np.bincount(seen, with_it[outside].astype(float), 256)
    counts = np.bincount(seen, minlength=256)
    levels = np.flatnonzero(counts > 20)
    map_of_levels = np.interp(np.arange(256), levels, sums[levels] / counts[levels])
    return np.abs(with_it - map_of_levels[without])
