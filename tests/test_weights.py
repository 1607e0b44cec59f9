"""Where weights come from, and what is said when they cannot be had; nothing is downloaded."""

import urllib.error

import keras
import numpy as np
import pytest
from networks import randomise, write_keras_file

from mura.models import ARCHITECTURES, WeightsError, abnormal_model, backbone, build, weights
from mura.models.weights import DownloadError

VGG16_FILE = ARCHITECTURES["vgg16"].weights_file
REMEDY = f"Put Keras's {VGG16_FILE} into a folder and name that as weights (--weights FOLDER)"


@pytest.fixture(autouse=True)
def no_copy_of_keras(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def unreachable(monkeypatch):
    def refuse(request, timeout):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)


@pytest.fixture
def reachable(monkeypatch):
    def answer(request, timeout):
        raise urllib.error.HTTPError(request.full_url, 404, "Not Found", {}, None)

    monkeypatch.setattr(weights.urllib.request, "urlopen", answer)


@pytest.fixture(scope="module")
def vgg16():
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    randomise(network, seed=5)
    return network


@pytest.fixture(scope="module")
def vgg16_file(vgg16, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / VGG16_FILE
    write_keras_file(vgg16, file)
    return file


def assert_equal(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_folder_a_file_and_keras_own_format_give_the_same_backbone(vgg16, vgg16_file, tmp_path):
    vgg16.save_weights(tmp_path / "mine.weights.h5")
    for place, described in (
        (vgg16_file.parent, f"file:{VGG16_FILE}"),
        (vgg16_file, f"file:{VGG16_FILE}"),
        (tmp_path / "mine.weights.h5", "file:mine.weights.h5"),
    ):
        model = build("vgg16", 32, str(place))
        assert model.origin.description == described
        assert_equal(backbone(model), vgg16)


def test_what_keras_downloads_is_what_the_backbone_holds(vgg16, vgg16_file, reachable, monkeypatch):
    """Keras's download itself is replaced, its builder is not."""
    from keras.src.utils import file_utils

    asked = []
    monkeypatch.setattr(
        file_utils, "get_file", lambda name, *_, **__: asked.append(name) or str(vgg16_file)
    )
    model = build("vgg16", 32, "imagenet")
    assert model.origin.description == "imagenet"
    assert asked == [VGG16_FILE]
    assert_equal(backbone(model), vgg16)


def test_a_damaged_file_and_another_networks_file_are_told_by_name(vgg16_file, tmp_path):
    damaged = tmp_path / VGG16_FILE
    damaged.write_bytes(vgg16_file.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=f"{VGG16_FILE}.*cannot be loaded into vgg16"):
        build("vgg16", 32, str(damaged))
    damaged.write_bytes(b"<html>404</html>")
    with pytest.raises(WeightsError, match=f"{VGG16_FILE}.*cannot be loaded into vgg16"):
        build("vgg16", 32, str(tmp_path))
    with pytest.raises(WeightsError, match=f"{VGG16_FILE}.*into vgg19.*the same architecture"):
        build("vgg19", 32, str(vgg16_file))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("empty", f"empty/{VGG16_FILE}: no such weights"),
        ("nowhere", "nowhere: no such weights; name a weight file"),
        ("weights.txt", r"weights.txt: expected a file that ends in \.h5"),
    ],
)
def test_weights_named_by_path_are_never_replaced_by_random_ones(place, words, strict, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.txt").write_text("1 2 3")
    with pytest.raises(WeightsError, match=words):
        build("vgg16", 32, str(tmp_path / place), strict)


def test_without_a_network_it_stops_or_warns_once_and_starts_from_random_weights(unreachable):
    with pytest.raises(DownloadError, match="Name or service not known") as caught:
        build("vgg16", 32, "imagenet")
    assert REMEDY in str(caught.value) and "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="random weights") as warned:
        model = build("vgg16", 32, "imagenet", strict=False)
    assert (len(warned), model.origin.description) == (1, "random")
    assert_equal(model, build("vgg16", 32))


def test_a_download_that_breaks_off_is_one_clear_error(reachable, monkeypatch):
    from keras.src.utils import file_utils

    def break_off(name, origin, **_):
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno 104] reset by peer")

    monkeypatch.setattr(file_utils, "get_file", break_off)
    with pytest.raises(DownloadError, match=r"reset by peer.*--weights FOLDER"):
        build("vgg16", 32, "imagenet")
    with pytest.warns(UserWarning, match="reset by peer") as caught:
        model = build("vgg16", 32, "imagenet", strict=False)
    assert (len(caught), model.origin.description) == (1, "random")


def test_the_custom_cnn_has_no_imagenet_weights(unreachable):
    for name in (None, "none"):
        assert build("cnn", 32, name).origin.description == "random"
    with pytest.raises(WeightsError, match="no ImageNet weights; choose none"):
        build("cnn", 32, "imagenet", strict=False)


def test_another_runs_weights_and_its_head_where_it_fits(tmp_path):
    donor = build("cnn", 32, seed=1)
    randomise(donor, seed=1)
    run = tmp_path / "wrist"
    run.mkdir()
    donor.save(run / "model.keras")
    for place in (run, run / "model.keras"):
        model = build("cnn", 48, str(place), seed=2)
        assert model.origin.description == "run:wrist"
        assert_equal(model, donor)

    joint = build("cnn", 32, str(run), head="joint", seed=2)
    assert joint.origin.description == "run:wrist"
    assert_equal(backbone(joint), backbone(donor))
    new = joint.get_layer("classes")
    assert not np.any(new.kernel)  # a new head says the same to all
    trained = np.random.default_rng(0).normal(size=new.kernel.shape)
    new.set_weights([trained, np.zeros(14)])

    abnormal_model(joint).save(tmp_path / "joint.keras")
    again = build("cnn", 32, str(tmp_path / "joint.keras"), head="joint")
    assert again.origin.description == "run:joint"
    np.testing.assert_allclose(again.get_layer("classes").kernel, trained, rtol=1e-6)


def test_another_architectures_run_is_refused(tmp_path):
    build("cnn", 32).save(tmp_path / "cnn.keras")
    with pytest.raises(WeightsError, match=r"cnn\.keras: a cnn, not a vgg16"):
        build("vgg16", 32, str(tmp_path / "cnn.keras"))
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Flatten()(image)
    keras.Model(image, keras.layers.Dense(1)(x)).save(tmp_path / "foreign.keras")
    with pytest.raises(WeightsError, match=r"foreign\.keras: "):
        build("cnn", 32, str(tmp_path / "foreign.keras"))
