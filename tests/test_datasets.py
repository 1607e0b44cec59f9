"""Which data set is used, in order of precedence, and what the first line of output says."""

import json
from pathlib import Path

import pytest
from layout import write_layout

from mura import phantom
from mura.data import (
    data_name,
    figures_folder,
    is_synthetic,
    phantom_folder,
    prepare,
    prepare_phantom,
)
from mura.data.sources import is_phantom
from mura.files import InputError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout as the current folder, without MURA and without a phantom."""
    (tmp_path / "checkout" / "src" / "mura").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("MURA_ROOT", raising=False)
    return tmp_path / "checkout"


@pytest.fixture
def drawn(monkeypatch):
    """The folders for which the default phantom was drawn, a tiny one in its place."""
    folders = []
    generate = phantom.generate

    def draw_a_tiny_one(root):
        folders.append(root)
        return generate(root, scale=0.0001, jobs=1, progress=False)

    monkeypatch.setattr(phantom, "generate", draw_a_tiny_one)
    return folders


def says(capsys, root, kind):
    return capsys.readouterr().out.splitlines()[0] == f"data: {root} ({kind})"


def test_an_argument_comes_before_the_environment_and_the_checkouts_data(
    checkout, tmp_path, monkeypatch, capsys
):
    named = write_layout(tmp_path / "named")
    write_layout(checkout / "data")
    monkeypatch.setenv("MURA_ROOT", str(write_layout(tmp_path / "environment")))
    assert prepare(str(named)) == named
    assert says(capsys, named, "radiographs")


def test_the_checkouts_mura_comes_before_the_phantom(checkout, drawn, capsys):
    write_layout(checkout / "data")
    (checkout / "data" / "phantom" / "MURA-v1.1").mkdir(parents=True)
    assert prepare() == Path("data/MURA-v1.1")
    assert says(capsys, "data/MURA-v1.1", "radiographs")
    assert not drawn


def test_without_any_the_phantom_is_drawn_once_and_said_to_be_synthetic(checkout, drawn, capsys):
    root = phantom_folder() / "MURA-v1.1"
    assert prepare() == root == Path("data/phantom/MURA-v1.1")
    assert says(capsys, root, "the embedded phantom, drawn now")
    assert (checkout / root / "train_image_paths.csv").is_file() and is_phantom(root)

    assert prepare() == root
    assert says(capsys, root, "the embedded phantom: synthetic images")
    assert drawn == [phantom_folder()]


def test_a_phantom_of_another_size_or_seed_is_not_taken_for_the_default():
    assert phantom_folder().name == "phantom"
    assert phantom_folder(seed=1).name == "phantom-seed1"
    assert phantom_folder(1, 0).name == "phantom-scale1"
    assert phantom_folder(0.02, 3) == phantom_folder().with_name("phantom-scale0.02-seed3")


def test_a_phantom_of_another_version_is_used_and_said_to_be_one(checkout, drawn, capsys):
    root = prepare()
    assert not capsys.readouterr().err
    facts = json.loads((root.parent / "phantom.json").read_text())
    (root.parent / "phantom.json").write_text(json.dumps(facts | {"version": 0}))
    assert prepare() == root
    assert f"{root.parent} was drawn by another version" in capsys.readouterr().err


def test_a_slip_in_the_phantoms_name_draws_nothing(checkout, drawn):
    with pytest.raises(FileNotFoundError, match=r"MURA-v1.0: no such data folder"):
        prepare("data/phantom/MURA-v1.0")
    assert not drawn


def test_a_missing_folder_of_the_environment_is_named_with_its_variable(
    checkout, tmp_path, monkeypatch, drawn, capsys
):
    """Neither the checkout's data nor a phantom takes its place."""
    write_layout(checkout / "data")
    monkeypatch.setenv("MURA_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"MURA_ROOT.*nowhere: no such data folder"):
        prepare()
    assert not drawn and not capsys.readouterr().out


def test_the_phantom_can_be_had_beside_mura(checkout, tmp_path, monkeypatch, drawn):
    write_layout(checkout / "data")
    monkeypatch.setenv("MURA_ROOT", str(write_layout(tmp_path / "environment")))
    root = prepare_phantom()
    assert root == Path("data/phantom/MURA-v1.1") and is_phantom(root)
    assert drawn == [phantom_folder()]
    assert prepare() == tmp_path / "environment" / "MURA-v1.1"


def test_figures_of_all_but_the_default_phantom_have_a_folder_of_their_own(tmp_path):
    mura = write_layout(tmp_path / "named")
    root = phantom.generate(tmp_path / "any", scale=0.0001, seed=2, jobs=1, progress=False)
    assert data_name(root) == "phantom-scale0.0001-seed2"
    assert figures_folder("../plots", data_name(root)) == Path("../plots") / data_name(root)
    facts = root.parent / "phantom.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"scale": 0.14, "seed": 0}))
    assert figures_folder("../plots", data_name(root)) == Path("../plots")
    assert figures_folder("../plots", data_name(mura)) == Path("../plots/MURA-v1.1")


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "x/y", "..", ".", ""])
def test_figures_stay_where_they_belong_whatever_a_run_calls_its_data(name):
    with pytest.raises(InputError, match=f"data set '{name}': no plain folder name"):
        figures_folder("plots", name)


@pytest.mark.parametrize(
    "facts",
    [
        5,
        {},
        {"scale": "x", "seed": 0},
        {"scale": True, "seed": 0},
        {"scale": float("nan"), "seed": 0},
        {"scale": 0.1},
        {"scale": 0.1, "seed": 0.5},
        {"scale": 0.1, "seed": -1},
    ],
)
def test_damaged_facts_of_a_phantom_are_named(tmp_path, facts):
    root = write_layout(tmp_path)
    (root.parent / "phantom.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"phantom\.json: no scale and seed.*restore or delete it"):
        data_name(root)


def test_what_only_looks_like_a_phantom_is_none(tmp_path):
    """A hospital's data may have a truth.csv beside them, and be of a phantom made of plastic."""
    root = write_layout(tmp_path / "phantom-hand")
    (root.parent / "truth.csv").touch()
    assert not is_phantom(root) and data_name(root) == "MURA-v1.1"
    assert not is_synthetic("phantom-hand") and not is_synthetic("phantoms")
    for scale, seed in ((0.14, 0), (1e-5, 0), (1, 12), (0.02, 3)):
        assert is_synthetic(phantom_folder(scale, seed).name)
