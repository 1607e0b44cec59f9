"""Which data set is used, in order of precedence, and what the first line of output says."""

import json
from pathlib import Path

import pytest
from layout import write_layout

from mura import phantom
from mura.data import data_name, data_root, figures_folder, is_synthetic, phantom_folder, prepare
from mura.files import InputError


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """An empty checkout as the current folder, without MURA and without a phantom."""
    (tmp_path / "checkout" / "src" / "mura").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
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


def test_the_data_folder_is_the_argument_else_the_environment_else_the_checkouts(
    checkout, home, monkeypatch, drawn, capsys
):
    assert data_root() == Path("data/phantom/MURA-v1.1")
    write_layout(checkout / "data")
    (checkout / "data" / "phantom" / "MURA-v1.1").mkdir(parents=True)
    assert prepare() == Path("data/MURA-v1.1")
    assert capsys.readouterr().out == "data: data/MURA-v1.1 (radiographs)\n"
    monkeypatch.setenv("MURA_ROOT", "~/MURA-v1.1")
    assert data_root() == home / "MURA-v1.1"
    named = write_layout(checkout / "named")
    assert prepare(str(named)) == named
    assert data_root("~/MURA-v1.1") == home / "MURA-v1.1"
    monkeypatch.chdir(named)
    assert data_root(".") == named
    assert not drawn


def test_without_data_the_phantom_is_drawn_once_and_said_to_be_synthetic(checkout, drawn, capsys):
    root = phantom_folder() / "MURA-v1.1"
    assert prepare() == root == Path("data/phantom/MURA-v1.1")
    assert capsys.readouterr().out == f"data: {root} (the embedded phantom, drawn now)\n"
    assert (checkout / root / "train_image_paths.csv").is_file()
    assert prepare() == root
    assert capsys.readouterr() == (f"data: {root} (the embedded phantom: synthetic images)\n", "")
    assert drawn == [phantom_folder()]
    facts = json.loads((root.parent / "phantom.json").read_text())
    (root.parent / "phantom.json").write_text(json.dumps(facts | {"version": 0}))
    assert prepare() == root
    assert f"another version of this project drew {root.parent}" in capsys.readouterr().err


def test_a_missing_folder_is_not_replaced_by_another(checkout, monkeypatch, drawn, capsys):
    with pytest.raises(FileNotFoundError, match=r"MURA-v1\.0: no such data folder"):
        prepare("data/phantom/MURA-v1.0")
    write_layout(checkout / "data")
    monkeypatch.setenv("MURA_ROOT", str(checkout / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such data folder.*MURA_ROOT"):
        prepare()
    assert not drawn and not capsys.readouterr().out


@pytest.mark.parametrize(
    ("scale", "seed", "name"),
    [
        (0.14, 0, "phantom"),
        (0.14, 1, "phantom-seed1"),
        (1, 0, "phantom-scale1"),
        (0.02, 3, "phantom-scale0.02-seed3"),
        (1e-5, 0, "phantom-scale1e-05"),
    ],
)
def test_each_phantom_has_a_name_of_its_own(tmp_path, scale, seed, name):
    assert phantom_folder(scale, seed).name == name
    assert is_synthetic(name)
    (tmp_path / "phantom.json").write_text(json.dumps({"scale": scale, "seed": seed}))
    assert data_name(tmp_path / "MURA-v1.1") == name


def test_data_that_only_look_like_a_phantom_are_not_one(tmp_path):
    """A hospital's data may have a truth.csv beside them, and show a phantom made of plastic."""
    root = write_layout(tmp_path / "phantom-hand")
    (root.parent / "truth.csv").touch()
    assert data_name(root) == "MURA-v1.1"
    assert not any(map(is_synthetic, ("phantom-hand", "phantoms", "MURA-v1.1")))


@pytest.mark.parametrize(
    "facts",
    [
        *(5, {}, {"scale": "x", "seed": 0}, {"scale": float("nan"), "seed": 0}, {"scale": 0.1}),
        *({"scale": 0.1, "seed": 0.5}, {"scale": 0.1, "seed": -1}),
    ],
)
def test_damaged_facts_of_a_phantom_are_named(tmp_path, facts):
    (tmp_path / "phantom.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"phantom\.json: no scale and seed.*restore or delete it"):
        data_name(tmp_path / "MURA-v1.1")


def test_only_the_default_phantoms_figures_are_written_where_git_sees_them():
    assert figures_folder("../plots", "phantom") == Path("../plots")
    for data in ("phantom-scale0.02", "MURA-v1.1"):
        assert figures_folder("../plots", data) == Path("../plots") / data


@pytest.mark.parametrize("name", ["/tmp/x", "../x", "x/y", "..", ".", ""])
def test_a_runs_name_for_its_data_cannot_lead_figures_elsewhere(name):
    with pytest.raises(InputError, match=f"data set '{name}': not a plain folder name"):
        figures_folder("plots", name)
