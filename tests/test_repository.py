"""The repository itself: what stands where, and what must never be committed."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mura.runs import Run

ROOT = Path(__file__).parents[1]
# In pieces, so that this file does not hold what it forbids.
REGISTRY_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "deb.debian" + ".org", "npmjs" + ".org"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRAINING = ("CNN", "VGG", "ResNet", "DenseNet", "Inception", "Modern", "Problems")


def tracked_files() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout: clone the repository to check what it tracks")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_registry_host():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in tracked_files()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_the_lock_names_no_index_and_matches_the_pipfile():
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    assert lock["_meta"]["sources"] == []
    groups = [group for name, group in lock.items() if name != "_meta"]
    assert not any("index" in package for group in groups for package in group.values())
    assert "[[source]]" not in re.sub(r"#.*", "", (ROOT / "Pipfile").read_text())
    names = set(lock["default"])
    for name in (
        *("tensorflow", "keras", "pandas", "numpy", "matplotlib", "seaborn", "scikit-learn"),
        *("pillow", "jupyter", "xray-classification"),
    ):
        assert name in names, name
    assert {"gpu", "jax", "app", "onnx", "cluster", "develop"} <= set(lock)


def locked_for(**environment: str) -> set[str]:
    """The packages of the lock that `pipenv sync --dev` installs in such an environment."""
    lock = json.loads((ROOT / "Pipfile.lock").read_text())
    return {
        canonicalize_name(name)
        for name, package in (lock["default"] | lock["develop"]).items()
        if "markers" not in package or Marker(package["markers"]).evaluate(environment)
    }


def needed_by(names: set[str], **environment: str) -> set[str]:
    """Those packages and what they need in turn, of what is installed here and can be asked."""
    waiting, seen = {(name, "") for name in names}, set()
    while waiting:
        name, extra = waiting.pop()
        seen.add((name, extra))
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # another system's
            continue
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker is None or marker.evaluate(environment | {"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting |= {(needed, asked) for asked in {"", *requirement.extras}} - seen
    return {name for name, _ in seen}


def test_the_lock_holds_what_its_packages_need_on_a_mac():
    """A lock made on Linux may leave it out, and `pipenv sync` installs nothing else."""
    mac = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}
    locked = locked_for(**mac)
    assert needed_by(locked, **mac) - locked == set()


def test_no_locked_package_is_left_out_of_an_early_python_3_11():
    """Debian 12 has 3.11.2, and `pipenv sync` passes over what a marker excludes in silence."""
    late, early = (locked_for(python_full_version=version) for version in ("3.11.14", "3.11.0"))
    assert late - early == set()


def test_the_package_needs_at_least_the_versions_that_the_pipfile_does():
    def lowest(asked: str | dict[str, str]) -> set[str]:
        asked = asked if isinstance(asked, str) else asked.get("version", "")
        return {str(part) for part in SpecifierSet(asked) if part.operator == ">="}

    pipfile = tomllib.loads((ROOT / "Pipfile").read_text())["packages"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = {each.name: each for each in map(Requirement, project["dependencies"])}
    for name, requirement in requirements.items():
        assert lowest(str(requirement.specifier)), name
        if name in pipfile:
            assert lowest(str(requirement.specifier)) == lowest(pipfile[name]), name
    assert "4.0" not in requirements["keras"].specifier


def test_no_tracked_file_is_large_or_mura_data():
    for path in tracked_files():
        assert path.stat().st_size < 2_000_000, path
        assert not re.search(r"(train|valid)_(image_paths|labeled_studies)\.csv$", path.name), path
        assert path.suffix not in (".keras", ".h5", ".npz"), path
        if path.suffix == ".tflite":
            assert path.with_suffix(".md").is_file() and path.stat().st_size <= 1_500_000, path
        if path.suffix in (".png", ".jpg"):
            assert path.parent == ROOT / "plots", path


def test_no_tracked_file_holds_a_path_of_one_machine():
    pattern = re.compile(rb"/(home|Users|root|work|tmp)/[A-Za-z0-9._-]+")
    for path in tracked_files():
        if path.suffix != ".png" and "tests" not in path.relative_to(ROOT).parts:
            found = pattern.search(path.read_bytes())
            assert not found, f"{path}: {found[0]!r}"


@pytest.mark.parametrize("module", ["data.manifest", "evaluation", "phantom"])
def test_light_modules_import_neither_tensorflow_nor_keras(module):
    code = (
        f"import mura.{module}, sys; "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_kernels_the_device_and_the_export_name_tensorflow():
    importing = re.compile(r"^\s*(import tensorflow|from tensorflow)", re.MULTILINE)
    files = (ROOT / "src" / "mura").rglob("*.py")
    found = {path.name for path in files if importing.search(path.read_text())}
    assert found <= {"fused.py", "depthwise.py", "device.py", "export.py"}


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed: `make setup` installs it")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_each_part_of_the_package_is_named_where_contributors_read():
    entries = {path.stem for path in (ROOT / "src" / "mura").iterdir() if path.name[0] not in "._"}
    first = (ROOT / "CONTRIBUTING.md").read_text().split("## ")[0]
    assert entries - set(re.findall(r"\w+", first)) - {"__init__", "__pycache__"} == set()


def test_an_architecture_of_ones_own_trains_as_contributing_says(tmp_path, phantom_root):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = text.split("<!-- architecture -->\n")[1]
    code = recipe.split("```python\n")[1].split("```")[0]
    train = recipe.split("```console\n$ .venv/bin/mura ")[1].split("\n")[0]
    source = shutil.copytree(ROOT / "src", tmp_path / "src")
    with (source / "mura" / "models" / "architectures.py").open("a") as file:
        file.write(f"\n\n{code}")
    command = [sys.executable, "-m", "mura.cli", *train.split(), "--image-size", "32"]
    command += ["--epochs", "1", "--root", phantom_root, "--models", tmp_path / "models"]
    environment = os.environ | {"PYTHONPATH": str(source), "MURA_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Run.load("small", tmp_path / "models").recipe["architecture"] == "small"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_short_and_explain_each_step(path):
    cells = json.loads(path.read_text())["cells"]
    kinds = "".join(cell["cell_type"][0] for cell in cells)
    assert kinds[0] == "m" and "".join(cells[0]["source"]).startswith("# ")
    assert kinds.count("c") <= 16 and "ccc" not in kinds
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "parameters" in code[0]["metadata"].get("tags", [])
    assert len(ast.parse("".join(code[0]["source"])).body) <= 8
    for cell in code:
        source = "".join(cell["source"])
        assert len(source.splitlines()) <= 25, source
        assert not re.search(r"^\s*(def|class) |sys\.path", source, re.MULTILINE), source


@pytest.mark.parametrize("name", TRAINING)
def test_training_notebooks_show_keras(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any(".compile(" in source and ".fit(" in source for source in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_executed(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for output in [output for cell in code for output in cell["outputs"]]:
        assert output["output_type"] != "error", output.get("ename")
        # where the committed run had no network, its notebook says so; nothing else is wrong
        if output.get("name") == "stderr":
            for line in "".join(output["text"]).splitlines():
                assert line.startswith("UserWarning: ImageNet weights cannot be"), line
