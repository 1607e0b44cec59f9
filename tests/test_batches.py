"""What a training reads: parts without a shared patient, batches in an order of their own."""

import re
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from layout import write_layout
from tiny import tiny_recipe

from mura import data
from mura.data import BODY_PARTS, ManifestError, RadiographBatches, assign_parts, loss_weights
from mura.data.batches import few_to_fit
from mura.data.manifest import held_out

PIXELS = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)


def rows_of(batches):
    """The rows that an epoch hands out, by their gray level."""
    items = [batches[index] for index in range(len(batches))]
    images = [item[0] if isinstance(item, tuple) else item for item in items]
    return [int(level) for image in images for level in image[:, 0, 0, 0]]


def read(root, **changes):
    return data.batches(data.read(root), root, tiny_recipe(**changes))


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def dealt(seed, batch_size=3):
        return RadiographBatches(PIXELS, np.arange(10), batch_size=batch_size, shuffle_seed=seed)

    one, other, orders = dealt(5), dealt(5, 7), []
    for epoch in range(6):
        assert one.epoch == epoch
        orders.append(tuple(rows_of(one)))
        other.start_epoch(epoch)
        assert tuple(rows_of(other)) == orders[-1]
        one.on_epoch_end()
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(10))}
    assert len(set(orders)) == 6
    assert rows_of(dealt(6)) != rows_of(dealt(5))
    assert rows_of(dealt(None)) == list(range(10))


def test_targets_and_weights_follow_their_rows():
    rows = np.arange(9, -1, -1)
    batches = RadiographBatches(
        PIXELS, rows, rows[:, None].astype("float32"), rows / 10, batch_size=4, shuffle_seed=1
    )
    for x, y, w in (batches[index] for index in range(3)):
        np.testing.assert_array_equal(x[:, 0, 0, 0], y[:, 0])
        np.testing.assert_allclose(w, y[:, 0] / 10)
    for settings in ({"targets": np.ones((2, 1))}, {"weights": np.ones(2)}):
        with pytest.raises(ValueError, match=r"2 \w+ for 10 rows"):
            RadiographBatches(PIXELS, rows, **settings)


def test_every_epoch_trains_on_each_row_once():
    targets = np.arange(44, dtype=np.float32)[:, None] ** [[1, 2]]
    batches = RadiographBatches(
        np.zeros((44, 4, 4), np.uint8), np.arange(44), targets, batch_size=5, shuffle_seed=0
    )
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    seen = keras.metrics.MeanMetricWrapper(lambda targets, answers: targets, name="seen")
    model.compile("sgd", "mse", metrics=[seen], jit_compile=False)
    history = model.fit(batches, epochs=3, shuffle=False, verbose=0).history
    assert history["seen"] == pytest.approx([targets.mean()] * 3, rel=1e-6)


def test_an_epoch_does_not_load_the_cache_into_the_process(tmp_path):
    smaps = Path("/proc/self/smaps")
    if not smaps.is_file():
        pytest.skip("only Linux tells how much of a mapping is resident")
    file = tmp_path / "large.pixels"
    with file.open("wb") as sparse:
        sparse.truncate(2000 * 160 * 160)  # 51 MB
    pixels = np.memmap(file, np.uint8, "r", shape=(2000, 160, 160))

    def resident() -> int:
        found = re.findall(rf"{file.name}\n(?:.*\n)*?Rss:\s+(\d+) kB", smaps.read_text())
        return sum(map(int, found))

    batches = RadiographBatches(pixels, np.arange(2000), batch_size=32, shuffle_seed=0)
    largest = 0
    for index in range(len(batches)):
        assert batches[index].any() == 0
        largest = max(largest, resident())
    assert largest < 2000  # kB
    assert int(np.asarray(pixels).sum()) == 0
    assert resident() > 40_000  # the measurement does see pages that are mapped


def counted(**parts):
    """A manifest with so many normal and abnormal fit images of each body part."""
    rows = [
        ("fit", f"XR_{part}", label)
        for part, counts in parts.items()
        for label, count in enumerate(counts)
        for _ in range(count)
    ]
    tune = [("tune", f"XR_{part}", 1) for part in parts]
    return pd.DataFrame([*rows, *tune], columns=["part", "body_part", "label"])


def test_loss_weights_are_the_papers():
    weights = loss_weights(counted(WRIST=(30, 10), HAND=(10, 10)))
    # wrist: 10 abnormal, 30 normal; abnormal weighs 3/4, normal 1/4. The tune rows count nowhere.
    assert weights.loc["XR_WRIST"].to_dict() == {0: 0.25, 1: 0.75}
    assert weights.loc["XR_HAND"].to_dict() == {0: 0.5, 1: 0.5}


@pytest.mark.parametrize(
    ("parts", "shared"),
    [
        ({"WRIST": (108, 0), "HAND": (40, 40)}, {0: 40 / 188, 1: 148 / 188}),  # of the whole set
        ({"WRIST": (20, 0), "ELBOW": (2, 9), "FINGER": (9, 30)}, {0: 39 / 70, 1: 31 / 70}),
        ({"WRIST": (0, 0), "HAND": (12, 36)}, {0: 0.75, 1: 0.25}),
        ({"WRIST": (5, 5)}, {0: 0.5, 1: 0.5}),
    ],
)
def test_body_parts_with_few_images_of_a_label_share_their_weights(parts, shared):
    manifest = counted(**parts)
    weights = loss_weights(manifest)
    assert weights.loc["XR_WRIST"].to_dict() == pytest.approx(shared)
    assert "XR_WRIST" in few_to_fit(manifest)
    assert (weights > 0).all(axis=None)


@pytest.mark.parametrize("rare", [1, 10, 40])
def test_no_image_weighs_more_than_ten_times_the_mean(rare):
    manifest = counted(WRIST=(20_000, rare), HAND=(300, 300))
    weights = loss_weights(manifest)
    fit = manifest[manifest["part"] == "fit"]
    each = weights.stack()[list(zip(fit["body_part"], fit["label"], strict=True))]
    assert each.min() > 0 and each.max() <= 10 * each.mean() * (1 + 1e-6)


def test_a_line_names_the_body_parts_that_share_their_weights(phantom_root, capsys):
    read(phantom_root)
    printed = capsys.readouterr().out
    assert "fewer than 10 normal or abnormal images to fit" in printed and "XR_HUMERUS" in printed
    read(phantom_root, weighted_loss=False)
    assert "fewer than" not in capsys.readouterr().out


@pytest.mark.parametrize(("head", "width"), [("binary", 1), ("joint", 14)])
def test_batches_carry_targets_and_weights_of_their_rows(phantom_root, head, width):
    batches = read(phantom_root, head=head)
    x, y, w = batches.tune[0]
    rows = batches.manifest[batches.manifest["part"] == "tune"].iloc[: len(x)]
    assert x.dtype == np.uint8
    assert x.shape[1:] == (32, 32, 1)
    np.testing.assert_array_equal(x[..., 0], batches.pixels[rows.index])
    assert y.shape == (len(x), width)
    labels = rows["label"].to_numpy(int)
    if head == "binary":
        np.testing.assert_array_equal(y[:, 0], labels)
    else:
        parts = [BODY_PARTS.index(part) for part in rows["body_part"]]
        np.testing.assert_array_equal(y.argmax(axis=1), labels * 7 + np.array(parts))
    table = loss_weights(batches.manifest)
    expected = [table.loc[p, label] for p, label in zip(rows["body_part"], labels, strict=True)]
    np.testing.assert_allclose(w, expected, rtol=1e-6)
    assert len(read(phantom_root, head=head, weighted_loss=False).fit[0]) == 2
    fit = np.flatnonzero(batches.manifest["part"] == "fit")
    assert (list(batches.fit.rows), batches.fit.shuffle_seed) == (list(fit), 0)


def test_parts_share_no_patient_and_all_runs_share_the_tune_patients(phantom_root):
    manifest = data.read(phantom_root)
    whole = assign_parts(manifest)
    wrist = assign_parts(manifest, ("XR_WRIST",), train_fraction=0.5)
    for each in (whole, wrist):
        patients = each[each["part"] != "unused"].groupby("part")["patient"].agg(set)
        assert set(patients.index) == {"fit", "tune", "valid"}
        assert sum(map(len, patients)) == len(set.union(*patients))
    tune = whole[(whole["part"] == "tune") & (whole["body_part"] == "XR_WRIST")]
    pd.testing.assert_series_equal(wrist.loc[wrist["part"] == "tune", "path"], tune["path"])
    assert set(wrist.loc[wrist["part"] != "unused", "body_part"]) == {"XR_WRIST"}


def test_the_share_that_is_trained_on_is_of_patients(phantom_root):
    manifest = data.read(phantom_root)
    whole, half = assign_parts(manifest), assign_parts(manifest, train_fraction=0.5)
    fit = set(whole.loc[whole["part"] == "fit", "patient"])
    chosen = set(half.loc[half["part"] == "fit", "patient"])
    assert chosen < fit
    assert len(chosen) == round(0.5 * len(fit))
    assert chosen.isdisjoint(half.loc[half["part"] == "unused", "patient"])
    for part in ("tune", "valid"):
        pd.testing.assert_frame_equal(whole[whole["part"] == part], half[half["part"] == part])


def test_folds_hold_out_each_patient_once_and_never_an_official_part(phantom_root):
    manifest = data.read(phantom_root)
    dealt = []
    for fold in range(3):
        parts = assign_parts(manifest, folds=3, fold=fold)
        assert set(parts.loc[manifest["split"] == "valid", "part"]) == {"unused"}
        dealt += list(parts.loc[parts["part"] == "valid", "patient"].unique())
    assert sorted(dealt) == sorted(manifest.loc[manifest["split"] == "train", "patient"].unique())
    ours = manifest["patient"].map(held_out).map({True: "valid", False: "train"})
    named = manifest.assign(split=ours)
    first = assign_parts(named, folds=5, fold=0)
    pd.testing.assert_frame_equal(first, assign_parts(named))  # the usual split is the first fold
    assert (assign_parts(named, folds=5, fold=1)["part"] == "valid").sum() > 0


def test_a_patient_in_two_parts_and_a_part_with_one_label_are_refused(phantom_root, tmp_path):
    manifest = data.read(phantom_root)
    crossed = manifest.copy()
    crossed.loc[crossed["split"] == "valid", "patient"] = crossed["patient"].iloc[0]
    with pytest.raises(ManifestError, match=f"more than one part .*{crossed['patient'].iloc[0]}"):
        assign_parts(crossed)
    studies = [("train", "XR_WRIST", patient, 1, 1, 1) for patient in range(1, 21)]
    studies += [("valid", "XR_WRIST", 21, 1, 0, 1)]
    with pytest.raises(ManifestError, match=r"the fit part has only the labels \[1\] for XR_WRIST"):
        assign_parts(data.read(write_layout(tmp_path, studies)))


def test_images_without_a_label_are_not_trained_on(phantom_root):
    manifest = data.read(phantom_root)
    train = manifest.index[manifest["split"] == "train"][:20]
    manifest.loc[train, "label"] = pd.NA
    parts = assign_parts(manifest)["part"]
    assert set(parts[train]) == {"unused"}
