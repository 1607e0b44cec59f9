"""The command line: what it prints, its exit statuses, and one line on stderr for bad input."""

import json
import os
import shutil
import subprocess
import sys

import filelock
import keras
import pandas as pd
import pytest
from conftest import TRAIN
from layout import PREFIX, encoded, noise, write_layout

from mura.arguments import parser
from mura.cli import main
from mura.data import folders as datasets
from mura.data.manifest import read_manifest
from mura.files import InputError
from mura.runs import RUN_FILES, Run
from mura.training.recipes import recipe

COMMANDS = ("phantom", "audit", "train", "evaluate", "predict", "export")


@pytest.fixture
def models(trained, tmp_path):
    """A copy of the folder of runs, holding the run ``cnn``."""
    shutil.copytree(trained[0], tmp_path / "models")
    return tmp_path / "models"


def images(root, split="valid"):
    manifest = read_manifest(root)
    return [root.parent / path for path in manifest.loc[manifest["split"] == split, "path"]]


def test_train_says_which_data_first_and_where_the_run_is_last(trained, phantom_root):
    models, status, printed = trained
    assert status == 0
    lines = printed.splitlines()
    assert lines[0] == f"data: {phantom_root} (the embedded phantom: synthetic images)"
    assert lines[-1] == f"{models / 'cnn'}: complete"
    assert "Traceback" not in printed
    assert {path.name for path in (models / "cnn").iterdir()} == set(RUN_FILES)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("train",),
        ("train", "cnn", "--epochs", "many"),
        ("train", "cnn", "--batch-size", "all"),
        ("train", "cnn", "--profile", "slow"),
        ("predict", "cnn"),
        ("audit",),
        ("phantom", "--scale", "half"),
    ],
)
def test_wrong_usage_is_one_line_that_says_how_to_find_help(refused, arguments):
    assert "--help` says how" in refused(*arguments)


@pytest.mark.parametrize(
    "command", ["phantom", "audit", "train", "evaluate", "predict", "export", None]
)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"] if command else ["--help"]) == 0
    assert "usage: mura" in capsys.readouterr().out


def test_every_argument_says_what_it_is():
    actions = parser(dict.fromkeys(COMMANDS, print))._actions
    [commands] = (action for action in actions if isinstance(action.choices, dict))
    arguments = [
        (name, action) for name, command in commands.choices.items() for action in command._actions
    ]
    assert len(arguments) > 30
    assert [(name, action.dest) for name, action in arguments if not action.help] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "nonsense"), "densenet169"),
        (("train", "cnn", "--epochs", "0"), "epochs 0"),
        (("train", "cnn", "--image-size", "8"), "image_size 8"),
        (("train", "cnn", "--batch-size", "0"), "batch_size 0: must be between 1 and 4096"),
        (("train", "cnn", "--seed", "-1"), "seed -1"),
        (("train", "cnn", "--body-part", "XR_KNEE"), "XR_KNEE"),
        (("train", "cnn", "--weights", "nowhere.keras"), "nowhere.keras"),
        (("phantom", "--scale", "0"), "scale 0"),
        (("phantom", "--scale", "nan"), "scale nan"),
        (("phantom", "--scale", "2"), "scale 2"),
    ],
)
def test_impossible_settings_are_refused(
    refused, arguments, named, phantom_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MURA_ROOT", str(phantom_root))
    assert named in refused(*arguments)
    assert not list(tmp_path.rglob("*.keras"))


def test_an_unknown_architecture_is_refused_before_anything_is_drawn(
    refused, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert "choose one of" in refused("train", "nonsense")
    assert not list(tmp_path.iterdir())


def test_a_missing_data_folder_is_named_with_the_remedy(refused, tmp_path, monkeypatch):
    nowhere = tmp_path / "nowhere"
    for line in (
        refused(*TRAIN, "--root", nowhere, "--models", tmp_path / "models"),
        refused("audit", nowhere),
    ):
        assert str(nowhere) in line
        assert "mura phantom" in line
    monkeypatch.setenv("MURA_ROOT", str(nowhere))
    assert str(nowhere) in refused(*TRAIN, "--models", tmp_path / "models")


def test_mura_root_stands_for_root(tmp_path, monkeypatch, capsys, refused):
    root = write_layout(tmp_path)
    (root / "train_image_paths.csv").write_text("a/b/c\n")
    monkeypatch.setenv("MURA_ROOT", str(root))
    assert "train_image_paths.csv: 1 rows" in refused(*TRAIN, "--models", tmp_path / "models")
    assert not (tmp_path / "models" / "cnn").exists()


def test_the_default_phantom_is_drawn_once_where_there_is_no_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawn = []

    def draw(folder):
        drawn.append(folder)
        write_layout(folder)
        (folder / "phantom.json").write_text("{}")

    monkeypatch.setattr(datasets.phantom, "generate", draw)
    for _ in range(2):
        # stops at the labels: three studies are too few to train on
        assert main([*TRAIN, "--models", str(tmp_path / "models")]) == 2
    assert len(drawn) == 1
    first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data:")]
    assert "drawn now" in first[0]
    assert "the embedded phantom: synthetic images" in first[1]


@pytest.mark.parametrize("name", ["train_image_paths.csv", "valid_labeled_studies.csv"])
def test_a_broken_csv_file_is_named(refused, tmp_path, name):
    root = write_layout(tmp_path)
    with (root / name).open("a") as file:
        file.write("../../../etc/passwd,1\n")
    line = refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert str(root / name) in line
    assert "original archive" in line


def test_an_unreadable_training_image_is_named(refused, tmp_path):
    root = write_layout(tmp_path, many_patients())
    file = images(root, "train")[3]
    file.write_bytes(b"no image")
    line = refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert str(file) in line
    assert "mura audit" in line


def many_patients():
    return [
        (split, "XR_WRIST", number + 100 * (split == "valid"), 1, number % 2, 1)
        for split in ("train", "valid")
        for number in range(20)
    ]


def test_a_patient_across_splits_is_refused(refused, tmp_path):
    studies = [*many_patients(), ("valid", "XR_HAND", 1, 2, 0, 1)]
    root = write_layout(tmp_path, studies)
    line = refused(*TRAIN, "--root", root, "--models", tmp_path / "models")
    assert "patient00001" in line
    assert "mura audit" in line


def test_a_run_that_exists_is_not_trained_over(refused, models, phantom_root):
    before = {path.name: path.read_bytes() for path in (models / "cnn").iterdir()}
    line = refused(*TRAIN, "--root", phantom_root, "--models", models)
    assert "exists already" in line
    assert before == {path.name: path.read_bytes() for path in (models / "cnn").iterdir()}


def test_of_two_processes_training_one_run_the_second_says_so(refused, tmp_path, phantom_root):
    (tmp_path / "models").mkdir()
    with filelock.FileLock(tmp_path / "models" / ".cnn.lock"):
        line = refused(*TRAIN, "--root", phantom_root, "--models", tmp_path / "models")
    assert "another process is training this run" in line


def test_a_file_where_the_models_should_be(refused, tmp_path, phantom_root, capsys):
    (tmp_path / "models").write_text("")
    assert str(tmp_path / "models") in refused(
        *TRAIN, "--root", phantom_root, "--models", tmp_path / "models"
    )
    assert "no complete runs" in refused("evaluate", "--models", tmp_path / "models")


def test_predict_answers_images_and_studies(models, phantom_root, capsys):
    file = images(phantom_root)[0]
    assert main(["predict", "cnn", str(file), str(file.parent), "--models", str(models)]) == 0
    image, study = capsys.readouterr().out.splitlines()
    answer, probability, path = image.split()
    assert path == str(file)
    assert answer == ("abnormal" if float(probability) > 0.5 else "normal")
    assert study.split()[2] == str(file.parent)
    assert "views" not in image and study.endswith(f" ({len(list(file.parent.iterdir()))} views)")
    arguments = ["predict", str(models / "cnn"), str(file), "--json"]
    assert main(arguments) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["path"], found["answer"], found["views"]) == (str(file), answer, 1)
    assert found["probability"] == pytest.approx(float(probability), abs=6e-4)


def test_predict_answers_the_readable_ones_and_exits_2(models, phantom_root, tmp_path, capsys):
    good = images(phantom_root)[:2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(good[0].read_bytes()[:300])
    paths = [str(path) for path in (good[0], bad, tmp_path / "none.png", good[1])]
    assert main(["predict", "cnn", *paths, "--models", str(models)]) == 2
    printed = capsys.readouterr()
    assert [line.split()[2] for line in printed.out.splitlines()] == [paths[0], paths[3]]
    errors = printed.err.splitlines()
    assert [error.partition(": ")[0] for error in errors] == ["mura", "mura"]
    assert paths[1] in errors[0]
    assert paths[2] in errors[1]
    assert main(["predict", "cnn", *paths, "--json", "--models", str(models)]) == 2
    assert [row["path"] for row in json.loads(capsys.readouterr().out)] == [paths[0], paths[3]]


def test_a_folder_of_loose_images_is_said_to_be_one_study(models, phantom_root, tmp_path, capsys):
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, file in enumerate(images(phantom_root)[:3]):
        shutil.copy(file, loose / f"{number}.png")
    (loose / "broken.png").write_bytes(b"no image")
    table = tmp_path / "answers.csv"
    files = sorted(map(str, loose.glob("*.png")))
    arguments = ["predict", "cnn", *files, "--csv", str(table), "--models", str(models)]
    assert main(arguments) == 2
    answers = pd.read_csv(table)
    assert list(answers["path"]) == files
    assert list(answers["probability"].notna()) == [True] * 3 + [False]
    assert answers["error"].notna().sum() == 1
    capsys.readouterr()
    (loose / "broken.png").unlink()
    assert main(["predict", "cnn", str(loose), "--models", str(models)]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("  (3 views)\n")
    assert "loose: answered as one study of 3 views" in printed.err


def test_predict_refuses_a_folder_without_images(refused, models, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no images here" in refused("predict", "cnn", tmp_path / "empty", "--models", models)


def test_unknown_and_incomplete_runs_are_named_with_those_there_are(refused, models, phantom_root):
    file = images(phantom_root)[0]
    assert "complete runs under" in refused("predict", "other", file, "--models", models)
    (models / "half").mkdir()
    assert "half: not a run; complete runs: cnn" in refused(
        "predict", "half", file, "--models", models
    )
    shutil.copy(models / "cnn" / "history.csv", models / "half")
    for command in (("predict", "half", file), ("evaluate", "half"), ("export", "half")):
        line = refused(*command, "--models", models)
        assert "metrics.json missing" in line
        assert "delete the folder and train" in line


def _lambda_model(path):
    image = keras.Input((32, 32, 1), dtype="uint8")
    mean = keras.layers.Lambda(lambda x: keras.ops.mean(x / 255, axis=(1, 2)))(image)
    keras.Model(image, mean).save(path)


def _other_input_model(path):
    image = keras.Input((32, 32, 3), dtype="uint8")
    keras.Model(image, keras.layers.GlobalMaxPooling2D()(image)).save(path)


def _float_model(path):
    image = keras.Input((32, 32, 1), dtype="float32")
    keras.Model(image, keras.layers.GlobalMaxPooling2D()(image)).save(path)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "not a whole .keras archive"),
        (lambda path: path.write_text("weights"), "not a whole .keras archive"),
        (_lambda_model, "arbitrary code execution"),
        (_other_input_model, "(None, 32, 32, 3)"),
        (_float_model, "float32"),
    ],
    ids=["truncated", "no model", "lambda", "other input", "float input"],
)
def test_models_that_cannot_be_used_are_named(refused, models, phantom_root, damage, found):
    path = models / "cnn" / "model.keras"
    damage(path)
    line = refused("predict", "cnn", images(phantom_root)[0], "--models", models)
    assert str(path) in line
    assert found in line


def test_evaluate_shows_every_run_and_writes_json(models, tmp_path, capsys):
    shutil.copytree(models / "cnn", models / "second")
    file = tmp_path / "out" / "results.json"
    assert main(["evaluate", "--models", str(models), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "95 % bootstrap intervals over patients" in printed
    results = json.loads(file.read_text())
    assert list(results) == ["cnn", "second"]
    assert results["cnn"]["all"]["auroc"] == results["second"]["all"]["auroc"]
    assert main(["evaluate", "second", "--models", str(models), "--json", str(file)]) == 0
    assert list(json.loads(file.read_text())) == ["second"]


def test_evaluate_says_which_runs_were_made_on_other_data(models, capsys):
    shutil.copytree(models / "cnn", models / "second")
    assert main(["evaluate", "--models", str(models)]) == 0
    assert "different data" not in capsys.readouterr().err
    facts = json.loads((models / "second" / "environment.json").read_text())
    facts["data"]["name"] = "MURA-v1.1"
    (models / "second" / "environment.json").write_text(json.dumps(facts))
    assert main(["evaluate", "--models", str(models)]) == 0
    assert "different data (phantom-scale0.01: cnn; MURA-v1.1: second)" in capsys.readouterr().err


def test_models_of_one_name_do_not_hide_each_other(refused, models, phantom_root, tmp_path):
    csv = probabilities(phantom_root, tmp_path, name="cnn.csv")
    line = refused("evaluate", "cnn", "--csv", csv, "--models", models)
    assert "another cnn is compared" in line


def test_evaluate_without_runs_says_how_to_make_one(refused, tmp_path):
    assert "`mura train cnn`" in refused("evaluate", "--models", tmp_path)


@pytest.mark.parametrize(
    ("file", "damage", "found"),
    [
        ("predictions.csv", lambda text: "", "restore it"),
        ("predictions.csv", lambda text: "\0\1\2", "restore it"),
        ("predictions.csv", lambda text: text[: text.index("\n")], "no rows"),
        ("predictions.csv", lambda text: text.replace("study", "s", 1), "no column study"),
        ("predictions.csv", lambda text: text + text.split("\n", 1)[1], "predicted twice"),
        ("predictions.csv", lambda text: text.replace(",0.", ",7.", 1), "not from 0 to 1"),
        ("predictions.csv", lambda text: text.replace("valid,1", "valid,2"), "no label of 0"),
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
    assert name in line
    assert found in line
    assert main(["evaluate", "--models", str(models)]) == 2
    printed = capsys.readouterr()
    assert "sound" in printed.out
    assert printed.err == f"{line}\n"


def probabilities(root, folder, columns="path,probability", suffix=True, name="mine.csv"):
    """Write a CSV of probabilities of the valid images that are right for every one of them."""
    manifest = read_manifest(root)
    manifest = manifest[manifest["split"] == "valid"].reset_index(drop=True)
    table = manifest.assign(probability=manifest["label"].map({0: 0.2, 1: 0.9}))
    if not suffix:
        for column in ("path", "study"):
            table[column] = table[column].str.replace(r"_(positive|negative)", "", regex=True)
    if columns.startswith("study"):
        table = table.drop_duplicates("study")
    table[columns.split(",")].to_csv(folder / name, index=False)
    return folder / name


@pytest.mark.parametrize("columns", ["path,probability", "study,probability,label"])
def test_anybodys_probabilities_are_evaluated(phantom_root, tmp_path, capsys, columns):
    csv = probabilities(phantom_root, tmp_path, columns)
    file = tmp_path / "results.json"
    assert main(["evaluate", "--csv", str(csv), "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert list(results) == ["mine"]
    assert results["mine"]["all"]["kappa"]["value"] == 1.0
    valid = read_manifest(phantom_root).query("split == 'valid'")
    assert results["mine"]["all"]["kappa"]["studies"] == valid["study"].nunique()


def test_of_a_csv_with_several_splits_the_validation_studies_are_evaluated(
    phantom_root, tmp_path, capsys
):
    csv, file = tmp_path / "mine.csv", tmp_path / "results.json"
    manifest = read_manifest(phantom_root)
    manifest.assign(probability=0.5).to_csv(csv, index=False)
    assert main(["evaluate", "--csv", str(csv), "--json", str(file)]) == 0
    valid = manifest.query("split == 'valid'")
    found = json.loads(file.read_text())["mine"]["all"]["accuracy"]
    assert found["studies"] == valid["study"].nunique()


def test_the_labels_of_the_data_at_hand_come_before_its_folders_names(
    refused, phantom_root, tmp_path, monkeypatch, capsys
):
    """Whoever asks another question of the images writes other labels, not other folders."""
    root = shutil.copytree(phantom_root, tmp_path / "asked anew" / "MURA-v1.1")
    labels = root / "valid_labeled_studies.csv"
    flipped = labels.read_text().replace(",1", ",x").replace(",0", ",1").replace(",x", ",0")
    labels.write_text(flipped)
    csv, file = probabilities(root, tmp_path), tmp_path / "results.json"
    evaluate = ["evaluate", "--csv", str(csv), "--json", str(file)]

    def kappa():
        return json.loads(file.read_text())["mine"]["all"]["kappa"]["value"]

    monkeypatch.chdir(tmp_path)
    assert main(evaluate) == 0
    assert "labels are the CSV file's own" in capsys.readouterr().out
    assert kappa() < 0
    monkeypatch.setenv("MURA_ROOT", str(root))
    assert main(evaluate) == 0
    assert kappa() == 1
    # not where the data at hand are others, or no data
    lines = csv.read_text()
    csv.write_text(lines.replace("patient0", "patient9"))
    assert main(evaluate) == 0 and kappa() < 0
    assert "not listed by the data set" in refused(*evaluate, "--root", root)
    csv.write_text(lines)
    labels.unlink()
    assert main(evaluate) == 0 and kappa() < 0
    # nor where their lists are faulty or label other studies: that is said, and the file's own hold
    labels.write_text(flipped.replace(",1", ",7"))
    capsys.readouterr()
    assert main(evaluate) == 0 and kappa() < 0
    assert "another label than 0 or 1" in capsys.readouterr().err
    labels.write_text(flipped.split("\n")[0])
    assert main(evaluate) == 0 and kappa() < 0
    assert "no label" in refused(*evaluate, "--root", root)


def test_a_csv_of_train_or_of_some_images_is_refused(refused, phantom_root, tmp_path):
    csv = tmp_path / "mine.csv"
    manifest = read_manifest(phantom_root).assign(probability=0.5)
    train = manifest[manifest["split"] == "train"]
    train[["path", "probability"]].to_csv(csv, index=False)
    line = refused("evaluate", "--csv", csv)
    assert f"{csv}: no rows of split 'valid'; found train" in line
    first = manifest[(manifest["split"] == "valid") & (manifest["view"] == 1)]
    first[["path", "probability"]].to_csv(csv, index=False)
    line = refused("evaluate", "--csv", csv, "--root", phantom_root)
    assert str(csv) in line
    assert "lists 1 of " in line


def test_a_page_and_a_table_may_be_asked_for_at_once(phantom_root, tmp_path, monkeypatch, capsys):
    csv, file = probabilities(phantom_root, tmp_path), tmp_path / "results.json"
    monkeypatch.setattr("mura.pages.export_evaluation", lambda page, *rest: page)
    page = ["--html", str(tmp_path / "page.html")]
    assert main(["evaluate", "--csv", str(csv), *page, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["mine"]["all"]["kappa"]["value"] == 1.0


def test_a_training_without_labelled_validation_studies_is_complete(phantom_root, tmp_path, capsys):
    root = shutil.copytree(phantom_root, tmp_path / "MURA-v1.1")
    (root / "valid_labeled_studies.csv").write_text("")
    images = root / "valid_image_paths.csv"
    for study in sorted(root.glob("valid/*/*/*")):
        study.rename(study.with_name(study.name.split("_")[0]))
    text = images.read_text().replace("_positive", "").replace("_negative", "")
    images.write_text(text)
    models = tmp_path / "models"
    assert main([*TRAIN, "--root", str(root), "--models", str(models)]) == 0
    printed = capsys.readouterr().out
    assert "no validation study is labelled" in printed
    assert printed.endswith(f"{models / 'cnn'}: complete\n")


def test_labels_come_from_the_data_folder_where_the_csv_has_none(
    refused, phantom_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    csv = probabilities(phantom_root, tmp_path, suffix=False)
    file = tmp_path / "results.json"
    evaluate = ["evaluate", "--csv", str(csv), "--json", str(file)]
    line = refused(*evaluate)
    assert str(csv) in line
    assert "--root" in line
    assert main([*evaluate, "--root", str(phantom_root)]) == 0
    given = json.loads(file.read_text())
    assert given["mine"]["all"]["kappa"]["value"] == 1.0
    capsys.readouterr()
    monkeypatch.setenv("MURA_ROOT", str(phantom_root))
    assert main(evaluate) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"data: {phantom_root}"
    assert json.loads(file.read_text()) == given


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "not a CSV"),
        (b"\xff\xfe\x00\x80", "CSV"),
        (b"path,score\na,0.5\n", "columns path, score"),
        (b"path,probability\n", "no rows"),
        (b"path,probability\nwrist.png,0.5\n", "row 1 (wrist.png)"),
        (b"path,probability\nSTUDY/image1.png,high\n", "no probability"),
        (b"path,probability\nSTUDY/image1.png,1.5\n", "no probability"),
        (b"path,probability\nSTUDY/image1.png,\n", "no probability"),
        (b"path,probability\nSTUDY/image1.png,0.5\nSTUDY/image1.png,0.5\n", "predicted twice"),
        (b"path,probability\nSTUDY/image1.png,0.5\nSTUDY/,0.5\n", "a whole study among"),
        (b"path,probability,label\nSTUDY/image1.png,0.5,2\n", "no label"),
        (b"path,probability,label\nSTUDY/image1.png,0.5,\n", "no label"),
        (
            b"path,probability,label\nSTUDY/image1.png,0.5,0\nSTUDY/image2.png,0.5,1\n",
            "more than one label",
        ),
        (b"path,probability,probability\nSTUDY/image1.png,0.5,0.4\n", "each once"),
        (b'path,probability\n"STUDY/image1.png,0.5\n', "CSV"),
    ],
)
def test_bad_csv_files_of_probabilities_are_named(refused, tmp_path, content, found):
    study = f"{PREFIX}/valid/XR_WRIST/patient11185/study1_positive".encode()
    csv = tmp_path / "mine.csv"
    csv.write_bytes(content.replace(b"STUDY", study))
    line = refused("evaluate", "--csv", csv)
    assert str(csv) in line
    assert found in line
    assert str(tmp_path / "none.csv") in refused("evaluate", "--csv", tmp_path / "none.csv")


def test_phantom_writes_what_it_prints_and_refuses_another_folder(refused, tmp_path, capsys):
    arguments = ["phantom", "--out", str(tmp_path / "p"), "--scale", "0.002", "--seed", "3"]
    assert main([*arguments, "--jobs", "1"]) == 0
    root = tmp_path / "p" / PREFIX
    assert capsys.readouterr().out == f"{root} and {root.parent / 'truth.csv'}\n"
    truth = pd.read_csv(root.parent / "truth.csv")
    assert len(truth) == len(read_manifest(root))
    assert main(["audit", str(root)]) == 0
    assert "choose another --out" in refused(*arguments[:-1], "4")


def test_audit_exits_with_1_where_there_are_findings(tmp_path, capsys):
    root = write_layout(tmp_path)
    images(root)[0].unlink()
    assert main(["audit", str(root), "--json", str(tmp_path / "a.json")]) == 1
    assert "missing-file: 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["kinds"]["missing-file"] == 1


@pytest.mark.parametrize(
    ("arguments", "stopped", "then"),
    [
        (("audit", "ROOT"), "mura.data.audit.audit", "Nothing half-written"),
        ((*TRAIN, "--root", "ROOT"), "mura.training.train.train.train", "--resume"),
    ],
)
def test_ctrl_c_says_how_to_go_on(refused, tmp_path, monkeypatch, arguments, stopped, then):
    root = write_layout(tmp_path)

    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    import mura.training  # noqa: F401 (so that it can be replaced)

    monkeypatch.setattr(stopped, stop)
    arguments = [root if argument == "ROOT" else argument for argument in arguments]
    line = refused(*arguments, status=130)
    assert "stopped." in line
    assert then in line


def test_a_training_takes_batches_of_the_size_that_is_named(refused, tmp_path, monkeypatch):
    recipes = []

    def stop(recipe, *arguments, **settings):
        recipes.append(recipe)
        raise InputError("stopped")

    monkeypatch.setattr("mura.training.train.train.train", stop)
    root = write_layout(tmp_path)
    assert "stopped" in refused(*TRAIN, "--batch-size", 7, "--root", root)
    assert "stopped" in refused(*TRAIN, "--root", root)
    assert [each.batch_size for each in recipes] == [7, recipe("cnn").batch_size]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    root = write_layout(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for arguments in (["audit", str(root)], ["evaluate", "--help"]):
        command = [sys.executable, "-m", "mura.cli", *arguments]
        with subprocess.Popen(command, env=environment, **pipes) as process:
            process.stdout.close()
            errors = process.stderr.read()
        assert process.returncode == 0
        assert b"Error" not in errors


def test_a_closed_output_and_a_full_disk_are_no_traceback(tmp_path):
    root = write_layout(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = f"{sys.executable} -m mura.cli"
    calls = [f"audit {root} >&-", f"audit {root} > /dev/full", "train --help > /dev/full"]
    for call, status in zip(calls, (0, 2, 2), strict=True):
        if "full" in call and not os.path.exists("/dev/full"):  # noqa: PTH110
            continue
        done = subprocess.run(
            f"{command} {call}", shell=True, env=environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr and "ignored" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(models, phantom_root, tmp_path, closed):
    image, table = images(phantom_root)[0], tmp_path / "a.csv"
    calls = [
        (f"audit {phantom_root}", 0, "no findings"),
        (f"predict cnn {image} --models {models} --csv {table}", 0, str(image)),
        (f"predict cnn {tmp_path / 'none.png'} --models {models}", 2, ""),
    ]
    for call, status, answer in calls:
        command = f"{sys.executable} -m mura.cli {call} {closed}"
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True)
        assert done.returncode == status, call
        assert (answer if closed == "2>&-" else "") in done.stdout
    assert len(table.read_text().splitlines()) == 2


@pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")
def test_what_a_library_prints_goes_into_no_file_where_streams_are_closed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "from mura.cli import run_command\n"
        "def run():\n"
        "    with open('kept', 'w') as file:\n"
        "        file.write('whole')\n"
        "        file.flush()\n"
        "        os.write(1, b'lost')\n"
        "        os.write(2, b'lost')\n"
        "        subprocess.run([sys.executable, '-c', 'import os; os.write(2, bytes(1))'],"
        " check=True)\n"
        "    return 7\n"
        "sys.exit(run_command(run, str))\n"
    )
    command = f"{sys.executable} {script} <&- >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path).returncode == 7
    assert (tmp_path / "kept").read_text() == "whole"


def test_odd_file_names_are_printed(models, tmp_path, capsysbinary):
    name = os.fsdecode(b"r\xf6ntgen.png")
    try:
        (tmp_path / name).write_bytes(encoded(noise(1)))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    table = tmp_path / "answers.csv"
    command = ["predict", "cnn", str(tmp_path / name), "--models", str(models), "--csv", str(table)]
    assert main(command) == 0
    assert rb"r\xf6ntgen.png" in capsysbinary.readouterr().out
    assert r"r\xf6ntgen.png,0." in table.read_text()


def test_what_is_written_may_name_folders_and_files_that_are_no_text(tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"d\xfc")
    try:
        root = write_layout(odd)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    file = tmp_path / "a.json"
    assert main(["audit", str(root), "--json", str(file)]) == 0
    assert json.loads(file.read_text(encoding="utf-8"))["root"] == str(root)
    assert rf"/d\xfc/{PREFIX}: no findings" in capsys.readouterr().out
    csv = odd / os.fsdecode(b"\xfc.csv")
    study = f"{PREFIX}/valid/XR_WRIST/patient{{}}/study1_{{}}"
    rows = [f"{study.format(n, label)},0.{n}" for n, label in ((1, "negative"), (2, "positive"))]
    csv.write_text("\n".join(["study,probability", *rows]), encoding="utf-8")
    assert main(["evaluate", "--csv", str(csv), "--json", str(file)]) == 0
    assert list(json.loads(file.read_text(encoding="utf-8"))) == [csv.stem]
    assert r" \xfc " in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", odd.name]


@pytest.mark.skipif(os.name == "nt", reason="file names of Linux and macOS")
def test_a_strangers_names_do_not_reach_the_terminal_as_commands(
    models, phantom_root, tmp_path, capsys
):
    good, bad = tmp_path / "a\033[2J\n.png", tmp_path / "b\033[1A.png"
    shutil.copy(images(phantom_root)[0], good)
    bad.touch()
    assert main(["predict", "cnn", str(good), str(bad), "--models", str(models)]) == 2
    printed = capsys.readouterr()
    assert printed.out.endswith(r"/a\x1b[2J\n.png" + "\n") and printed.out.count("\n") == 1
    assert r"/b\x1b[1A.png: empty file" in printed.err and printed.err.count("\n") == 1
    shutil.copytree(models / "cnn", models / "x\033[2J\ny")
    shutil.copytree(models / "cnn", models / "z\033[2J")
    (models / "z\033[2J" / "predictions.csv").write_text("")
    assert main(["evaluate", "--models", str(models)]) == 2
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in f"{printed.out}{printed.err}".split("\n"))
    assert printed.out.count(r"x\x1b[2J\ny") == 2  # a row of one table, a column of the other
    assert r"z\x1b[2J" in printed.err and printed.err.count("\n") == 1


def test_export_writes_the_model_beside_the_run(models, phantom_root, capsys):
    file = str(images(phantom_root)[0])
    assert main(["predict", "cnn", file, "--models", str(models)]) == 0
    before = capsys.readouterr().out
    assert main(["export", "cnn", "--models", str(models)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(models / "cnn" / "model.tflite")
    assert Run.load("cnn", models).folder == models / "cnn"
    assert main(["predict", "cnn", file, "--models", str(models)]) == 0
    assert capsys.readouterr().out.split()[0] == before.split()[0]


def test_the_page_needs_runs_and_a_checkout(refused, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    line = refused("evaluate", "--html", page, "--models", tmp_path)
    assert "no complete runs" in line
    monkeypatch.chdir(tmp_path)
    assert "inside a checkout" in refused("evaluate", "--html", page, "--models", tmp_path)
    assert not page.exists()


def test_body_parts_may_be_named_together_or_one_by_one():
    parts = ["XR_WRIST", "XR_HAND", "XR_ELBOW"]
    given = ["train", "cnn", "--body-part", *parts[:2], "--body-part", parts[2]]
    assert parser(dict.fromkeys(COMMANDS, print)).parse_args(given).body_part == parts
