"""TensorFlow's fused kernels: what they compute is what Keras's own layers and Adam compute."""

import keras
import numpy as np
import pytest
from networks import noise_images, randomise

from mura import models

if keras.backend.backend() != "tensorflow":
    pytest.skip("the kernels are TensorFlow's: set KERAS_BACKEND", allow_module_level=True)

import tensorflow as tf

from mura.training.fused import FusedAdam, FusedNormalization, fused_network


def normalisation(**settings):
    layer = keras.layers.BatchNormalization(dtype="float32", **settings)
    layer.build((None, 5, 7, 3))
    random = np.random.default_rng(0)
    layer.set_weights([random.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    return layer


def trained_once(call, layer, maps):
    """Return output, gradients and the layer's moving statistics of one training call."""
    random = tf.constant(np.random.default_rng(1).normal(size=maps.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        output = call(maps, training=True)
        loss = tf.reduce_sum(random * tf.cast(output, tf.float32))
    gradients = tape.gradient(loss, [maps, *(v.value for v in layer.trainable_variables)])
    return [output, *gradients, layer.moving_mean.value, layer.moving_variance.value]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_normalisation_trains_as_kerass_does(scale, center):
    settings = {"scale": scale, "center": center, "momentum": 0.7, "epsilon": 1e-2}
    plain, wrapped = normalisation(**settings), normalisation(**settings)
    maps = tf.constant(np.random.default_rng(2).normal(3, 4, (2, 5, 7, 3)), tf.float32)
    expected = trained_once(plain, plain, maps)
    found = trained_once(FusedNormalization(wrapped), wrapped, maps)
    assert len(found) == 4 + scale + center
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("training", "frozen"), [(False, False), (True, True)])
def test_normalisation_uses_and_keeps_the_moving_statistics_unless_it_learns(training, frozen):
    layer = normalisation()
    layer.trainable = not frozen
    before = [np.array(weight) for weight in layer.get_weights()]
    maps = tf.constant(np.random.default_rng(2).normal(3, 4, (2, 5, 7, 3)), tf.float32)
    found = FusedNormalization(layer)(maps, training=training)
    np.testing.assert_allclose(found, layer(maps, training=False), rtol=1e-5, atol=1e-5)
    for left, right in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"use_ema": True}])
def test_adam_steps_as_kerass_does(settings):
    random = np.random.default_rng(0)
    start = [random.normal(size=(4, 3)), random.normal(size=3)]
    gradients = [
        [tf.constant(random.normal(size=x.shape), tf.float32) for x in start] for _ in range(5)
    ]
    rate = keras.optimizers.schedules.CosineDecay(0.1, 5)
    ends = []
    for kind in (keras.optimizers.Adam, FusedAdam):
        variables = [keras.Variable(value, dtype="float32") for value in start]
        optimizer = kind(rate, **settings)
        for step in gradients:
            optimizer.apply(step, variables)
        assert int(optimizer.iterations) == 5
        ends.append([v.numpy() for v in (*variables, *optimizer.variables[2:])])
    for left, right in zip(*ends, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert np.abs(ends[0][0] - start[0]).max() > 0.1


def test_a_fused_network_shares_its_variables_and_answers_the_same():
    network = models.build("cnn", 32)
    random = np.random.default_rng(0)
    network.set_weights([w + random.uniform(0, 0.3, w.shape) for w in network.get_weights()])
    fused = fused_network(network)
    wrapped = [layer for layer in fused.layers if isinstance(layer, FusedNormalization)]
    plain = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert [layer.layer for layer in wrapped] == plain
    assert plain
    assert [id(v) for v in fused.trainable_variables] == [
        id(v) for v in network.trainable_variables
    ]
    images = random.integers(0, 256, (2, 32, 32, 1), np.uint8)
    np.testing.assert_allclose(fused(images), network(images), rtol=1e-4, atol=1e-5)


def test_layers_called_by_keywords_stay_as_they_are():
    image = keras.Input((8, 8, 4))
    attended = keras.layers.MultiHeadAttention(2, 3)(query=image, value=image)
    network = keras.Model(image, keras.layers.Conv2D(6, 1)(inputs=attended))
    fused = fused_network(network)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    np.testing.assert_allclose(fused(images), network(images), rtol=1e-4, atol=1e-5)


FAMILIES = {  # the least image of each, so that a step takes seconds
    "cnn": 32, "vgg16": 32, "resnet50": 64, "densenet121": 64,
    "inception_v3": 80, "xception": 80, "efficientnet_v2_b0": 64, "convnext_tiny": 64,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_of_every_family_is_kerass_own(name):
    """What is trained is the network that Keras's builder made: answers, gradients, statistics."""
    size = FAMILIES[name]
    network = models.build(name, size, dropout=0.0)
    for layer in network.layers:  # what falls away at random would differ
        for rate in ("rate", "drop_path_rate"):
            if hasattr(layer, rate):
                setattr(layer, rate, 0.0)
    randomise(network)
    images, labels = noise_images(6, size), np.arange(6.0)[:, None] % 2
    start, random = network.get_weights(), np.random.default_rng(0)
    moved = [w * (1 + 1e-6 * random.normal(size=w.shape)) for w in start]
    found = []
    for each, weights in ((network, start), (fused_network(network), start), (network, moved)):
        network.set_weights(weights)
        with tf.GradientTape() as tape:
            answers = each(images, training=True)
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, answers))
        gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
        gradient = np.concatenate([g.numpy().ravel() for g in gradients])
        statistics = [v.numpy() for v in network.non_trainable_variables if "moving" in v.path]
        found.append((answers.numpy(), gradient, statistics))
    (answers, gradient, statistics), (ours, our_gradient, our_statistics), (_, near, _) = found
    np.testing.assert_allclose(ours, answers, atol=2e-3)
    for one, other in zip(statistics, our_statistics, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-2, atol=1e-3)

    def differs(other):
        return np.linalg.norm(other - gradient) / np.linalg.norm(gradient)

    # With few images in a batch rounding grows from layer to layer: no further apart than where
    # the weights are changed by a millionth.
    assert differs(our_gradient) < min(0.1, max(1e-4, 3 * differs(near)))
