"""The run folder: written whole or not at all, opened by name, refused when damaged."""

import json

import pytest
from layout import PREFIX

from mura.runs import RUN_FILES, Run, RunError, clear_leftovers, list_runs, refuse_name, write

CONTENT = {
    "recipe.json": json.dumps(
        {"architecture": "cnn", "head": "binary", "body_parts": ["XR_HAND"], "image_size": 32}
    ),
    "history.csv": "stage,epoch,tune_loss\nall,1,0.5\n",
    "predictions.csv": "path,study,view,body_part,patient,split,label,probability\n"
    f"{PREFIX}/valid/XR_HAND/patient1/study1/image1.png,{PREFIX}/valid/XR_HAND/patient1/study1,"
    "1,XR_HAND,patient1,valid,1,0.25\n",
    "split.csv": "patient,part\npatient1,valid\n",
    "environment.json": '{"parameters": 1, "epochs": 1, "best_epoch": 1, "training_seconds": 1, '
    '"images_per_second": 1, "weights": "random", "compute": {"device": "cpu"}, '
    '"data": {"name": "phantom", "images": {"fit": 1}}}',
    "metrics.json": json.dumps({"split": "valid", "table": []}),
}


def changed(name, **values):
    return json.dumps(json.loads(CONTENT[name]) | values)


def write_files(folder, mark="", leave_out=()):
    for name in RUN_FILES:
        if name not in leave_out:
            (folder / name).write_text(CONTENT.get(name, mark))


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "models" / "one", write_files)


def test_a_run_is_opened_by_folder_and_by_name(run, tmp_path, monkeypatch):
    models = tmp_path / "models"
    assert Run.load(run.folder).name == Run.load("one", models).name == "one"
    assert [found.name for found in list_runs(models)] == ["one"]
    assert list_runs(tmp_path / "none") == []
    # a folder of that name in the current one is no run
    (tmp_path / "here" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert Run.load("one", models).folder == run.folder
    assert Run(tmp_path / "models" / "x" / ".." / "one").name == "one"


def test_unfinished_and_hidden_folders_are_no_runs(run):
    models = run.folder.parent
    for name, left_out in (("half", ("metrics.json",)), (".one.writing-x", ())):
        (models / name).mkdir()
        write_files(models / name, leave_out=left_out)
    (models / "README.md").write_text("")
    assert [found.name for found in list_runs(models)] == ["one"]
    with pytest.raises(RunError, match=r"half: not a complete run, metrics\.json missing"):
        Run.load("half", models)
    with pytest.raises(RunError, match=r"no such run; complete runs under .*: one"):
        Run.load("two", models)


def test_tables_are_read_with_their_types(run):
    assert run.predictions["label"].dtype == "Int64"
    assert run.predictions["body_part"].cat.ordered
    assert run.predictions["probability"].tolist() == [0.25]
    assert run.history["tune_loss"].tolist() == [0.5]
    assert run.split.to_dict("list") == {"patient": ["patient1"], "part": ["valid"]}
    assert run.recipe["image_size"] == 32
    assert run.metrics["split"] == "valid"
    assert run.environment["data"]["name"] == "phantom"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("recipe.json", "{", "not a JSON file"),
        ("recipe.json", '{"architecture": "cnn"}', "head"),
        ("environment.json", "3", "weights"),
        ("environment.json", CONTENT["environment.json"].replace("name", "n"), "no name"),
        ("environment.json", changed("environment.json", parameters="many"), "parameters"),
        (
            "environment.json",
            changed("environment.json", data={"name": ["x"], "images": {}}),
            "no name",
        ),
        ("recipe.json", changed("recipe.json", body_parts="XR_HAND"), "no usable body_parts"),
        ("metrics.json", changed("metrics.json", table={}), "no usable table"),
        ("history.csv", "stage,loss\na,2\n", "no column epoch"),
        ("history.csv", "epoch,tune_loss\nlow,1\n", "low"),
        ("history.csv", "epoch,tune_loss\n", "no rows"),
        ("predictions.csv", 'path\n"a\n', "damaged"),
        ("predictions.csv", CONTENT["predictions.csv"].replace("0.25", "nan"), "outside 0 to 1"),
        ("predictions.csv", CONTENT["predictions.csv"].replace("0.25", "1.01"), "outside 0 to 1"),
        ("predictions.csv", CONTENT["predictions.csv"].replace(",1,0.25", ",x,0.25"), "x"),
        ("split.csv", "patient\npatient1\n", "no column part"),
    ],
)
def test_damaged_files_are_named_with_what_is_wrong_and_the_remedy(run, name, content, found):
    (run.folder / name).write_text(content)
    with pytest.raises(ValueError) as caught:
        getattr(run, name.partition(".")[0])
    assert str(caught.value).startswith(f"{run.folder / name}: ")
    assert found in str(caught.value)
    assert "restore" in str(caught.value)


def test_a_run_is_not_written_over_and_may_be_replaced(run):
    with pytest.raises(RunError, match="exists already"):
        write(run.folder, write_files)
    write(run.folder, lambda folder: write_files(folder, "new"), replace=True)
    assert (run.folder / "README.md").read_text() == "new"
    assert [path.name for path in run.folder.parent.iterdir()] == ["one"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), None])
def test_what_stood_there_stays_when_writing_fails(run, error):
    def fail(folder):
        write_files(folder, "new", leave_out=("metrics.json",))
        if error:
            raise error

    with pytest.raises(type(error) if error else RuntimeError):
        write(run.folder, fail, replace=True)
    assert (run.folder / "README.md").read_text() == ""
    assert [path.name for path in run.folder.parent.iterdir()] == ["one"]


def test_a_kill_between_the_two_renames_loses_no_run(run):
    models = run.folder.parent
    write(models / "onex", write_files)
    run.folder.rename(models / ".one.old")
    (models / ".one.writing-4567def_").mkdir()
    write_files(models / ".one.writing-4567def_", "new")
    clear_leftovers(run.folder)
    assert (run.folder / "README.md").read_text() == ""
    assert {path.name for path in models.iterdir()} == {"one", "onex"}
    (models / ".one.old").mkdir()  # killed after them: the new one stands
    write(run.folder, lambda folder: write_files(folder, "new"), replace=True)
    assert (run.folder / "README.md").read_text() == "new"
    assert {path.name for path in models.iterdir()} == {"one", "onex"}


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "..", "/x"])
def test_a_name_is_a_plain_folder_name(name):
    with pytest.raises(RunError, match="use a plain folder name"):
        refuse_name(name)


def test_another_folder_is_no_run_and_not_to_be_deleted(run, tmp_path):
    """The arguments in the wrong order: a folder of radiographs is named as the run."""
    (tmp_path / "study1").mkdir()
    (tmp_path / "study1" / "image1.png").touch()
    (tmp_path / "study1" / "README.md").touch()
    with pytest.raises(RunError, match="study1: no such run; complete runs under") as caught:
        Run.load(tmp_path / "study1", run.folder.parent)
    assert run.name in str(caught.value) and "delete" not in str(caught.value)
