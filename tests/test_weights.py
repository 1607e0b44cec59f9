"""Where weights come from, and what is said when they cannot be had; nothing is downloaded."""

import dataclasses
import threading
import urllib.error

import keras
import numpy as np
import pytest
from made_runs import make_run, predictions
from networks import randomise, write_keras_file

from mura import cli
from mura.files import write_json
from mura.models import architectures, weights
from mura.models.architectures import ARCHITECTURES, backbone, build, build_with_weights
from mura.models.weights import DownloadError, WeightsError
from mura.runs import Run, RunError

VGG16_FILE = ARCHITECTURES["vgg16"].weights_file
REMEDY = f"put Keras's {VGG16_FILE} into a folder and set weights to that (--weights FOLDER)"


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


def _assert_backbone_equals(model, reference):
    for one, other in zip(backbone(model).weights, reference.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=other.path)


def test_a_folder_a_file_and_keras_own_format_give_the_same_backbone(vgg16, vgg16_file, tmp_path):
    vgg16.save_weights(tmp_path / "mine.weights.h5")
    for place, described in (
        (vgg16_file.parent, f"file:{VGG16_FILE}"),
        (vgg16_file, f"file:{VGG16_FILE}"),
        (tmp_path / "mine.weights.h5", "file:mine.weights.h5"),
    ):
        model, started_from = build_with_weights("vgg16", 32, str(place))
        assert started_from == described
        _assert_backbone_equals(model, vgg16)


def test_what_keras_downloads_is_what_the_backbone_holds(vgg16, vgg16_file, reachable, monkeypatch):
    """Keras's download itself is replaced, its builder is not."""
    from keras.src.utils import file_utils

    asked = []
    monkeypatch.setattr(
        file_utils, "get_file", lambda name, *_, **__: asked.append(name) or str(vgg16_file)
    )
    model, started_from = build_with_weights("vgg16", 32, "imagenet")
    assert started_from == "imagenet"
    assert asked == [VGG16_FILE]
    _assert_backbone_equals(model, vgg16)


def test_a_run_is_found_by_its_name_from_the_notebooks_folder_too(tmp_path, monkeypatch):
    (tmp_path / "src" / "mura").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    model = tmp_path / "models" / "mine" / "model.keras"
    model.parent.mkdir(parents=True)
    model.touch()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        for name in ("mine", "models/mine"):
            assert weights.resolve(name).description == "run:mine"
            assert weights.resolve(name).path.samefile(model)


def test_a_tilde_in_a_weights_folder_is_ones_home(home):
    (home / VGG16_FILE).touch()
    assert weights.resolve("~", VGG16_FILE).path == home / VGG16_FILE


def test_no_weights_are_random_weights():
    model, started_from = build_with_weights("cnn", 32, None)
    assert started_from == "random"
    assert model.get_layer("stem_conv").kernel.numpy().std() > 0


def test_a_damaged_file_and_another_networks_file_are_told_by_name(vgg16_file, tmp_path):
    damaged = tmp_path / VGG16_FILE
    damaged.write_bytes(vgg16_file.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=f"{VGG16_FILE}.*cannot be loaded into vgg16"):
        build("vgg16", 32, str(damaged))
    damaged.write_bytes(b"<html>404</html>")
    with pytest.raises(WeightsError, match=f"{VGG16_FILE}.*cannot be loaded into vgg16"):
        build("vgg16", 32, str(tmp_path))
    with pytest.raises(WeightsError, match=f"{VGG16_FILE}.*into vgg19.*right architecture"):
        build("vgg19", 32, str(vgg16_file))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("empty", f"empty: holds no {VGG16_FILE}"),
        ("nowhere", "nowhere: no such weights"),
        ("weights.txt", r"weights.txt: expected a file that ends in \.h5"),
    ],
)
def test_weights_named_by_path_are_never_replaced_by_random_ones(place, words, strict, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.txt").write_text("1 2 3")
    with pytest.raises(WeightsError, match=words):
        build_with_weights("vgg16", 32, str(tmp_path / place), strict)


def test_without_a_network_the_error_says_how_to_provide_weights(unreachable):
    with pytest.raises(DownloadError) as caught:
        build("vgg16", 32, "imagenet")
    message = str(caught.value)
    assert "Name or service not known" in message
    assert REMEDY in message
    assert "\n" not in message


def test_without_a_network_quick_warns_once_and_starts_from_random_weights(unreachable):
    with pytest.warns(UserWarning, match="random weights") as caught:
        model, started_from = build_with_weights("vgg16", 32, "imagenet", strict=False)
    assert len(caught) == 1
    assert started_from == "random"
    random = build("vgg16", 32, None)
    for one, other in zip(model.get_weights(), random.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    over = threading.Event()

    def hang(request, timeout):
        over.wait(60)
        raise TimeoutError

    monkeypatch.setattr(weights.urllib.request, "urlopen", hang)
    monkeypatch.setattr(weights, "_SECONDS", 0.05)
    try:
        with pytest.raises(DownloadError, match="no answer within"):
            build("vgg16", 32, "imagenet")
    finally:
        over.set()


def test_a_download_that_breaks_off_is_one_clear_error(reachable, monkeypatch):
    from keras.src.utils import file_utils

    def break_off(name, origin, **_):
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno 104] reset by peer")

    monkeypatch.setattr(file_utils, "get_file", break_off)
    with pytest.raises(DownloadError, match=r"reset by peer.*--weights FOLDER"):
        build("vgg16", 32, "imagenet")
    with pytest.warns(UserWarning, match="reset by peer") as caught:
        _, started_from = build_with_weights("vgg16", 32, "imagenet", strict=False)
    assert (len(caught), started_from) == (1, "random")


def test_keras_own_copy_needs_no_network(unreachable, tmp_path):
    copy = tmp_path / "keras" / "models" / VGG16_FILE
    copy.parent.mkdir(parents=True)
    copy.touch()
    assert weights.resolve("imagenet", VGG16_FILE).description == "imagenet"


def test_the_custom_cnn_has_no_imagenet_weights(unreachable):
    with pytest.raises(WeightsError, match='no ImageNet weights; set weights to "none"'):
        build_with_weights("cnn", 32, "imagenet", strict=False)


def test_another_runs_weights_and_its_head_where_it_fits(tmp_path):
    donor = build("cnn", 32, seed=1)
    randomise(donor, seed=1)
    run = tmp_path / "wrist"
    run.mkdir()
    donor.save(run / "model.keras")
    for place in (run, run / "model.keras"):
        model, started_from = build_with_weights("cnn", 48, str(place), seed=2)
        assert started_from == "run:wrist"
        for one, other in zip(model.get_weights(), donor.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    joint, started_from = build_with_weights("cnn", 32, str(run), head="joint", seed=2)
    assert started_from == "run:wrist"
    for one, other in zip(backbone(joint).weights, backbone(donor).weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    fresh = build("cnn", 32, head="joint", seed=2).get_layer("classes")
    np.testing.assert_array_equal(joint.get_layer("classes").kernel, fresh.kernel)

    architectures.abnormal_model(joint).save(tmp_path / "joint.keras")
    again, started_from = build_with_weights("cnn", 32, str(tmp_path / "joint.keras"), head="joint")
    assert started_from == "run:joint"
    np.testing.assert_array_equal(again.get_layer("classes").kernel, fresh.kernel)


def test_a_run_of_a_network_whose_layers_keras_numbers(tmp_path):
    """Unnamed layers get other names in each network that a process builds."""
    donor = _numbered_network()
    donor.save(tmp_path / "run.keras")
    model = _numbered_network()
    assert donor.layers[1].name != model.layers[1].name
    source = weights.resolve(str(tmp_path / "run.keras"))
    weights.load(model, backbone(model), source)
    for one, other in zip(model.get_weights(), donor.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def _numbered_network():
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(image)
    x = keras.layers.Conv2D(4, 3)(x)
    x = keras.layers.Identity(name="feature_maps")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(1, "sigmoid", name="abnormal")(x))


def test_another_architectures_run_is_refused(tmp_path):
    build("cnn", 32).save(tmp_path / "cnn.keras")
    with pytest.raises(WeightsError, match=r"cnn\.keras: a cnn, not a vgg16"):
        build("vgg16", 32, str(tmp_path / "cnn.keras"))
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = keras.layers.Flatten()(image)
    keras.Model(image, keras.layers.Dense(1)(x)).save(tmp_path / "foreign.keras")
    with pytest.raises(WeightsError, match=r"foreign\.keras: a network that this project did not"):
        build("cnn", 32, str(tmp_path / "foreign.keras"))


def test_the_command_stops_before_it_decodes_or_builds(
    unreachable, phantom_root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MURA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(architectures, "_assemble", None)
    models = tmp_path / "models"
    command = ["train", "vgg16", "--profile", "full", "--root", str(phantom_root)]
    assert cli.main([*command, "--models", str(models)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("mura: ImageNet weights cannot be downloaded (")
    assert REMEDY in error
    assert not (tmp_path / "cache").exists()
    assert not models.exists() or not [path for path in models.iterdir() if path.is_dir()]


def test_a_quick_run_without_a_network_records_random(
    unreachable, phantom_root, tmp_path, monkeypatch, capsys
):
    # the custom CNN stands in for a pretrained network, because it is quick to train
    entry = dataclasses.replace(ARCHITECTURES["cnn"], weights_file="cnn_notop.h5")
    monkeypatch.setitem(ARCHITECTURES, "cnn", entry)
    monkeypatch.setattr("mura.models.custom_cnn.WIDTHS", (4, 8))
    command = ["train", "cnn", "--weights", "imagenet", "--image-size", "32", "--epochs", "1"]
    assert cli.main([*command, "--root", str(phantom_root), "--models", str(tmp_path)]) == 0
    output, errors = capsys.readouterr()
    assert [line for line in errors.splitlines() if "random" in line] == [
        "mura: ImageNet weights cannot be downloaded (<urlopen error [Errno -2] Name or service "
        "not known>): put Keras's cnn_notop.h5 into a folder and set weights to that (--weights "
        "FOLDER), or to none. Training starts from random weights."
    ]
    assert Run.load(tmp_path / "cnn").environment["weights"] == "random"
    assert "random" in output.splitlines()[-2]  # the table of results


def test_a_builder_that_takes_other_settings_is_no_failed_download():
    with pytest.raises(TypeError), weights.downloading("file.h5"):
        keras.applications.EfficientNetB0(include_preprocessing=True)


def test_weights_are_located_the_same_from_wherever_they_are_named(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name / "cnn").mkdir(parents=True)
        (tmp_path / name / "cnn" / "model.keras").touch()
    monkeypatch.chdir(tmp_path / "here")
    whole = str(tmp_path / "here" / "cnn")
    for name in ("cnn", "cnn/", "cnn/model.keras", "../here/cnn", whole):
        assert weights.located(name) == whole
    assert weights.located("../there/cnn") != whole  # of the same name
    assert weights.located("gone/cnn") == str(tmp_path / "here" / "gone" / "cnn")
    assert weights.located(None) is None and weights.located("imagenet") == "imagenet"


def test_a_run_whose_start_is_of_another_kind_is_named(phantom_root, tmp_path):
    run = make_run(tmp_path, "donor", predictions(phantom_root, 1.0))
    write_json(run.folder / "recipe.json", run.recipe | {"weights": 5})
    with pytest.raises(RunError, match=r"donor/recipe\.json: damaged \(weights is 5"):
        weights.lineage(run.folder)


def test_none_is_no_file_of_that_name():
    assert weights.resolve("none") == weights.resolve(None)
    assert build_with_weights("cnn", 32, weights="none")[1] == "random"


def test_a_network_of_ones_own_has_no_imagenet_weights(reachable):
    with pytest.raises(WeightsError, match="no ImageNet weights"):
        build("cnn", 32, weights="imagenet")
    source = weights.WeightSource("imagenet")
    with pytest.raises(WeightsError, match="cnn: Keras has no ImageNet weights of it"):
        architectures._backbone(ARCHITECTURES["cnn"], keras.Input((32, 32, 1)), source)
