"""Keras's diagnosis: the oracle's figures on the set backend, and nothing left behind on the model."""

import keras
import numpy as np
import pytest

import sbp_keras
from sbp_core import Constant, LIFSpec
from tests import signals


def batches():
    return [(np.moveaxis(images, 1, -1), labels) for images, labels in signals.batches()]


@pytest.fixture(scope="module")
def net():
    found = sbp_keras.Network(signals.SPEC, (6, 6, 2))
    sbp_keras.import_weights(found, signals.WEIGHTS)
    return found


def test_neurons_are_seen_to_start_from_what_they_followed():
    def made(**fields):
        inputs = keras.Input((3, 8))
        spikes = sbp_keras.LIF(name="spikes", **fields)(inputs)
        return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="ones", name="last")(spikes))

    random = np.random.default_rng(0)
    own = [(random.normal(size=(6, 3, 8)).astype("float32"), np.arange(6) % 3) for _ in range(2)]
    follows = made(initial_follows=True)
    fresh = str(sbp_keras.diagnose(follows, own))
    follows.get_layer("spikes").running_potential.assign(0.75)
    found = str(sbp_keras.diagnose(follows, own))
    assert found == str(sbp_keras.diagnose(made(initial_potential=0.75), own)) != fresh
    assert float(follows.get_layer("spikes").running_potential) == 0.75


def test_figures_are_the_oracles_and_nothing_is_left(net):
    before = [variable.numpy() for variable in net.variables]
    signals.assert_same(sbp_keras.diagnose(net, batches(), noise=0.2, seed=5))
    signals.assert_same_descent(sbp_keras.diagnose(net, batches(), noise=0.2, seed=5, slopes=3))
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, net.variables, strict=True))
    assert not any("call" in vars(layer) for layer in net.layers)


def test_a_model_of_ones_own_is_measured_without_dropout():
    inputs = keras.Input((3, 8))
    x = keras.layers.Dense(12, name="first", kernel_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=0))(
        inputs
    )
    x = keras.layers.Dropout(0.5)(sbp_keras.LIF(name="spikes")(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(x))
    random = np.random.default_rng(0)
    own = [(random.normal(size=(6, 3, 8)).astype("float32"), np.arange(6) % 3) for _ in range(2)]
    found = sbp_keras.diagnose(model, own)
    assert [neuron.path for neuron in found.neurons] == ["spikes"]
    assert [weights.path for weights in found.weights] == ["first", "last"]
    assert str(sbp_keras.diagnose(model, own)) == str(found)


def test_a_shortcut_is_measured_with_its_branches(net):
    model = sbp_keras.ShortcutModel(net, ["layer1"], 4, coefficient=50.0)
    norms = {neuron.path: neuron.norm for neuron in sbp_keras.diagnose(model, batches()[:2]).neurons}
    assert norms["main.layer1.0.neuron2"] > 10 * norms["main.layer2.0.neuron2"]


def own_model():
    """A model with random numbers, statistics that move, and a coefficient; and batches for it."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3, 8))
    x = sbp_keras.BatchNormalization()(keras.layers.Dense(12, name="first")(inputs))
    x = keras.layers.Dropout(0.5)(sbp_keras.LIF(LIFSpec(threshold=0.3, learn_decay=True), name="spikes")(x))
    main = keras.Model(inputs, sbp_keras.Readout(3)(x))
    model = sbp_keras.ShortcutModel(main, ["spikes"], 3, combine="losses", coefficient=0.5)
    random = np.random.default_rng(0)
    return model, [(random.normal(size=(6, 3, 8)).astype("float32"), np.arange(6) % 3) for _ in range(3)]


def test_looks_again_and_again_are_the_eager_ones_and_leave_nothing():
    model, own = own_model()
    diagnoser, losses = sbp_keras.Diagnoser(), []
    for coefficient, scale in ((0.5, 1.0), (40.0, 1.0), (0.0, 1.5)):
        model.coefficient.assign(coefficient)
        model.set_weights([value * scale if value.ndim > 1 else value for value in model.get_weights()])
        before = [keras.ops.convert_to_numpy(variable).copy() for variable in model.variables]
        found = diagnoser(model, own)
        signals.assert_same(found, sbp_keras.diagnose(model, own))
        after = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        losses.append(found.loss)
    assert len(set(losses)) == 3


def test_a_model_is_traced_once_and_anew_where_it_computes_something_else():
    model, own = own_model()
    calls = []

    def loss(given, labels):
        calls.append(len(given.branches))
        return keras.ops.mean(keras.ops.square(given.main)) + model.coefficient * keras.ops.mean(given.branches[0])

    diagnoser = sbp_keras.Diagnoser(loss=loss)
    first = diagnoser(model, own)
    once, each = len(calls), len(own) + 1
    model.coefficient.assign(3.0)
    second = diagnoser(model, own)
    assert first.loss != second.loss
    # on PyTorch nothing is traced
    assert len(calls) - once == (each if keras.backend.backend() == "torch" else 0)
    model.main.get_layer("first").trainable = False
    assert [weights.path for weights in diagnoser(model, own).weights] == [
        weights.path for weights in first.weights if weights.path != "first"
    ]
    for value in (2.0, 5.0):
        model.schedule = Constant(value=value)
        signals.assert_same(diagnoser(model, own), sbp_keras.diagnose(model, own, loss=loss))


def test_mistakes_are_named():
    with pytest.raises(TypeError, match="model must be a Keras model, got 3"):
        sbp_keras.diagnose(3, batches())
    inputs = keras.Input((3, 8))
    neuron = sbp_keras.LIF(name="twice")
    model = keras.Model(inputs, keras.layers.Dense(3)(neuron(neuron(inputs))))
    own = [(np.ones((6, 3, 8), "float32"), np.arange(6) % 3) for _ in range(2)]
    with pytest.raises(ValueError, match="neuron 'twice' is called more than once"):
        sbp_keras.diagnose(model, own)
    assert "call" not in vars(neuron)


def test_a_fit_that_is_watched_ends_in_the_same_bits(tmp_path):
    random = np.random.default_rng(0)
    images, labels = random.normal(size=(12, 3, 8)).astype("float32"), np.arange(12) % 3
    ends, watch = [], sbp_keras.WatchCallback([(images[:4], labels[:4]), (images[4:8], labels[4:8])], every=2)
    for callbacks in ([], [watch]):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((3, 8))
        x = keras.layers.Dropout(0.5)(sbp_keras.LIF()(keras.layers.Dense(12)(inputs)))
        model = keras.Model(inputs, keras.layers.Dense(3)(x)[:, -1])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images, labels, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
        ends.append([keras.ops.convert_to_numpy(variable) for variable in model.variables])
    assert all(np.array_equal(plain, watched) for plain, watched in zip(*ends, strict=True))
    assert [look.step for look in watch.looks] == [1, 2, 4, 6]
    signals.assert_same(watch.looks[-1].found, sbp_keras.diagnose(model, watch.batches))
