"""The cases that are shown: the right studies, the telling view, honest captions."""

import numpy as np
import pytest
from made_runs import make_run, predictions
from PIL import Image

from mura import evaluation, explain, plots
from mura.data import image_file
from mura.data.images import read_gray
from mura.files import InputError, write_json


@pytest.fixture(scope="module")
def models(phantom_root, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    make_run(models, "one", predictions(phantom_root, 1.0, seed=1), finished="2026-03-01")
    make_run(models, "two", predictions(phantom_root, 1.0, seed=2), finished="2026-02-01")
    return models


def test_the_best_run_is_taken_unless_another_is_named(models, phantom_root):
    assert explain.choose_run("two", models).name == "two"
    best = evaluation.best_run(models, phantom_root)
    assert explain.choose_run("", models, phantom_root) == best


def test_a_path_is_an_image_or_a_study_and_none_is_an_example(models, phantom_root, tmp_path, home):
    run = explain.choose_run("one", models)
    example = explain.open_case("", run, phantom_root, seed=3)
    assert len(example.files) > 1
    assert example.label == 1
    assert all("valid" in file.parts and file.is_file() for file in example.files)
    assert explain.open_case("", run, phantom_root, seed=3) == example
    image = explain.open_case(example.files[0], run)
    assert (image.files, image.label) == ([example.files[0]], None)
    study = explain.open_case(example.files[0].parent, run)
    assert study.files == example.files
    (home / "study").symlink_to(example.files[0].parent, target_is_directory=True)
    assert len(explain.open_case("~/study", run).files) == len(example.files)
    with pytest.raises(InputError, match="not here; name an image"):
        explain.open_case("", run, tmp_path / "MURA-v1.1")


def test_what_is_unusual_about_ones_own_images_is_said(models, tmp_path, capsys):
    run = explain.choose_run("one", models)
    folder = tmp_path / "study1"
    folder.mkdir()
    Image.fromarray(np.full((40, 40), 128, np.uint8)).save(folder / "blank.png")
    for path in (folder, folder / "blank.png"):
        with pytest.raises(InputError, match=r"blank\.png: blank .*no answer"):
            explain.open_case(path, run)
    (folder / "blank.png").unlink()
    Image.fromarray((np.arange(1600).reshape(40, 40) % 9).astype(np.uint8)).save(folder / "a.png")
    (folder / "scan.txt").write_bytes(b"")
    assert len(explain.open_case(folder, run).files) == 1
    printed = capsys.readouterr().out
    assert "a.png: " in printed and "left out: scan.txt" in printed


def test_confident_errors_are_wrong_and_come_worst_first(models, phantom_root):
    run = explain.choose_run("one", models)
    studies = evaluation.run_studies(run)
    views, captions = explain.confident_errors(run, studies, phantom_root, count=5)
    wrong = studies[(studies["probability"] > 0.5) != (studies["label"] == 1)]
    wrong = wrong.assign(distance=(wrong["probability"] - 0.5).abs())
    expected = wrong.sort_values("distance", ascending=False).head(5)
    assert [view.path.rsplit("/", 1)[0] for view in views] == list(expected["study"])
    for view, caption, row in zip(views, captions, expected.itertuples(), strict=True):
        truth, answer = ("normal", "abnormal")[:: 1 if row.label == 0 else -1]
        part = row.body_part.removeprefix("XR_").capitalize()
        assert caption == f"✗ {part}, {truth},\ncalled {answer} ({row.probability:.2f})"
        np.testing.assert_array_equal(view.image, read_gray(image_file(phantom_root, view.path)))
        of_study = run.predictions[run.predictions["study"] == row.study]
        loudest = of_study["probability"].agg("max" if answer == "abnormal" else "min")
        shown = of_study.set_index("path").loc[view.path, "probability"]
        assert shown == loudest
    right = studies.assign(probability=studies["label"])
    assert explain.confident_errors(run, right, phantom_root) == ([], [])


def test_disagreements_show_each_study_for_both_sides(models, phantom_root):
    runs = {name: explain.choose_run(name, models) for name in ("one", "two")}
    studies = {name: evaluation.run_studies(run) for name, run in runs.items()}
    views, captions = explain.disagreements(runs, studies, phantom_root, count=3)
    one, two = (table.set_index("study")["probability"] for table in studies.values())
    widest = (one - two).abs().sort_values(ascending=False).index[:3]
    paths = [view.path for view in views]
    assert paths[:3] == paths[3:]
    assert [path.rsplit("/", 1)[0] for path in paths[:3]] == list(widest)
    for study, high, low in zip(widest, captions[:3], captions[3:], strict=True):
        order = sorted([(one[study], "one"), (two[study], "two")])
        assert high.endswith(f":\n{order[1][1]} {order[1][0]:.2f}")
        assert low.endswith(f":\n{order[0][1]} {order[0][0]:.2f}")
    assert len(plots.view_grid(views, captions, columns=3).child_axes) == 6


def test_right_calls_are_abnormal_images_called_so_each_of_another_study(models, phantom_root):
    run = explain.choose_run("one", models)
    views, captions = explain.right_calls(run, phantom_root, count=6)
    table = run.predictions.set_index("path").loc[[view.path for view in views]]
    assert (table["split"] == "valid").all()
    assert (table["label"] == 1).all()
    assert (table["probability"] > 0.5).all()
    assert table["study"].is_unique
    assert [caption.split(": ")[1] for caption in captions] == [
        f"abnormal ({probability:.2f})" for probability in table["probability"]
    ]


def test_runs_of_the_same_data_are_found_by_name(models, phantom_root, tmp_path):
    like = explain.choose_run("one", models)
    assert [run.name for run in explain.trained(["two", "vgg16"], like, models)] == ["two"]
    other = make_run(tmp_path, "two", predictions(phantom_root, 1.0), finished="2026-02-01")
    facts = other.environment | {"data": other.environment["data"] | {"name": "MURA-v1.1"}}
    write_json(other.folder / "environment.json", facts)
    assert explain.trained(["two"], like, tmp_path) == []


def test_without_validation_studies_there_is_no_example(phantom_root, tmp_path):
    table = predictions(phantom_root, 1.0)
    run = make_run(tmp_path, "tuned", table[table["split"] == "tune"])
    with pytest.raises(InputError, match="tuned: predicted no validation study to show"):
        explain.open_case("", run, phantom_root)
