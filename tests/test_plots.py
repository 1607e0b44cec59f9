"""Figures: what is drawn is what the data say, and others can read it and files hold it."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image
from sklearn import metrics as reference

from mura import evaluation, plots
from mura.data import BODY_PART_DTYPE, BODY_PARTS
from mura.plots import style


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def models():
    """Three models of 280 studies of all body parts."""
    random = np.random.default_rng(0)
    count = 280
    part = np.array(BODY_PARTS)[np.arange(count) % 7]
    label = random.integers(0, 2, size=count)
    base = pd.DataFrame(
        {
            "study": [f"MURA-v1.1/valid/{part[i]}/patient{i // 2}/study{i}" for i in range(count)],
            "body_part": pd.Series(part).astype(BODY_PART_DTYPE),
            "patient": [f"patient{i // 2:05d}" for i in range(count)],
            "split": "valid",
            "label": label,
            "views": 2,
        }
    )
    return {
        name: base.assign(
            probability=1 / (1 + np.exp(-skill * (label - 0.5) - random.normal(size=count)))
        )
        for name, skill in (("cnn", 1.0), ("vgg16", 2.0), ("resnet50", 3.0))
    }


@pytest.fixture(scope="module")
def table(models):
    return evaluation.model_table(models, resamples=50)


def texts(ax):
    """Return every text of the figure, axis labels and legends included."""
    figure = ax.get_figure(root=True)
    found = figure.findobj(Text)
    return [artist.get_text() for artist in found if artist.get_text()]


def test_training_curves_show_both_parts_the_stages_and_the_kept_epoch():
    history = pd.DataFrame(
        {
            "stage": ["head", "head", "all", "all"],
            "epoch": [1, 2, 3, 4],
            "loss": [0.7, 0.6, 0.5, 0.4],
            "auroc": [0.5, 0.6, 0.7, 0.8],
            "tune_loss": [0.7, 0.65, 0.55, 0.6],
            "tune_auroc": [0.5, 0.6, 0.7, 0.7],
            "learning_rate": 0.1,
        }
    )
    ax = plots.training_curves(history, "cnn")
    loss, auroc = ax.child_axes
    assert loss.lines[1].get_ydata().tolist() == history["tune_loss"].tolist()
    assert auroc.lines[0].get_ydata().tolist() == history["auroc"].tolist()
    shown = texts(ax)
    assert {"fit part", "tune part", "kept: 3", "Loss", "AUROC", " all", "cnn"} <= set(shown)
    assert "kept: 4" in texts(plots.training_curves(history, "cnn", 4))
    assert len(plots.training_curves(history.drop(columns="tune_auroc")).child_axes) == 1


def test_roc_is_scikit_learns(models):
    ax = plots.roc(models, published=True)
    for line, (name, studies) in zip(ax.lines[1::2], models.items(), strict=False):
        false, true, _ = reference.roc_curve(
            studies["label"], studies["probability"], drop_intermediate=False
        )
        np.testing.assert_allclose(line.get_xdata()[::-1], false)
        np.testing.assert_allclose(line.get_ydata()[::-1], true)
        area = reference.roc_auc_score(studies["label"], studies["probability"])
        assert line.get_label().startswith(f"{name} {area:.3f} [")
    point = ax.lines[2]
    decision = evaluation.metric_values(models["cnn"]["label"], models["cnn"]["probability"])
    assert point.get_ydata()[0] == pytest.approx(decision["sensitivity"])
    paper = next(line for line in ax.lines if "paper" in str(line.get_label()))
    assert (paper.get_xdata()[0], paper.get_ydata()[0]) == pytest.approx((0.113, 0.815))
    assert any("n = 280 studies" in text for text in texts(ax))


def test_precision_recall_integrates_to_the_average_precision(models):
    studies = models["vgg16"]
    ax = plots.precision_recall({"vgg16": studies})
    curve = ax.lines[-1]
    recall, precision = curve.get_xdata(), curve.get_ydata()
    drawn = np.sum(-np.diff([*recall, 0.0]) * precision)
    expected = reference.average_precision_score(studies["label"], studies["probability"])
    assert drawn == pytest.approx(expected)


def test_reliability_draws_the_reliability_table(models):
    ax = plots.reliability(models)
    expected = evaluation.reliability_table(models["cnn"])
    line = next(c for c in ax.containers if c.get_label().startswith("cnn")).lines[0]
    np.testing.assert_allclose(line.get_ydata().astype(float), expected["abnormal"].dropna())
    assert "95 % Wilson interval over studies" in ax.get_ylabel()
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(
        (0.2 * expected["studies"] / expected["studies"].max()).tolist()
    )


def test_confusion_matrices_count_every_study_once_overall_and_once_per_part(models):
    ax = plots.confusion_matrices(models["cnn"])
    panels = [[text.get_text() for text in panel.texts] for panel in ax.child_axes]
    cells = [[int(text.split("\n")[0]) for text in panel] for panel in panels]
    assert np.sum(cells) == 2 * 280
    labels, called = models["cnn"]["label"], models["cnn"]["probability"] > 0.5
    expected = reference.confusion_matrix(labels, called)
    assert cells[0] == expected.ravel().tolist()
    assert panels[0][3].endswith(f"\n{reference.recall_score(labels, called):.0%}")
    assert {"All (n = 280)", "Wrist (n = 40)"} <= set(texts(ax))


def test_forest_and_intervals_draw_values_and_bounds(models, table):
    differences = evaluation.paired_differences(models, "cnn", resamples=50)
    ax = plots.forest(differences)
    rows = differences[differences["metric"] == "kappa"].iloc[::-1]
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_xdata(), rows["difference"])
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], rows[["low", "high"]].to_numpy())
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "resnet50 (n = 280)",
        "vgg16 (n = 280)",
    ]
    assert any("280 studies, 140 patients" in text for text in texts(ax))

    ax = plots.metric_intervals(table, "auroc")
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["cnn (n = 280)", "vgg16 (n = 280)", "resnet50 (n = 280)"]  # best on top


def test_pointing_bars_beside_chance():
    rows = pd.DataFrame({"group": ["fracture"], "images": [40], "accuracy": [0.75]})
    ax = plots.pointing_bars(rows.assign(low=0.5, high=0.875, chance=0.05))
    [[[_, low], [_, high]]] = ax.collections[0].get_segments()
    assert (low, high) == (0.5, 0.875)
    assert any("interval over patients" in text for text in texts(ax))
    heights = [patch.get_height() for patch in ax.patches]
    assert heights == pytest.approx([0.75, 0.05])
    assert "Fracture\nn = 40" in texts(ax)
    few = pd.concat([rows, rows.assign(group="lesion", images=9)])
    ax = plots.pointing_bars(few.assign(low=0.5, high=0.875, chance=0.05))
    assert not any("Lesion" in text for text in texts(ax))


@pytest.mark.parametrize("shape", [(400, 200), (89, 132)])
def test_radiograph_keeps_its_aspect_and_the_map_its_place(shape):
    image = np.full(shape, 90, np.uint8)
    activation = np.zeros((10, 10), np.float32)
    ax = plots.radiograph(image, activation, boxes=[(10, 20, 60, 80)], title="wrist")
    assert ax.get_aspect() == 1
    assert ax.get_xlim() == (0, shape[1])
    assert ax.get_ylim() == (shape[0], 0)
    assert [tuple(shown.get_extent()) for shown in ax.images] == [(0, shape[1], shape[0], 0)] * 2
    assert ax.patches[0].get_bbox().bounds == (10, 20, 50, 60)


@pytest.mark.parametrize("parameters", [(1e6, 15e6, 24e6), (20e6, 21e6, 24e6)])
def test_cost_against_quality(table, parameters):
    rows = table[(table["metric"] == "kappa") & (table["group"] == "all")]
    ax = plots.cost_against_quality(rows.assign(parameters=parameters))
    assert ("log" in ax.get_xscale()) == (parameters[0] == 1e6)
    assert f"vgg16 ({parameters[1] / 1e6:.0f} M)" in texts(ax)
    assert "280 studies" in ax.get_ylabel()
    ax.get_figure().canvas.draw()
    assert any(label.get_text() for label in ax.get_xticklabels())


def test_the_radiologists_region_is_where_kappa_is_theirs(models):
    roc, precision = plots.roc(models, published=True), plots.precision_recall(models, True)
    for ax in (roc, precision):
        assert any("MURA paper's radiologists" in text for text in texts(ax))
        assert ax.collections[0].levels.tolist() == [0.731, 0.778]
    assert not any("radiologists" in text for text in texts(plots.roc(models)))
    # each corner of the region has a kappa of theirs, up to the grid that it is drawn on
    share = np.mean([studies["label"].mean() for studies in models.values()])
    for ax in (roc, precision):
        corners = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
        x, y = corners[(corners > 0.01).all(axis=1) & (corners < 0.99).all(axis=1)].T
        true, false = share * y, (1 - share) * x
        if ax is precision:
            true, false = share * x, share * x * (1 - y) / y
        observed = true + 1 - share - false
        called = true + false
        chance = share * called + (1 - share) * (1 - called)
        kappa = (observed - chance) / (1 - chance)
        assert np.abs(kappa[:, None] - [0.731, 0.778]).min(axis=1).max() < 0.01


def test_kappa_heatmap_puts_blocks_of_one_test_set_together(table):
    ours = table[table["metric"] == "kappa"].pivot(index="model", columns="group", values="value")
    ax = plots.kappa_heatmap({"this project": ours, **evaluation.published_kappa()})
    shown = texts(ax)
    assert {"this project", f"{ours.loc['cnn', 'XR_HAND']:.2f}", "radiologist 1"} <= set(shown)
    assert any(text.startswith("hidden test set (207 studies") for text in shown)
    assert any("do not rank each other" in text for text in shown)
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows.index("cnn") < rows.index("radiologist 1") < rows.index("VGG19 (ilias-ant)")
    blocks = {"one": ours, "other": ours}
    assert "the same studies" in texts(plots.kappa_heatmap(blocks, note="the same studies"))
    assert "Macro" not in texts(plots.kappa_heatmap({"one": ours.drop(columns="macro")}))


def test_grids_hold_every_image_at_its_aspect():
    images = [np.zeros(shape, np.uint8) for shape in ((40, 20), (20, 40), (30, 30))]
    captions = [plots.answer_caption(label, 0.7) for label in (1, 0, None)]
    answer = "abnormal (0.70)"
    assert captions == [f"✓ abnormal, called\n{answer}", f"✗ normal, called\n{answer}", answer]
    views = [SimpleNamespace(image=i, activation=np.ones((5, 5)), boxes=()) for i in images]
    for ax, drawn in (
        (plots.view_grid(views, captions, columns=2), 2),
        (plots.image_grid(images, captions, columns=2), 1),
    ):
        for image, panel in zip(images, ax.child_axes, strict=True):
            assert panel.get_aspect() == 1
            extent = (0, image.shape[1], image.shape[0], 0)
            assert [tuple(shown.get_extent()) for shown in panel.images] == [extent] * drawn
        assert set(captions) <= set(texts(ax))
    assert "no such image" in texts(plots.view_grid([], title="rightly called abnormal"))


def test_architecture_names_shapes_and_sums_parameters():
    rows = [("input", 320, 1, 0, 0), ("stem", 80, 64, 4, 9_408), ("sigmoid", 1, 1, 1, 65)]
    stages = pd.DataFrame(rows, columns=["stage", "side", "channels", "layers", "parameters"])
    shown = texts(plots.architecture(stages, "small"))
    assert {"small (9.47 k parameters)", "stem\n4 layers", "sigmoid"} <= set(shown)
    assert any(text.startswith("80 × 80 × 64\n9.41 k") for text in shown)


def test_figures_draw_into_given_axes(models, table):
    differences = evaluation.paired_differences(models, "cnn", resamples=20)
    figure, grid = plt.subplots(2, 3, figsize=(16, 8))
    draw = (
        lambda ax: plots.roc(models, ax=ax),
        lambda ax: plots.precision_recall(models, ax=ax),
        lambda ax: plots.reliability(models, ax=ax),
        lambda ax: plots.confusion_matrices(models["cnn"], ax=ax),
        lambda ax: plots.forest(differences, ax=ax),
        lambda ax: plots.metric_intervals(table, ax=ax),
    )
    for function, ax in zip(draw, grid.ravel(), strict=True):
        assert function(ax) is ax
    figure.canvas.draw()
    assert plt.get_fignums() == [figure.number]


def test_curves_differ_without_colour():
    styles = [tuple(style.line_style(i).values()) for i in range(16)]
    assert len({str(s) for s in styles}) == 16
    assert len({str(line) for _, line in styles[:8]}) == 8
    assert len({style.marker_style(i)["marker"] for i in range(8)}) == 8


def test_saved_figures_are_whole_and_repeatable(tmp_path, models):
    one = {"cnn": models["cnn"]}
    first = plots.save(plots.roc(one), "roc", tmp_path / "figures")
    assert first == tmp_path / "figures" / "roc.png"
    assert Image.open(first).size[0] > 400
    content = first.read_bytes()
    assert plots.save(plots.roc(one), "roc", tmp_path / "figures").read_bytes() == content
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["roc.png"]
