"""ShortcutModel and ShortcutCallback in ``fit``; every test runs on whichever backend Keras is set to."""

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import Constant, Evolutionary, Step

TAPS = ["layer1", "layer2"]
# how Keras runs the step: tf.function without and with XLA, jax.jit, eager PyTorch (torch.compile takes minutes)
JIT = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[keras.backend.backend()]


def make_net(name="net"):
    inputs = keras.Input((3, 6))
    x = inputs
    for layer in TAPS:
        x = keras.layers.Dense(8, kernel_initializer=keras.initializers.RandomNormal(stddev=0.8))(x)
        x = sbp_keras.LIF(surrogate="triangle", name=layer)(x)
    return keras.Model(inputs, sbp_keras.Readout(4, name="head")(x), name=name)


def make_model(combine="logits", learning_rate=0.0, loss=None, **options):
    keras.utils.set_random_seed(0)
    model = sbp_keras.ShortcutModel(make_net(), TAPS, 4, combine)
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(learning_rate), loss=loss, metrics=["accuracy"], **options)
    return model


def data(samples=40):
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, 3, 6)).astype("float32"), rng.integers(0, 4, samples)


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def logits_by_hand(model, x):
    """Main and branch logits in float64, from the taps' spikes and the branches' weights."""
    blocks = keras.Model(model.main.input, [model.main.get_layer(tap).output for tap in TAPS])
    branches = [
        (np.asarray(spikes, "float64") @ numpy(branch.kernel) + numpy(branch.bias)).mean(axis=1)
        for spikes, branch in zip(blocks.predict(x, verbose=0), model.branches, strict=True)
    ]
    return model.main.predict(x, verbose=0).astype("float64"), branches


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_softmax[np.arange(len(labels)), labels].mean()


class Recorder(keras.callbacks.Callback):
    """The loss of every step, undone from fit's running mean, and a number of the caller's after each step."""

    def __init__(self, probe=lambda: 0):
        super().__init__()
        self.losses, self.probes, self.probe = [], [], probe

    def on_epoch_begin(self, epoch, logs=None):
        self.steps, self.total = 0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        total = float(logs["loss"]) * self.steps
        self.losses.append(total - self.total)
        self.total = total
        self.probes.append(self.probe())


@pytest.mark.parametrize("jit_compile", JIT)
def test_each_step_of_fit_uses_its_own_coefficient_for_separate_losses(jit_compile):
    x, y = data()
    model = make_model("losses", learning_rate=0.0, jit_compile=jit_compile)
    main, branches = logits_by_hand(model, x)
    schedule = Evolutionary(initial=2.0, total_steps=10)
    recorder = Recorder()
    callbacks = [sbp_keras.ShortcutCallback(schedule), recorder]
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)

    expected = []
    for k in range(1, 11):
        rows = slice(8 * ((k - 1) % 5), 8 * ((k - 1) % 5) + 8)
        weight = 2.0 * (1 - k / 10)
        parts = [cross_entropy(b[rows], y[rows]) for b in branches]
        expected.append(cross_entropy(main[rows], y[rows]) + weight * sum(parts))
    np.testing.assert_allclose(recorder.losses, expected, rtol=0, atol=1e-5)


def test_moving_the_coefficient_compiles_nothing_again():
    if keras.backend.backend() == "torch":
        pytest.skip("Keras runs PyTorch eagerly: there is nothing to compile again")
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    inputs = keras.Input((3, 6))
    hidden = sbp_keras.LIF(name="layer1")(Counting()(inputs))
    model = sbp_keras.ShortcutModel(keras.Model(inputs, sbp_keras.Readout(4)(hidden)), ["layer1"], 4)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    recorder = Recorder(lambda: len(traces))
    callbacks = [sbp_keras.ShortcutCallback(Evolutionary()), recorder]
    model.fit(*data(), batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    assert len(recorder.probes) == 15
    assert recorder.probes[0] >= 1
    assert set(recorder.probes) == {recorder.probes[0]}


def test_a_branch_learns_in_proportion_to_the_coefficient_and_stays_at_zero():
    x, y = data(8)

    def step(coefficient):
        model = make_model(learning_rate=1.0)
        before = [numpy(weight) for weight in model.trainable_weights]
        callbacks = [sbp_keras.ShortcutCallback(Constant(value=coefficient))]
        model.fit(x, y, batch_size=8, verbose=0, callbacks=callbacks)
        after = [numpy(weight) for weight in model.trainable_weights]
        moved = {id(w): b - a for w, a, b in zip(model.trainable_weights, before, after, strict=True)}
        return model, moved

    model, moved = step(0.5)
    main, branches = logits_by_hand(make_model(), x)
    summed = main + 0.5 * sum(branches)
    softmax = np.exp(summed) / np.exp(summed).sum(axis=1, keepdims=True)
    residual = softmax - np.eye(4)[y]
    for branch in model.branches:
        np.testing.assert_allclose(moved[id(branch.bias)], -0.5 * residual.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(moved[id(model.main.get_layer("head").bias)], -residual.mean(axis=0), rtol=0, atol=1e-6)

    model, moved = step(0.0)
    assert all(np.all(moved[id(branch.kernel)] == 0) for branch in model.branches)
    assert np.any(moved[id(model.main.get_layer("head").kernel)] != 0)


def test_outside_training_the_model_is_the_main_one():
    x, y = data()
    model = make_model(learning_rate=0.1)
    main, branches = logits_by_hand(model, x)
    assert max(np.abs(branch).max() for branch in branches) > 0.1
    np.testing.assert_allclose(model.predict(x, verbose=0), main, rtol=0, atol=1e-6)
    np.testing.assert_allclose(numpy(model(x)), main, rtol=0, atol=1e-6)
    np.testing.assert_allclose(numpy(model(x, training=True)), main + sum(branches), rtol=0, atol=1e-5)
    model.coefficient.assign(0.25)
    np.testing.assert_allclose(numpy(model(x, training=True)), main + 0.25 * sum(branches), rtol=0, atol=1e-5)

    callbacks = [sbp_keras.ShortcutCallback(Constant(value=1.0))]
    history = model.fit(x, y, batch_size=20, epochs=2, validation_data=(x, y), verbose=0, callbacks=callbacks).history
    main, _ = logits_by_hand(model, x)
    accuracy = (main.argmax(axis=1) == y).mean()
    assert history["val_accuracy"][-1] == pytest.approx(accuracy, abs=1e-6)
    assert history["val_loss"][-1] == pytest.approx(cross_entropy(main, y), abs=1e-5)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] == pytest.approx(cross_entropy(main, y), abs=1e-5)


def test_separate_losses_report_the_main_models_metrics():
    x, y = data(8)
    model = make_model("losses", loss="sparse_categorical_crossentropy")
    output = model(x, training=True)
    main, branches = logits_by_hand(model, x)
    np.testing.assert_allclose(numpy(output.main), main, rtol=0, atol=1e-6)
    for got, wanted in zip(output.branches, branches, strict=True):
        np.testing.assert_allclose(numpy(got), wanted, rtol=0, atol=1e-5)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["accuracy"] == pytest.approx((main.argmax(axis=1) == y).mean(), abs=1e-6)


def test_the_history_has_the_last_coefficient_of_each_epoch():
    x, y = data()
    model = make_model()
    callback = sbp_keras.ShortcutCallback(Evolutionary(initial=0.25))
    assert "coefficient" not in model.fit(x, y, batch_size=8, verbose=0).history
    history = model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[callback]).history
    assert history["coefficient"] == pytest.approx([0.25 * (1 - 3 * epoch / 12) for epoch in range(1, 5)])
    assert float(numpy(model.coefficient)) == 0.0
    again = model.fit(x, y, batch_size=20, epochs=2, verbose=0, callbacks=[callback]).history
    assert again["coefficient"] == pytest.approx([0.125, 0.0])


def test_a_resumed_fit_goes_on_where_it_stopped():
    x, y = data()
    model = make_model()
    schedule = Evolutionary(initial=0.25, total_steps=20)
    whole = []
    for first, last in ((0, 1), (1, 4)):
        callbacks = [sbp_keras.ShortcutCallback(schedule)]
        fitted = model.fit(x, y, batch_size=8, initial_epoch=first, epochs=last, verbose=0, callbacks=callbacks)
        whole += fitted.history["coefficient"]
    assert whole == pytest.approx([0.25 * (1 - 5 * epoch / 20) for epoch in range(1, 5)])


def test_a_schedule_per_epoch_moves_once_an_epoch():
    x, y = data()
    model = make_model()
    schedule = Step(initial=1.0, factor=0.5, milestones=(0.5,), per="epoch")
    callbacks = [sbp_keras.ShortcutCallback(schedule)]
    history = model.fit(x, y, batch_size=20, epochs=4, verbose=0, callbacks=callbacks).history
    assert history["coefficient"] == [1.0, 1.0, 0.5, 0.5]


def batches(count):
    x, y = data(8)
    for _ in range(count):
        yield x, y


def test_data_without_a_length_needs_total_steps():
    model = make_model()
    with pytest.raises(ValueError, match="total_steps to the schedule"):
        model.fit(batches(5), verbose=0, callbacks=[sbp_keras.ShortcutCallback(Evolutionary())])
    callbacks = [sbp_keras.ShortcutCallback(Evolutionary(total_steps=5, per="epoch"))]
    with pytest.raises(ValueError, match="steps_per_epoch to fit"):
        model.fit(batches(5), verbose=0, callbacks=callbacks)
    callbacks = [sbp_keras.ShortcutCallback(Evolutionary(total_steps=5))]
    with pytest.raises(ValueError, match="initial_epoch is 1"):
        model.fit(batches(5), initial_epoch=1, epochs=2, verbose=0, callbacks=callbacks)
    callbacks = [sbp_keras.ShortcutCallback(Evolutionary(initial=0.5, total_steps=10))]
    history = model.fit(batches(5), verbose=0, callbacks=callbacks).history
    assert history["coefficient"] == [0.25]
    callbacks = [sbp_keras.ShortcutCallback(Evolutionary(initial=0.5))]
    history = model.fit(batches(4), steps_per_epoch=2, epochs=2, verbose=0, callbacks=callbacks).history
    assert history["coefficient"] == [0.25, 0.0]


def test_the_callback_refuses_what_it_cannot_drive():
    x, y = data()
    with pytest.raises(TypeError, match="schedule must be a Schedule"):
        sbp_keras.ShortcutCallback(0.25)
    net = make_net()
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(TypeError, match="needs a ShortcutModel"):
        net.fit(x, y, verbose=0, callbacks=[sbp_keras.ShortcutCallback(Evolutionary())])
    with pytest.raises(ValueError, match="schedule must be given"):
        make_model().fit(x, y, verbose=0, callbacks=[sbp_keras.ShortcutCallback()])


def test_the_net_is_not_touched_and_comes_back():
    net = make_net()
    calls = {layer.name: (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in net.layers}
    weights = [id(weight) for weight in net.weights]
    model = sbp_keras.ShortcutModel(net, TAPS, 4)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data(), verbose=0, callbacks=[sbp_keras.ShortcutCallback(Evolutionary())])
    assert model.main is net
    assert model.strip() is net
    assert {layer.name: (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in net.layers} == calls
    assert [id(weight) for weight in net.weights] == weights
    # each of the net's weights counts once; the branches, the coefficient and the step are the model's own
    assert len(model.weights) == len(net.weights) + 2 * len(TAPS) + 2
    assert "coefficient" not in {weight.name for weight in model.trainable_weights}


def test_the_main_model_is_saved_and_loaded_without_the_shortcut(tmp_path):
    x, y = data()
    model = make_model(learning_rate=0.1)
    model.fit(x, y, verbose=0, callbacks=[sbp_keras.ShortcutCallback(Evolutionary())])
    model.main.save(tmp_path / "inference.keras")
    loaded = keras.models.load_model(tmp_path / "inference.keras")
    assert not isinstance(loaded, sbp_keras.ShortcutModel)
    assert len(loaded.weights) == len(model.main.weights)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("combine", ["logits", "losses"])
def test_the_whole_model_is_saved_and_loaded(tmp_path, combine):
    x, _ = data()
    model = make_model(combine)
    model.coefficient.assign(0.125)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.spec == model.spec
    assert float(numpy(loaded.coefficient)) == 0.125
    for got, wanted in zip(
        ops.convert_to_numpy(ops.stack(keras.tree.flatten(loaded(x, training=True)))),
        ops.convert_to_numpy(ops.stack(keras.tree.flatten(model(x, training=True)))),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


def test_a_tap_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"tap 'layr1' does not exist; did you mean .*layer1.*The network has: .*head"):
        sbp_keras.ShortcutModel(make_net(), ["layr1"], 4)
    with pytest.raises(TypeError, match="taps must be a sequence of names"):
        sbp_keras.ShortcutModel(make_net(), "layer1", 4)
    with pytest.raises(ValueError, match="at least one block"):
        sbp_keras.ShortcutModel(make_net(), [], 4)
    with pytest.raises(ValueError, match="combine must be one of"):
        sbp_keras.ShortcutModel(make_net(), TAPS, 4, combine="sum")
    with pytest.raises(ValueError, match=r"net must give \(batch, 5\)"):
        sbp_keras.ShortcutModel(make_net(), TAPS, 5)
    with pytest.raises(ValueError, match="coefficient must be finite"):
        sbp_keras.ShortcutModel(make_net(), TAPS, 4, coefficient=float("inf"))


def test_a_net_that_cannot_be_tapped_says_what_to_do():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(TypeError, match=r"Build it as keras.Model\(inputs, outputs\)"):
        sbp_keras.ShortcutModel(Subclassed(), TAPS, 4)
    inputs = keras.Input((3, 6))

    class Halved(keras.Model):
        def call(self, inputs):
            return super().call(inputs) / 2

    # its layers are a graph, but what it computes is not that graph
    net = Halved(inputs, sbp_keras.Readout(4)(keras.layers.Dense(6, name="dense")(inputs)), name="halved")
    with pytest.raises(TypeError, match=r"'halved', a Halved, has a call\(\) of its own. Build it"):
        sbp_keras.ShortcutModel(net, ["dense"], 4)
    outer = keras.Model(inputs, net(inputs))
    with pytest.raises(ValueError, match="tap 'halved/dense' cannot be reached"):
        sbp_keras.ShortcutModel(outer, ["halved/dense"], 4)
    with pytest.raises(TypeError, match="net must be a keras"):
        sbp_keras.ShortcutModel(lambda x: x, TAPS, 4)
    inputs = keras.Input((3, 6))
    twice = keras.layers.Dense(6, name="twice")
    net = keras.Model(inputs, sbp_keras.Readout(4)(twice(twice(inputs))))
    with pytest.raises(ValueError, match="'twice' is called 2 times"):
        sbp_keras.ShortcutModel(net, ["twice"], 4)


@pytest.mark.parametrize(
    ("shape", "time_axis", "channel_axis", "pooled"),
    [
        ((5, 6, 3), None, -1, lambda x: x.mean(axis=(1, 2))),
        ((2, 5, 6, 3), 1, -1, lambda x: x.mean(axis=(1, 2, 3))),
        ((2, 3, 5, 6), 1, 2, lambda x: x.mean(axis=(1, 3, 4))),
        ((3, 2, 5, 6), 2, 1, lambda x: x.mean(axis=(2, 3, 4))),
    ],
)
def test_a_branch_pools_all_but_time_and_channels(shape, time_axis, channel_axis, pooled):
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    readout = sbp_keras.Readout(7, time_axis, channel_axis)
    expected = pooled(x.astype("float64")) @ numpy((readout(x), readout.kernel)[1]) + numpy(readout.bias)
    np.testing.assert_allclose(numpy(readout(x)), expected, rtol=0, atol=1e-6)
    assert tuple(readout.kernel.shape) == (3, 7)
    assert np.abs(numpy(readout.kernel)).max() <= 3**-0.5


def test_an_axis_that_the_input_lacks_is_refused():
    x = np.zeros((2, 4, 3), "float32")
    with pytest.raises(ValueError, match="time_axis must be an axis"):
        sbp_keras.Readout(7, time_axis=3)(x)
    with pytest.raises(ValueError, match="time_axis and channels must differ"):
        sbp_keras.Readout(7, time_axis=2)(x)


def test_the_loss_for_loops_of_ones_own_matches_both_compositions():
    rng = np.random.default_rng(0)
    main, first, second = rng.normal(size=(3, 5, 4)).astype("float32")
    labels = rng.integers(0, 4, 5)
    output = sbp_keras.ShortcutOutput(ops.convert_to_tensor(main), tuple(map(ops.convert_to_tensor, (first, second))))
    separate = cross_entropy(main, labels) + 0.5 * (cross_entropy(first, labels) + cross_entropy(second, labels))
    summed = cross_entropy(main + 0.5 * (first + second), labels)
    assert float(sbp_keras.ShortcutLoss()(output, labels, 0.5)) == pytest.approx(separate, abs=1e-6)
    assert float(sbp_keras.ShortcutLoss("logits")(output, labels, 0.5)) == pytest.approx(summed, abs=1e-6)
    with pytest.raises(TypeError, match="must be a ShortcutOutput"):
        sbp_keras.ShortcutLoss()(main, labels, 0.5)
