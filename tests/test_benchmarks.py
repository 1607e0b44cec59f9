"""The benchmarks' own logic at a tiny size; nothing here looks at how long anything takes."""

import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mura import data

FOLDER = Path(__file__).parent.parent / "benchmarks"


def constant_of_process():
    """Return a function that returns the number of the process it was made in."""
    number = os.getpid()
    return lambda: number


@pytest.fixture
def script(monkeypatch):
    """Import a script of benchmarks/ by its name, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_candidates_are_measured_in_turn_and_compared_by_medians(script):
    measure = script("measure")
    calls = []
    answers = {"slow": iter([4.0, 100.0, 5.0]), "fast": iter([2.0, 1.0, 3.0])}

    def candidate(name):
        def call():
            calls.append(name)
            return next(answers[name])

        return call

    figures = measure.interleaved({name: candidate(name) for name in answers}, repetitions=3)
    assert calls == ["slow", "fast"] * 3
    result = measure.table("Title", "s", figures, "slow", "A note.")
    # medians 5 and 2
    assert [row["ratio"] for row in result["rows"]] == [1.0, 0.4]
    assert result["rows"][0] | {"name": ""} == {
        "name": "", "median": 5.0, "low": 4.0, "high": 100.0, "count": 3, "ratio": 1.0,
    }  # fmt: skip
    text = measure.markdown(result)
    assert "| fast | 2.00 | 1.00 to 3.00 | 0.400 |" in text
    assert text.rstrip().endswith("A note.")
    once = measure.table("Title", "s", {"slow": [2000.0]}, "slow")
    assert "| slow | 2,000 | measured once | 1.00 |" in measure.markdown(once)


@pytest.mark.parametrize(
    ("aim", "said"),
    [
        (("at least", 1.8, "ratio"), "ratio at least 1.8, here 2.00: met."),
        (("at least", 1.9, "ratio"), "ratio at least 1.9, here 2.00: within the spread."),
        (("at least", 2.6, "ratio"), "ratio at least 2.6, here 2.00: **missed**."),
        (("at most", 1.5, "ratio"), "ratio at most 1.5, here 2.00: **missed**."),
        (("at most", 26, "median"), "median at most 26, here 20.0: met."),
        (("at most", 15, "median"), "median at most 15, here 20.0: **missed**."),
    ],
)
def test_a_table_says_whether_its_aim_was_met(script, aim, said):
    figures = {"slow": [10.0, 10.0, 10.0], "fast": [18.1, 20.0, 25.0]}
    result = script("measure").table("T", "s", figures, "slow", "A note.", ("fast", *aim))
    assert result["note"] == f"A note. Aim of *fast*: {said}"


def test_candidates_apart_share_no_process_and_a_failure_is_none_of_them(script):
    measure = script("measure")
    with measure.apart({"one": (constant_of_process,), "two": (constant_of_process,)}) as ways:
        figures = measure.interleaved(ways, repetitions=2)
    [one], [two] = (set(values) for values in figures.values())
    assert len({one, two, os.getpid()}) == 3
    with (
        pytest.raises(ValueError, match="no number"),
        measure.apart({"broken": (int, "no number")}),
    ):
        pytest.fail("a candidate was handed out that could not be prepared")


def test_results_are_handed_on_as_json(script, tmp_path, monkeypatch, capsys):
    measure = script("measure")
    file = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["script", "--json", str(file)])
    result = measure.table("Title", "s", {"one": [1.0]}, "one")
    measure.report(result)
    assert json.loads(file.read_text()) == [result]
    assert "### Title" in capsys.readouterr().out


def test_the_machine_is_described_without_naming_it(script, tmp_path, monkeypatch):
    measure = script("measure")
    monkeypatch.setattr(measure, "GPUS", tmp_path)
    for number, model in enumerate(("Tesla T4", "NVIDIA H100 80GB HBM3")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text(f"Model: \t {model}\nIRQ:   \t 16\n")
    text = measure.machine()
    assert os.uname().nodename not in text
    assert "cores, Tesla T4, NVIDIA H100 80GB HBM3, Python" in text and ", commit " in text
    assert f"keras {importlib.metadata.version('keras')}" in text


def test_changed_code_is_told_from_changed_figures(script, tmp_path, monkeypatch):
    measure = script("measure")
    monkeypatch.setattr(measure, "__file__", str(tmp_path / "benchmarks" / "measure.py"))
    for name in ("benchmarks/measure.py", "src/code.py", "plots/figure.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    assert measure.commit() == "unknown"
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "plots" / "figure.png").write_text("2")
    clean = measure.commit()
    assert len(clean) >= 7 and "dirty" not in clean
    (tmp_path / "src" / "code.py").write_text("2")
    assert measure.commit() == f"{clean}-dirty"


def test_a_failed_script_leaves_the_results_page_as_it_was(script, tmp_path, monkeypatch):
    run = script("run")
    (tmp_path / "good.py").write_text(
        "import json, sys, pathlib\n"
        "row = {'name': 'this project', 'median': 8.5, 'low': 8, 'high': 9, 'count': 2}\n"
        "row |= {'ratio': 0.25}\n"
        "rows = [row, row | {'name': \"plain fit, Keras's default\", 'median': 34.0}]\n"
        'title = "A process\'s first training step, densenet121"\n'
        "result = {'title': title, 'unit': 's', 'reference': 'n', 'note': '', 'rows': rows}\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps([result]))\n"
    )
    (tmp_path / "bad.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "SCRIPTS", ("good", "bad"))
    assert run.main() == 1
    assert not (tmp_path / "README.md").exists()
    assert run.main(["good"]) == 0
    page = (tmp_path / "README.md").read_text()
    # what was found comes first, in the figures of the tables
    found = "first training step 8.50 s after the start of Python; with Keras's default that takes"
    assert found in page.splitlines()[2] and "34.0 s" in page.splitlines()[2]
    assert page.splitlines()[3] == ""
    assert "### A process's first training step" in page and "do not edit" in page
    assert "Not measured in this run: `bad.py`." in page


def test_what_other_processors_gained_stays_on_the_page(script, tmp_path):
    run = script("run")
    file = tmp_path / run.RECORDS
    file.write_text(
        "processor,measured,network,precision,gain\n"
        '"Old one, 2 cores",2026-01-02,vgg16,mixed_bfloat16,1.9\n'
        f'"{run.processor()}",2026-01-02,vgg16,float32,1.1\n'
    )
    kept = run.with_earlier([], file)
    assert dict(zip(kept["processor"], kept["gain"], strict=True)) == {
        "Old one, 2 cores": 1.9,
        run.processor(): 1.1,
    }
    new = {"network": "vgg16", "precision": "float32", "gain": 1.25}
    rows = run.with_earlier([new, new | {"network": "cnn", "gain": 3.0}], file)
    assert sorted(rows["gain"]) == [1.25, 1.9, 3.0]
    table = run.processors_table(rows)
    assert "| Old one, 2 cores | mixed_bfloat16 | 2026-01-02 |  | 1.90 |" in table
    today = datetime.date.today().isoformat()
    assert f"| {run.processor()} | float32 | {today} | 3.00 | 1.25 |" in table
    assert run.with_earlier([], tmp_path / "none.csv").empty


def test_every_script_is_run_or_named_as_left_out(script):
    run = script("run")
    for path in FOLDER.glob("*.py"):
        assert path.stem in (*run.SCRIPTS, "run", "measure") or f"`{path.name}`" in run.HEAD
    assert all((FOLDER / f"{name}.py").is_file() for name in run.SCRIPTS)
    assert len(run.FINDINGS) == 5


@pytest.mark.parametrize("times", [1, 2])
def test_generated_lists_are_of_muras_size(times, script, tmp_path):
    scale = script("scale")
    manifest = data.read(scale.write_lists(tmp_path, times))
    # the dataset paper's Table 1 and the lists themselves: 36,808 and 3,197 images
    assert dict(manifest["split"].value_counts()) == {"train": 36808 * times, "valid": 3197 * times}
    assert set(manifest["body_part"]) == set(data.BODY_PARTS)
    assert manifest["label"].notna().all()


def test_a_sparse_cache_is_walked_in_whole_and_takes_no_space(script, tmp_path):
    scale = script("scale")
    file = scale.sparse(tmp_path / "cache.npy", images=200, side=320)
    assert file.stat().st_size > 200 * 320 * 320
    assert file.stat().st_blocks * 512 < 1e6
    assert scale.peak_megabytes(file, images=200) > 20  # an interpreter's own


def figures_of_findings(run, result):
    """The number of findings' figures that a result's rows give, by the names of both."""
    names = {row["name"] for row in result["rows"]}
    wanted = [want for _, *figures in run.FINDINGS for want in figures]
    return sum(result["title"].startswith(title) and name in names for title, name, _ in wanted)


@pytest.mark.parametrize("way", ["DEFAULT", "OURS"])
def test_training_is_measured_in_every_way(way, script):
    training = script("training")
    assert training.candidate("cnn", getattr(training, way), 32, 4, 1)() > 0


@pytest.mark.slow
def test_training_is_compared_in_processes_apart(script, monkeypatch):
    training, run = script("training"), script("run")
    monkeypatch.setitem(training.SIZES, "cnn", (32, 4, 1))
    result = training.compared("cnn")
    assert [row["name"] for row in result["rows"]] == [training.DEFAULT, training.OURS]
    assert figures_of_findings(run, result) == 1
    assert result["gain"]["network"] == "cnn" and result["gain"]["gain"] > 0


@pytest.mark.parametrize("way", ["plain", "project"])
def test_the_first_step_is_made_in_both_ways(script, way):
    script("first_step").step("cnn", 32, way)


@pytest.mark.slow
def test_feeding_and_building_are_measured_on_a_tiny_phantom(script):
    fed, built = script("input").measured(images=60, repetitions=1)
    assert figures_of_findings(script("run"), fed) == 2
    assert all(row["median"] > 0 for row in fed["rows"] + built["rows"])


def test_the_bootstrap_is_measured_at_a_tiny_size(script):
    result = script("evaluation").measured(models=2, resamples=20)
    assert figures_of_findings(script("run"), result) == 1


def test_the_intervals_of_patients_are_the_widest(script, capsys):
    coverage = script("interval_coverage")
    studies, images = coverage.simulate(60, np.random.default_rng(0))
    assert len(images) == coverage.VIEWS * len(studies)
    found = coverage.intervals(studies, images, seed=0)
    width = {unit: high - low for unit, (low, high) in found.items()}
    assert 0 < width["images"] < width["patients"]
    coverage.main(simulations=2, patients=20)
    assert "patients" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cold_answer_is_measured(script, phantom_root, tmp_path):
    image = phantom_root.parent / data.read(phantom_root)["path"].iloc[0]
    result = script("prediction").answered("cnn", 32, image, tmp_path)
    assert figures_of_findings(script("run"), result) == 2


def test_the_gpu_benchmark_runs_its_steps_at_a_tiny_size(script):
    gpu = script("gpu_training")
    result = gpu.measured("cnn", 32, 8, 24, scale=0.001)
    assert [row["name"] for row in result["rows"]] == [gpu.LIMIT, gpu.OURS]
    assert all(row["median"] > 0 for row in result["rows"])
    assert "An epoch of MURA (36,808 images) takes " in result["note"]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: `make jax` adds it"
)
def test_with_jax_the_training_path_needs_no_tensorflow():
    code = """
import sys

class Hidden:  # as where it is not installed
    def find_spec(self, name, *_):
        if name == "tensorflow":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import gpu_training as gpu
gpu.measured("cnn", 32, 8, 16, scale=0.001)
import keras
print(keras.backend.backend(), "tensorflow" in sys.modules)
"""
    places = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": places}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["jax", "False"]


@pytest.mark.slow
def test_true_and_shuffled_labels_are_both_trained_on(script, phantom_root, tmp_path):
    """Only that both are trained and shown: this is too short to learn from."""
    table = script("learnability").measured(phantom_root, tmp_path, epochs=1, image_size=32)
    assert list(table["model"]) == ["labels as they are", "labels shuffled"]


def test_precisions_are_held_against_seed_noise(script, phantom_root, tmp_path):
    precision = script("precision")
    first, other = [0.80, 0.82, 0.84], [0.81, 0.83, 0.85]
    # both have s = 0.02, so the noise of two means of three is 0.02 * sqrt(2 / 3) = 0.0163
    text = precision.verdict({"one": first, "two": other})
    assert "+0.0100, within twice its seed noise (0.0163)" in text
    worse = list(np.array(first) - 0.1)
    assert "-0.1000, beyond" in precision.verdict({"one": first, "two": worse})


@pytest.mark.slow
def test_each_seed_is_trained_in_both_precisions(script, phantom_root, tmp_path):
    small = {"epochs": 1, "image_size": 32}
    found = script("precision").compare(phantom_root, tmp_path, "cnn", 1, **small)
    assert all(len(values) == 1 and 0 <= values[0] <= 1 for values in found.values())
