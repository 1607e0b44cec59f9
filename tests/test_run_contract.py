"""What a run may be called, and what its JSON files must hold."""

import json

import pytest
from made_runs import make_run, predictions

from mura.run_contract import content_fault, environment_fault, naming_fault
from mura.runs import RUN_FILES, write_run


def write_empty(folder):
    for name in RUN_FILES:
        (folder / name).touch()


@pytest.mark.parametrize("letter", ["x", "é", "骨"])
def test_the_longest_name_can_be_written_and_no_longer_one(tmp_path, letter):
    name = letter * (237 // len(letter.encode()))  # bytes count, not letters
    name += "x" * (237 - len(name.encode()))
    assert naming_fault(name, None) == ""
    assert write_run(tmp_path / name, write_empty).name == name
    run = write_run(tmp_path / name, write_empty, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    assert "1 bytes too long" in naming_fault(f"{name}x", None)
    with pytest.raises(OSError, match="too long"):
        write_run(tmp_path / f"{name}x", write_empty)


@pytest.mark.parametrize("name", ["a/b", "../a", "..", ".", ".hidden", "a/"])
def test_a_name_is_that_of_a_folder(name):
    assert "plain folder name" in naming_fault(name, None)


def test_what_is_no_text_is_spelled_out():
    assert naming_fault("r\udcf6ntgen", None).startswith("run name r\\xf6ntgen: its bytes are")
    assert naming_fault("röntgen", "röntgen") == ""
    assert naming_fault("cnn", "/data/r\udcf6ntgen").startswith("weights /data/r\\xf6ntgen: the")


def test_what_a_run_writes_has_no_fault(phantom_root, tmp_path):
    run = make_run(tmp_path, "run", predictions(phantom_root, 1.0))
    facts = json.loads((run.folder / "environment.json").read_text())
    assert environment_fault(facts) == ""
    assert facts == run.environment
    for name in set(facts) - {"best_tune_loss", "versions", "finished"}:  # which nobody reads
        assert environment_fault({key: facts[key] for key in facts if key != name}) == f"no {name}"
        assert f"{name} is " in environment_fault(facts | {name: (1,)})


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        ("", "text", True),
        (None, "text", False),
        (None, "text or null", True),
        (0, "a whole number of 0 or more", True),
        (-1, "a whole number of 0 or more", False),
        (1.0, "a whole number of 0 or more", False),
        (True, "a whole number of 0 or more", False),
        (2**63, "a whole number of 0 or more", False),
        (0.5, "a number of 0 or more", True),
        (3, "a number of 0 or more", True),
        (float("nan"), "a number of 0 or more", False),
        (float("inf"), "a number of 0 or more", False),
        (["a"], "a list of text", True),
        ("a", "a list of text", False),
        (["a", 1], "a list of text", False),
        ({"fit": 1, "tune": 0}, "counts with one of fit", True),
        ({"fit": 1, "tune": None}, "counts with one of fit", False),
        ({"tune": 1}, "counts with one of fit", False),
    ],
)
def test_a_value_is_of_its_kind_or_named(value, kind, fits):
    fault = content_fault({"key": value}, {"key": kind})
    if value is None and not fits:
        assert fault == f"key is None, expected {kind}"
    else:
        assert fault == ("" if fits else f"key is {value!r}, expected {kind}")


def test_what_may_be_null_may_be_absent_and_nothing_else():
    kinds = {"name": "text", "start": "text or null", "count": "a whole number of 0 or more"}
    for content in ({}, [], None, "name"):
        assert content_fault(content, kinds) == "no name, count"
    assert content_fault({"name": "a", "count": 1}, kinds) == ""
    long = content_fault({"name": ["a" * 1000], "count": 1}, kinds)
    assert long.startswith("name is ['aaa") and len(long) < 100
