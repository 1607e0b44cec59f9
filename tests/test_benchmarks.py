"""The benchmarks' own logic at a tiny size; nothing here looks at how long anything takes."""

import contextlib
import datetime
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mura.data import BODY_PARTS
from mura.data import read as read_manifest
from mura.training import device as compute

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
    assert "| fast | 2 | 1 to 3 | 0.40 |" in text
    assert text.rstrip().endswith("A note.")
    once = measure.table("Title", "s", {"slow": [2.0]}, "slow")
    assert "| slow | 2 | measured once | 1.00 |" in measure.markdown(once)


@pytest.mark.parametrize(
    ("bound", "limit", "said"),
    [
        ("at least", 1.8, "Aim of *fast*: at least 1.8, here 2.000: met."),
        ("at least", 1.9, "Aim of *fast*: at least 1.9, here 2.000: within the spread."),
        ("at least", 2.6, "Aim of *fast*: at least 2.6, here 2.000: **missed**."),
        ("at most", 1.5, "Aim of *fast*: at most 1.5, here 2.000: **missed**."),
        ("at most", 2.5, "Aim of *fast*: at most 2.5, here 2.000: met."),
    ],
)
def test_a_table_says_whether_its_aim_was_met(script, bound, limit, said):
    figures = {"slow": [10.0, 10.0, 10.0], "fast": [18.1, 20.0, 25.0]}
    result = script("measure").table("T", "s", figures, "slow", "A note.", ("fast", bound, limit))
    assert result["note"] == f"A note. {said}"


def test_candidates_apart_share_no_process(script):
    measure = script("measure")
    # what a process prepares: a function that returns the process's number
    with measure.apart({"one": (constant_of_process,), "two": (constant_of_process,)}) as ways:
        figures = measure.interleaved(ways, repetitions=2)
    [one], [two] = (set(values) for values in figures.values())
    assert len({one, two, os.getpid()}) == 3


def test_a_candidate_that_fails_apart_is_named(script):
    measure = script("measure")
    with (
        pytest.raises(RuntimeError, match="broken: the process that measures it ended"),
        measure.apart({"good": (constant_of_process,), "broken": (int, "no number")}),
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


def test_the_machine_is_described_without_naming_it(script):
    measure = script("measure")
    assert os.uname().nodename not in measure.machine()
    assert "cores" in measure.machine() and ", commit " in measure.machine()
    assert f"keras {importlib.metadata.version('keras')}" in measure.machine()


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


def test_the_machine_is_described_with_its_gpus(script, tmp_path, monkeypatch):
    measure = script("measure")
    monkeypatch.setattr(measure, "GPUS", tmp_path)
    monkeypatch.setattr(measure.compute, "WSL_DRIVER", tmp_path / "libcuda.so.1")
    assert measure.accelerators() == []
    (tmp_path / "libcuda.so.1").touch()
    assert measure.accelerators() == ["NVIDIA GPU"]
    for number, model in enumerate(("Tesla T4", "NVIDIA H100 80GB HBM3")):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 16\n")
    assert f"{measure.processor()}, Tesla T4, NVIDIA H100 80GB HBM3, Python" in measure.machine()


def test_a_failed_script_leaves_the_results_page_as_it_was(script, tmp_path, monkeypatch):
    run = script("run")
    (tmp_path / "good.py").write_text(
        "import json, sys, pathlib\n"
        "row = {'name': 'n', 'median': 1, 'low': 1, 'high': 1, 'count': 1, 'ratio': 1}\n"
        "result = {'title': 'T', 'unit': 's', 'reference': 'n', 'note': '', 'rows': [row]}\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps([result]))\n"
    )
    (tmp_path / "bad.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "SCRIPTS", ("good", "bad"))
    assert run.main() == 1
    assert not (tmp_path / "README.md").exists()
    monkeypatch.setattr(run, "SCRIPTS", ("good",))
    assert run.main() == 0
    page = (tmp_path / "README.md").read_text()
    assert "### T" in page
    assert "do not edit" in page


def test_what_other_processors_gained_stays_on_the_page(script, tmp_path):
    run = script("run")
    file = tmp_path / run.RECORDS["gain"]
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


@pytest.mark.parametrize("times", [1, 2])
def test_generated_lists_are_of_muras_size(times, script, tmp_path):
    scale = script("scale")
    manifest = read_manifest(scale.write_lists(tmp_path, times))
    # the dataset paper's Table 1 and the lists themselves: 36,808 and 3,197 images
    assert dict(manifest["split"].value_counts()) == {"train": 36808 * times, "valid": 3197 * times}
    assert set(manifest["body_part"]) == set(BODY_PARTS)
    assert manifest["label"].notna().all()


def test_a_sparse_cache_is_walked_in_whole_and_takes_no_space(script, tmp_path):
    scale = script("scale")
    file = scale.sparse(tmp_path / "cache.npy", images=200, side=320)
    assert file.stat().st_size > 200 * 320 * 320
    assert file.stat().st_blocks * 512 < 1e6
    assert scale.peak_megabytes(file, images=200) > 20  # an interpreter's own


def test_the_gpu_benchmark_runs_its_steps_at_a_tiny_size(script):
    gpu = script("gpu_training")
    setting = gpu.Setting("cnn", 32, 8, 24)
    [result] = gpu.measure_all((setting,), "cpu", repetitions=1)
    # the limit's name is the backend's: TensorFlow's data lies in the host's memory
    limit = {"tensorflow": "one batch in the host's memory (tf.data)"}.get(
        keras.backend.backend(), "data already on the device"
    )
    assert [row["name"] for row in result["rows"]] == [limit, "this project, from the cache"]
    assert all(row["median"] > 0 for row in result["rows"])
    assert "say nothing about a GPU" in result["note"]


def test_without_a_gpu_its_benchmark_measures_nothing_and_says_so(script, monkeypatch, capsys):
    gpu = script("gpu_training")
    monkeypatch.setattr("mura.training.train.device.device_kind", lambda: "cpu")
    monkeypatch.setattr(sys, "argv", ["gpu_training.py"])
    gpu.main()
    page = capsys.readouterr().out
    assert "GPU row is still open" in page
    assert "images/s" not in page


def test_the_gpu_benchmark_says_how_long_an_epoch_of_mura_takes(script):
    gpu = script("gpu_training")
    figures = {gpu.ON_DEVICE: [1000.0], "this project, from the cache": [736.16]}
    result = gpu.describe(gpu.ON_GPU[0], "gpu", figures, {})
    assert "36,808 images) takes 50 s" in result["note"]
    assert result["rows"][1]["ratio"] == pytest.approx(0.73616)


def _out_of_memory(*_):
    raise RuntimeError("out of memory\nand a long traceback")


def _answers(*figures):
    return dict(zip(("limit", "this project, from the cache"), figures, strict=True))


@pytest.mark.parametrize("late", [False, True], ids=["prepared", "measured"])
def test_on_a_gpu_what_fails_is_named_and_the_others_are_shown(script, monkeypatch, late):
    gpu = script("gpu_training")
    small, large = gpu.Setting("densenet169", 32, 8, 8), gpu.Setting("vgg16", 32, 8, 8)

    def epochs(setting, *_):
        return _answers(lambda: 4.0, lambda: 2.0) if setting is small else _out_of_memory()

    monkeypatch.setattr(gpu, "PHANTOM_SCALE", {"gpu": 0.001})
    monkeypatch.setattr(gpu, "epochs", epochs)
    monkeypatch.setattr(gpu, "has_torchvision", lambda: True)
    peer = (lambda _: _out_of_memory) if late else _out_of_memory
    monkeypatch.setattr(gpu, "torchvision_peer", peer)
    first, second = gpu.measure_all((large, small), "gpu", repetitions=2)
    assert first["rows"] == []
    assert first["note"] == f"Failed: {gpu.OURS} (RuntimeError: out of memory)."
    assert [row["ratio"] for row in second["rows"]] == [1.0, 0.5]
    assert f"Failed: {gpu.PEER} (RuntimeError: out of memory). An epoch" in second["note"]
    for result in (first, second):
        assert result["title"] in script("measure").markdown(result)


def test_where_the_limit_fails_the_rest_is_compared_with_the_next(script):
    gpu = script("gpu_training")
    figures = {"limit": [None, 8.0], gpu.OURS: [4.0, 4.0], gpu.PEER: [3.0, 3.0]}
    result = gpu.describe(gpu.ON_GPU[0], "gpu", figures, {"limit": "RuntimeError: "})
    assert [(row["name"], row["ratio"]) for row in result["rows"]] == [
        (gpu.OURS, 1.0),
        (gpu.PEER, 0.75),
    ]


def test_a_failure_is_noted_with_the_one_before_it(script):
    def fail():
        try:
            _out_of_memory()
        finally:
            raise AttributeError

    failures = {}
    assert script("gpu_training").attempt("this", fail, failures) is None
    assert failures == {"this": "AttributeError: , after RuntimeError: out of memory"}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_gpus_gain_is_not_filed_under_the_processors_name(script, monkeypatch, device):
    training = script("training")
    plan = compute.ComputePolicy(device, False, "float32")
    monkeypatch.setattr(compute, "policy", lambda name: plan)
    monkeypatch.setattr(training, "apart", lambda ways: contextlib.nullcontext(ways))
    monkeypatch.setattr(
        training, "interleaved", lambda _: {training.DEFAULT: [2.0], training.OURS: [5.0]}
    )
    result = training.policies("cnn", (training.DEFAULT, training.OURS))
    assert result["rows"][1]["ratio"] == 2.5
    assert ("gain" in result) is (device == "cpu")


@pytest.mark.parametrize("way", ["DEFAULT", "OURS"])
def test_training_is_measured_in_every_way(way, script):
    training = script("training")
    assert training.candidate("cnn", getattr(training, way), 32, 4, 1)() > 0


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_epoch_is_measured_from_memory_and_from_the_cache(script, monkeypatch, device):
    epochs = script("epochs")
    plan = compute.ComputePolicy(device, False, "float32")
    monkeypatch.setattr(compute, "policy", lambda name: plan)
    result = epochs.epochs("cnn", 1, images=24, image_size=32)
    ways = [epochs.IN_MEMORY, epochs.LIMIT, epochs.FROM_CACHE]
    assert [row["name"] for row in result["rows"]] == ways
    assert result["reference"] == epochs.LIMIT
    assert all(row["median"] > 0 for row in result["rows"])
    assert ("epoch" in result) is (device == "cpu")  # the page's list is by processor


def test_the_page_lists_the_newest_epochs_of_every_network(script, tmp_path):
    run = script("run")
    file = tmp_path / run.RECORDS["epoch"]
    one = {"network": "vgg16", "precision": "float32", "px": 64, "images": 192, "cache, s": 1.25}
    one |= {"ratio": 1.0404, "aim": "**missed**"}
    run.with_earlier([one, one | {"network": "cnn"}], file).to_csv(file, index=False)
    rows = run.with_earlier([one | {"ratio": 1.0144, "aim": "met"}], file)
    lines = [line for line in run.epochs_table(rows).splitlines() if line.startswith("| ")]
    today = f"| {run.processor()} | {datetime.date.today().isoformat()} "
    assert lines[1] == f"{today}| cnn | float32 | 64 | 192 | 1.25 | 1.040 | **missed** |"
    assert lines[2] == f"{today}| vgg16 | float32 | 64 | 192 | 1.25 | 1.014 | met |"
    assert len(lines) == 3


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
gpu.measure_all((gpu.Setting("cnn", 32, 8, 16),), "cpu", 1)
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


def test_precisions_are_held_against_seed_noise(script):
    precision = script("precision")
    float32, other = [0.80, 0.82, 0.84], [0.81, 0.83, 0.85]
    # both have s = 0.02, so the noise of two means of three is 0.02 * sqrt(2 / 3) = 0.0163
    text = precision.verdict({"float32": float32, "mixed_bfloat16": other})
    assert "+0.0100, within twice its seed noise (0.0163)" in text
    worse = list(np.array(float32) - 0.1)
    text = precision.verdict({"float32": float32, "mixed_bfloat16": worse})
    assert "-0.1000, beyond" in text
