"""Which runs are compared on a data set, and which one stands for all."""

import shutil

import pytest
from made_runs import make_run, predictions

from mura.evaluation import candidates
from mura.files import InputError, write_json
from mura.runs import list_runs


def test_the_best_on_tune_stands_for_all(phantom_root, tmp_path):
    with pytest.raises(InputError, match="no complete runs yet; `mura train cnn` makes one"):
        candidates.best_run(tmp_path, phantom_root)
    sure = predictions(phantom_root, 9.0)
    make_run(tmp_path, "able", predictions(phantom_root, 3.0), finished="2026-01-01")
    make_run(tmp_path, "newest", predictions(phantom_root, 0.0), finished="2026-03-01")
    assert candidates.best_run(tmp_path, phantom_root).name == "able"
    # on its valid patients alone, on one body part, or on other data it may be as good as it likes
    lucky = predictions(phantom_root, 0.0)
    lucky.loc[lucky["split"] == "valid", "probability"] = sure["probability"]
    make_run(tmp_path, "lucky", lucky, finished="2026-02-01")
    wrist = predictions(phantom_root, 9.0, body_parts=["XR_WRIST"])
    make_run(tmp_path, "wrist", wrist, finished="2026-02-01")
    other = make_run(tmp_path, "other", sure, finished="2026-02-01")
    facts = other.environment | {"data": other.environment["data"] | {"name": "MURA-v1.1"}}
    write_json(other.folder / "environment.json", facts)
    assert candidates.best_run(tmp_path, phantom_root).name == "able"
    (tmp_path / "able" / "predictions.csv").write_text("damaged")
    assert candidates.best_run(tmp_path, phantom_root).name in ("lucky", "newest")
    for run in list_runs(tmp_path):
        (run.folder / "predictions.csv").write_text("damaged")
    with pytest.raises(InputError, match="cannot be evaluated"):
        candidates.best_run(tmp_path, phantom_root)


def test_the_best_run_is_one_of_the_data_at_hand(phantom_root, tmp_path):
    models, elsewhere = tmp_path / "models", tmp_path / "MURA-v1.1"
    make_run(models, "drawn", predictions(phantom_root, 1.0), finished="2026-01-01")
    table = predictions(phantom_root, 9.0)
    other = make_run(models, "radiographs", table, finished="2026-03-01")
    facts = other.environment | {"data": other.environment["data"] | {"name": "MURA-v1.1"}}
    write_json(other.folder / "environment.json", facts)
    # whichever is better or newer, so that an example's files are there
    assert candidates.best_run(models, phantom_root).name == "drawn"
    elsewhere.mkdir()
    assert candidates.best_run(models, elsewhere).name == "radiographs"
    # without such a folder, or a run of it, of the data of the last finished one
    facts["finished"] = "2025-01-01"
    write_json(other.folder / "environment.json", facts)
    assert candidates.best_run(models, elsewhere).name == "radiographs"
    assert candidates.best_run(models, tmp_path / "nowhere" / "MURA-v1.1").name == "drawn"
    (tmp_path / "own").mkdir()
    assert candidates.best_run(models, tmp_path / "own").name == "drawn"


def test_runs_that_were_made_for_another_question_do_not_stand_for_all(phantom_root, tmp_path):
    """Of one folder, before its studies were labelled anew."""
    make_run(tmp_path, "now", predictions(phantom_root, 1.0), finished="2026-01-01")
    before = predictions(phantom_root, 9.0)
    before["label"], before["probability"] = 1 - before["label"], 1 - before["probability"]
    make_run(tmp_path, "before", before, finished="2026-02-01")
    assert candidates.best_run(tmp_path, phantom_root).name == "now"


@pytest.mark.parametrize(
    "damage", [{"data": {"name": "x", "images": {}}}, {"parameters": "many"}, {"finished": 7}]
)
def test_a_run_whose_facts_are_of_another_kind_is_left_out_with_the_reason(
    phantom_root, tmp_path, damage
):
    good = make_run(tmp_path, "good", predictions(phantom_root, 1.0))
    bad = make_run(tmp_path, "bad", predictions(phantom_root, 9.0))
    write_json(bad.folder / "environment.json", bad.environment | damage)
    runs, _, _, left_out = candidates.evaluated(list_runs(tmp_path), tmp_path)
    assert list(runs) == ["good"]
    file = tmp_path / "bad" / "environment.json"
    assert left_out["bad"].startswith(f"cannot be evaluated: {file}: damaged (")
    assert candidates.best_run(tmp_path, phantom_root).name == good.name


def test_a_run_that_does_not_say_when_it_finished_is_not_the_last(phantom_root, tmp_path):
    for name, finished in (("a", "2026-01-01"), ("b", None)):
        run = make_run(tmp_path, name, predictions(phantom_root, 1.0), finished=finished)
        facts = run.environment | {"data": run.environment["data"] | {"name": name}}
        write_json(run.folder / "environment.json", facts)
    assert candidates.best_run(tmp_path, tmp_path / "nowhere").name == "a"


def test_faulty_lists_at_hand_do_not_hide_the_runs(phantom_root, tmp_path):
    root = shutil.copytree(phantom_root.parent, tmp_path / "data") / phantom_root.name
    make_run(tmp_path / "models", "good", predictions(phantom_root, 1.0))
    labels = root / "valid_labeled_studies.csv"
    labels.write_text(labels.read_text().replace(",1", ",7"))
    assert candidates.best_run(tmp_path / "models", root).name == "good"
