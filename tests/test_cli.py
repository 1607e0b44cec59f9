"""The command line: what it prints, its exit statuses, and one line on stderr for bad input."""

import json
import shutil
import warnings

import keras
import pandas as pd
import pytest
from conftest import TRAIN
from layout import PREFIX, write_layout

from mura.cli import main
from mura.data import image_files
from mura.data import read as read_manifest
from mura.runs import DECISIONS, NOVELTY, RUN_FILES, Run


@pytest.fixture
def models(trained, tmp_path):
    """A copy of the folder of runs, holding the run ``cnn``."""
    shutil.copytree(trained[0], tmp_path / "models")
    return tmp_path / "models"


def images(root, split="valid"):
    manifest = read_manifest(root)
    return [root.parent / path for path in manifest.loc[manifest["split"] == split, "path"]]


def test_train_says_which_profile_and_data_first_and_where_the_run_is_last(trained, phantom_root):
    models, status, printed = trained
    assert status == 0
    lines = printed.splitlines()
    assert lines[0] == "profile: quick (--profile chooses another)"
    assert lines[1] == f"data: {phantom_root} (the embedded phantom: synthetic images)"
    assert lines[-1] == f"{models / 'cnn'}: complete"
    assert {path.name for path in (models / "cnn").iterdir()} == {*RUN_FILES, DECISIONS, NOVELTY}


def test_a_missing_data_folder_is_named_with_the_remedy(refused, tmp_path):
    for command in (("audit", tmp_path / "nowhere"), (*TRAIN, "--root", tmp_path / "nowhere")):
        line = refused(*command)
        assert str(tmp_path / "nowhere") in line and "mura phantom" in line


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (("train",), 2, "architecture"),
        (("train", "cnn", "--set", "epochs"), 2, "expected SETTING=VALUE"),
        (("predict",), 2, "path"),
        (("--help",), 0, "usage: mura"),
        (("evaluate", "--help"), 0, "usage: mura evaluate"),
    ],
)
def test_wrong_usage_and_help_end_as_argparse_does(capsys, arguments, status, printed):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == status and printed in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "nonsense"), "densenet169"),
        (("train", "cnn", "--batch-size", "0"), "batch_size 0: must be between 1 and 4096"),
        (("train", "cnn", "--set", "epochs=many"), "epochs 'many': expected a whole number"),
        (("train", "cnn", "--set", "average_momentum=[1]"), "expected a number or none"),
        (("train", "cnn", "--set", "colour=red"), "no such setting: colour"),
        (("train", "xception", "--image-size", "64"), "it needs 71"),
        (("train", "cnn", "--weights", "imagenet"), "has no ImageNet weights; choose none"),
        (("train", "vgg16", "--weights", "none.h5"), "none.h5: no such weights"),
        (("train", "vgg16", "--profile", "paper"), "ImageNet weights cannot be downloaded"),
        (("phantom", "--scale", "nan"), "scale nan"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_drawn(
    refused, arguments, named, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("mura.models.weights._SERVER", "http://127.0.0.1:9/")  # nothing answers
    monkeypatch.setattr("mura.data.prepare", lambda root: pytest.fail("read or drew data"))
    assert named in refused(*arguments)
    assert not list(tmp_path.iterdir())


def test_unreadable_images_and_a_patient_in_both_splits_stop_the_training(refused, tmp_path):
    patients = {"train": range(20), "valid": range(100, 120)}
    studies = [(s, "XR_WRIST", n, 1, n % 2, 1) for s, numbers in patients.items() for n in numbers]
    root = write_layout(tmp_path / "one", studies)
    file = images(root, "train")[3]
    file.write_bytes(b"no image")
    line = refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert str(file) in line and "mura audit" in line
    root = write_layout(tmp_path / "two", [*studies, ("valid", "XR_HAND", 1, 2, 0, 1)])
    line = refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert "patient00001" in line and "mura audit" in line


def test_predict_answers_images_and_studies(models, phantom_root, capsys):
    file = images(phantom_root)[0]
    at = ["--at", "trained"]
    assert main(["predict", "cnn", str(file), str(file.parent), "--models", str(models), *at]) == 0
    image, study = capsys.readouterr().out.splitlines()
    answer, probability, path = image.split()
    assert path == str(file)
    assert study.split()[2] == str(file.parent)
    assert "views" not in image and study.endswith(f" ({len(list(file.parent.iterdir()))} views)")
    arguments = ["predict", str(models / "cnn"), str(file), "--json", *at]
    assert main(arguments) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["path"], found["answer"], found["views"]) == (str(file), answer, 1)
    assert found["answer"] == ("abnormal" if found["probability"] > 0.5 else "normal")
    assert found["calibrated"] == pytest.approx(float(probability), abs=6e-4)


def test_predict_asks_the_bundled_model_where_none_is_named(phantom_root, capsys):
    file = images(phantom_root)[0]
    assert main(["predict", str(file), "--json"]) == 0
    printed = capsys.readouterr()
    [found] = json.loads(printed.out)
    assert (found["path"], found["at"]) == (str(file), "conformal90")
    assert found["answer"] in ("normal", "abnormal", "not sure") and found["known"] in (True, False)
    assert "a bundled model, answers; --run names another" in printed.err


def test_predict_takes_a_model_file_by_itself(refused, models, phantom_root, tmp_path, capsys):
    file = str(images(phantom_root)[0])
    moved = shutil.copy(models / "cnn" / "model.keras", tmp_path / "mine.keras")
    found = []
    for model in ("cnn", models / "cnn", models / "cnn" / "model.keras", moved):
        assert main(["predict", str(model), file, "--models", str(models), "--json"]) == 0
        found += json.loads(capsys.readouterr().out)
    assert len({row["probability"] for row in found}) == 1
    assert [row["calibrated"] is None for row in found] == [False, False, True, True]
    line = refused("predict", tmp_path / "none.keras", file)
    assert "none.keras: no such model file" in line
    (tmp_path / "text.keras").write_text("no model")
    assert "not a whole .keras archive" in refused("predict", tmp_path / "text.keras", file)


def test_predict_prints_notes_beside_the_answers(models, phantom_root, tmp_path, capsys):
    study = shutil.copytree(images(phantom_root)[0].parent, tmp_path / "study1")
    (study / "scan.txt").write_bytes(b"\0")
    table = tmp_path / "answers.csv"
    arguments = ["predict", "cnn", str(study), "--csv", str(table), "--models", str(models)]
    note = "left out: scan.txt (not named as an image)"
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "scan.txt" not in printed.out
    assert printed.err == f"mura: {study}: {note}.\n"
    assert pd.read_csv(table)["notes"].tolist() == [note]
    assert main([*arguments, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["notes"] == note


def test_predict_answers_the_readable_ones_and_exits_2(models, phantom_root, tmp_path, capsys):
    good = images(phantom_root)[:2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(good[0].read_bytes()[:300])
    paths = [str(path) for path in (good[0], bad, tmp_path / "none.png", good[1])]
    table = tmp_path / "answers.csv"
    arguments = ["predict", "cnn", *paths, "--csv", str(table), "--models", str(models)]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert [line.split()[-1] for line in printed.out.splitlines()] == [paths[0], paths[3]]
    errors = printed.err.splitlines()
    assert len(errors) == 2 and paths[1] in errors[0] and paths[2] in errors[1]
    answers = pd.read_csv(table)
    assert list(answers["path"]) == paths
    for column in ("probability", "answer"):
        assert list(answers[column].notna()) == [True, False, False, True]
    assert list(answers["error"].notna()) == [False, True, True, False]


def test_a_folder_of_loose_images_is_said_to_be_one_study(models, phantom_root, tmp_path, capsys):
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, file in enumerate(images(phantom_root)[:3]):
        shutil.copy(file, loose / f"{number}.png")
    assert main(["predict", "cnn", str(loose), "--models", str(models)]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("  (3 views)\n")
    assert "loose: answered as one study of 3 views" in printed.err


def test_unknown_and_incomplete_runs_are_named_with_those_there_are(refused, models, phantom_root):
    file = images(phantom_root)[0]
    assert "complete runs under" in refused("predict", "other", file, "--models", models)
    (models / "half").mkdir()
    assert "half: no such run; complete runs under" in refused(
        "predict", "half", file, "--models", models
    )
    shutil.copy(models / "cnn" / "history.csv", models / "half")
    for command in (("predict", "half", file), ("evaluate", "half"), ("export", "half")):
        line = refused(*command, "--models", models)
        assert "metrics.json missing" in line and "delete the folder and train" in line


def _lambda_model(path):
    image = keras.Input((32, 32, 1), dtype="uint8")
    mean = keras.layers.Lambda(lambda x: keras.ops.mean(x / 255, axis=(1, 2)))(image)
    keras.Model(image, mean).save(path)


def _colour_model(path):
    image = keras.Input((32, 32, 3), dtype="uint8")
    keras.Model(image, keras.layers.GlobalMaxPooling2D()(image)).save(path)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a whole .keras archive"),
        (_lambda_model, "arbitrary code execution"),
        (_colour_model, "(None, 32, 32, 3)"),
    ],
)
def test_models_that_cannot_be_used_are_named(refused, models, phantom_root, damage, found):
    path = models / "cnn" / "model.keras"
    damage(path)
    line = refused("predict", "cnn", images(phantom_root)[0], "--models", models)
    assert str(path) in line and found in line


def test_evaluate_shows_every_run_and_writes_json(models, tmp_path, capsys):
    shutil.copytree(models / "cnn", models / "second")
    file = tmp_path / "out" / "results.json"
    assert main(["evaluate", "--models", str(models), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "95 % bootstrap intervals over patients" in printed
    results = json.loads(file.read_text())
    assert list(results) == ["cnn", "second"]
    assert results["cnn"]["all"]["auroc"] == results["second"]["all"]["auroc"]


def test_evaluate_says_which_runs_were_made_on_other_data(models, capsys):
    shutil.copytree(models / "cnn", models / "second")
    facts = json.loads((models / "second" / "environment.json").read_text())
    facts["data"]["name"] = "MURA-v1.1"
    (models / "second" / "environment.json").write_text(json.dumps(facts))
    assert main(["evaluate", "--models", str(models)]) == 0
    assert "different data (phantom-scale0.01: cnn; MURA-v1.1: second)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "damage", "found"),
    [
        ("predictions.csv", lambda text: "", "restore it"),
        ("predictions.csv", lambda text: text.replace(",0.", ",7.", 1), "outside 0 to 1"),
        ("split.csv", lambda text: text.replace("part", "p", 1), "no column part"),
        ("split.csv", lambda text: text.replace("valid", "fit"), "fitted on too"),
    ],
)
def test_damaged_runs_are_named_and_the_others_evaluated(
    refused, models, capsys, file, damage, found
):
    shutil.copytree(models / "cnn", models / "sound")
    path = models / "cnn" / file
    path.write_text(damage(path.read_text()))
    name = "mura: cnn: " if found == "fitted on too" else str(path)
    line = refused("evaluate", "cnn", "--models", models)
    assert name in line and found in line
    assert main(["evaluate", "--models", str(models)]) == 2
    printed = capsys.readouterr()
    assert "sound" in printed.out
    assert printed.err == f"{line}\n"


def test_labels_come_from_the_data_folder_before_the_csv_file(
    refused, phantom_root, tmp_path, monkeypatch, capsys
):
    """Somebody who asks another question of the images writes other labels, not other folders."""
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(phantom_root, tmp_path / "asked anew" / "MURA-v1.1")
    labels = root / "valid_labeled_studies.csv"
    flipped = labels.read_text().replace(",1", ",x").replace(",0", ",1").replace(",x", ",0")
    labels.write_text(flipped)
    valid = read_manifest(root).query("split == 'valid'")
    csv, file = tmp_path / "mine.csv", tmp_path / "results.json"
    valid.assign(probability=valid["label"])[["path", "probability"]].to_csv(csv, index=False)
    evaluate = ["evaluate", "--csv", str(csv), "--json", str(file)]

    def kappa():
        assert main(evaluate) == 0
        return json.loads(file.read_text())["mine"]["all"]["kappa"]["value"]

    assert kappa() < 0  # no data here: by the names of the CSV file's folders
    assert "labels are the CSV file's own" in capsys.readouterr().out
    monkeypatch.setenv("MURA_ROOT", str(root))
    assert kappa() == 1
    labels.write_text(flipped.replace(",1", ",7"))
    assert kappa() < 0
    assert "have a label other than 0 or 1" in capsys.readouterr().err
    csv.write_text(csv.read_text().replace("patient0", "patient9"))
    labels.write_text(flipped)
    assert kappa() < 0
    assert "not listed by the data set" in refused(*evaluate, "--root", root)


def test_a_csv_file_with_other_labels_than_the_data_folders_is_refused(
    refused, phantom_root, tmp_path
):
    table = read_manifest(phantom_root).query("split == 'valid'")
    table = table.assign(probability=table["label"], label=1 - table["label"])
    table.to_csv(tmp_path / "swapped.csv", sep=";", decimal=",", index=False)
    arguments = ["evaluate", "--csv", tmp_path / "swapped.csv"]
    count = table["study"].nunique()
    line = refused(*arguments, "--root", phantom_root)
    assert f"swapped.csv: its labels contradict the data folder's in {count} of {count}" in line


def test_a_csv_file_without_labels_needs_a_data_folder(refused, phantom_root, tmp_path):
    table = read_manifest(phantom_root).query("split == 'valid'")[["path"]]
    path = table["path"].str.replace(r"_(positive|negative)", "", regex=True)
    table.assign(path=path, probability=0.5).to_csv(tmp_path / "mine.csv", index=False)
    assert "--root" in refused("evaluate", "--csv", tmp_path / "mine.csv")
    arguments = ["--csv", str(tmp_path / "mine.csv"), "--root", str(phantom_root)]
    assert main(["evaluate", *arguments]) == 0


def test_phantom_prints_what_it_writes_and_refuses_another_folder(refused, tmp_path, capsys):
    arguments = ["phantom", "--out", str(tmp_path / "p"), "--scale", "0.002", "--seed"]
    assert main([*arguments, "3", "--jobs", "1"]) == 0
    root = tmp_path / "p" / PREFIX
    assert capsys.readouterr().out == f"{root} and {root.parent / 'truth.csv'}\n"
    assert main(["audit", str(root)]) == 0
    assert "choose another --out" in refused(*arguments, "4")


def test_audit_exits_with_1_where_there_are_findings(tmp_path, capsys):
    root = write_layout(tmp_path)
    images(root)[0].unlink()
    assert main(["audit", str(root), "--json", str(tmp_path / "a.json")]) == 1
    assert "missing-file: 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["kinds"]["missing-file"] == 1


def test_a_run_is_evaluated_on_other_data(models, phantom_root, tmp_path, capsys, refused):
    table = tmp_path / "own.csv"
    manifest = read_manifest(phantom_root).query("split == 'valid'")
    files = [str(file) for file in image_files(phantom_root, manifest["path"])]
    manifest = manifest.drop(columns=["view", "excluded"]).assign(path=files)
    manifest.to_csv(table, index=False)
    capsys.readouterr()
    shown = {}
    for root in (phantom_root, table):
        where = ("--root", str(root), "--models", str(models))
        assert main(["evaluate", "cnn", *where, "--json", str(tmp_path / "a.json")]) == 0
        shown[root] = json.loads((tmp_path / "a.json").read_text())["cnn"]["all"]
        assert main(["evaluate", "cnn", *where, "--flip"]) == 0
    expected = Run.load("cnn", models).metrics["table"]
    expected = {row["metric"]: row["value"] for row in expected if row["group"] == "all"}
    for found in shown.values():
        for metric, row in found.items():
            assert row["value"] == pytest.approx(expected[metric], abs=2e-3), metric
    assert "--root" in refused("evaluate", "cnn", "--flip", "--models", models)


def test_export_writes_the_model_beside_the_run(models, capsys):
    assert main(["export", "cnn", "--models", str(models)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(models / "cnn" / "model.tflite")
    assert Run.load("cnn", models).folder == models / "cnn"


def test_warnings_and_ctrl_c_are_one_line_each(monkeypatch, tmp_path, capsys):
    def warn(root):
        warnings.warn("of two\nlines", stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("mura.data.audit.audit", warn)
    assert main(["audit", str(tmp_path)]) == 130
    warned, stopped = capsys.readouterr().err.splitlines()
    assert warned == "mura: of two lines"
    assert stopped.startswith("mura: stopped") and "--resume" in stopped
