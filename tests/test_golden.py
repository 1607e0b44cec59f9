"""What must not change unless somebody means it to: `python tests/test_golden.py` records anew."""

import hashlib
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from defects import PLANTS, Planter
from layout import write_layout

from mura import evaluation, phantom
from mura.data.audit import audit
from mura.models.architectures import build

GOLDEN = Path(__file__).with_name("golden.json")
PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")
# one builder per family, at the smallest images that it takes, and all others as slow tests
FAMILIES = ("cnn", "vgg16", "resnet50", "densenet121", "inception_v3", "efficientnet_v2_b0")
FAMILIES += ("convnext_tiny",)
OTHERS = ("vgg19", "resnet101", "resnet152", "densenet169", "densenet201", "xception")
OTHERS += ("efficientnet_v2_s", "convnext_small")
SIZES = {"inception_v3": 80, "xception": 80}


def phantom_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a small phantom."""
    root = phantom.generate(folder / "phantom", scale=0.01, seed=41, progress=False)
    digest = hashlib.sha256()
    for file in sorted(path for path in root.parent.rglob("*") if path.is_file()):
        digest.update(file.relative_to(root.parent).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def write_predictions(file: Path, model: int) -> Path:
    """60 patients with one to three studies of one to four views, all body parts, both labels."""
    random, lines = np.random.default_rng([17, model]), ["path,probability"]
    plan = np.random.default_rng(17)
    for patient in range(60):
        for study in range(1, plan.integers(2, 5)):
            part, label = PARTS[plan.integers(7)], int(plan.random() < 0.45)
            suffix = "positive" if label else "negative"
            place = f"MURA-v1.1/valid/XR_{part}/patient{patient:05d}/study{study}_{suffix}"
            for view in range(1, plan.integers(2, 6)):
                odds = 1.2 * (label - 0.5) + random.normal()
                lines.append(f"{place}/image{view}.png,{1 / (1 + np.exp(-odds)):.6f}")
    file.write_text("\n".join(lines) + "\n")
    return file


def evaluation_tables(folder: Path) -> dict[str, list[dict]]:
    predictions = {
        name: evaluation.read_predictions(write_predictions(folder / f"{name}.csv", model))
        for model, name in enumerate(("one", "two"))
    }
    studies = {name: evaluation.study_predictions(table) for name, table in predictions.items()}
    one = studies["one"]
    tables = {
        "metrics": evaluation.metric_table(one, resamples=500),
        "differences": evaluation.paired_differences(studies, "one", resamples=500),
        "operating points": evaluation.operating_point_table(
            one, evaluation.operating_points(studies["two"]), resamples=200
        ),
        "views": evaluation.subgroup_tables(one, resamples=200),
        "reliability": evaluation.reliability_table(one),
    }
    return {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}


def finding_names(folder: Path) -> list[list[str]]:
    """The names of the audit's findings in a folder of each group of planted defects."""
    studies = [
        (split, f"XR_{PARTS[number % 7]}", number + 1 + 100 * (split == "valid"), 1, number % 2, 1)
        for split in ("train", "valid")
        for number in range(60)
    ]
    names = []
    for number, plant in enumerate(PLANTS):
        planter = Planter(write_layout(folder / str(number), studies))
        list(plant(planter))
        names.append(sorted(set(audit(planter.root, progress=False).findings["kind"])))
    return names


def network_outputs(name: str) -> dict[str, list[float]]:
    """The answers, and some pooled features, of a network whose weights NumPy fills."""
    size = SIZES.get(name, 64)
    model = build(name, size)
    random = np.random.default_rng(5)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name in ("gamma", "moving_variance"):
            value = random.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:
            value = random.normal(0, np.sqrt(1 / np.prod(shape[:-1])), shape)
        else:
            value = random.normal(0, 0.05, shape)
        weight.assign(value.astype(np.float32))
    noise = random.integers(0, 256, (size, size))
    ramp = np.linspace(0, 60, size * size).reshape(size, size)  # dark, and without an edge
    images = np.stack([noise, ramp]).astype(np.uint8)[..., None]
    both = keras.Model(model.input, [model.output, model.get_layer("pool").output])
    answers, pooled = (keras.ops.convert_to_numpy(x) for x in both(images, training=False))
    return {
        "answers": answers[:, 0].astype(float).tolist(),
        "pooled": pooled[:, :6].astype(float).ravel().tolist(),
    }


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_the_phantom_is_the_same_to_the_byte(golden, tmp_path):
    assert phantom_digest(tmp_path) == golden["phantom"]


def test_the_evaluation_gives_the_same_values_and_intervals(golden, tmp_path):
    found = evaluation_tables(tmp_path)
    assert set(found) == set(golden["evaluation"])
    for name, rows in golden["evaluation"].items():
        expected, table = pd.DataFrame(rows), pd.DataFrame(found[name])
        pd.testing.assert_frame_equal(table, expected, rtol=0, atol=1e-6, check_like=True)


def test_the_audit_finds_the_same_by_the_same_names(golden, tmp_path):
    assert finding_names(tmp_path) == golden["audit"]


@pytest.mark.parametrize(
    "name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_a_network_computes_the_same(golden, name):
    found = network_outputs(name)
    for key, values in golden["networks"][name].items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-4, err_msg=key)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in "abc"]
        for folder in folders:
            folder.mkdir()
        content = {
            "phantom": phantom_digest(folders[0]),
            "evaluation": evaluation_tables(folders[1]),
            "audit": finding_names(folders[2]),
            "networks": {name: network_outputs(name) for name in (*FAMILIES, *OTHERS)},
        }
    GOLDEN.write_text(json.dumps(content) + "\n")
