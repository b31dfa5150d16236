"""What is attached x how it is trained, on whichever backend Keras is set to.

Each cell trains four steps with a learning rate of 0 and compares the loss of every step with one written by hand.
"""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import sbp_keras
from sbp_core import Evolutionary

BACKEND = keras.backend.backend()
STEPS, BATCH, CLASSES = 4, 4, 3
SCHEDULE = Evolutionary(initial=2.0, total_steps=STEPS)


def dense(units=5):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.RandomNormal(stddev=0.8))


def lif(name=None):
    return sbp_keras.LIF(surrogate="triangle", name=name)


def functional(inputs):
    first = lif("layer1")(dense()(inputs))
    second = lif("layer2")(dense()(first))
    return keras.Model(inputs, sbp_keras.Readout(CLASSES, name="head")(second)), ["layer1", "layer2"]


def sequential(inputs):
    layers = [dense(), lif("layer1"), dense(), lif("layer2"), sbp_keras.Readout(CLASSES)]
    return keras.Sequential([keras.Input(inputs.shape[1:]), *layers]), ["layer1", "layer2"]


def nested(inputs):
    block_input = keras.Input((3, 5))
    block = keras.Model(block_input, lif("fire")(dense()(block_input)), name="block")
    encoder_input = keras.Input((3, 5))
    first = lif("layer1")(encoder_input)
    encoder = keras.Model(encoder_input, dense()(block(first)), name="encoder")
    outside = encoder(dense()(inputs))
    return keras.Model(inputs, sbp_keras.Readout(CLASSES)(outside)), ["encoder/layer1", "encoder/block/fire", "encoder"]


def two_inputs(inputs):
    other = keras.Input((3, 6), name="other")
    joined = keras.layers.Add(name="layer1")([dense()(inputs), dense()(other)])
    return keras.Model({"x": inputs, "other": other}, sbp_keras.Readout(CLASSES)(lif()(joined))), ["layer1"]


def several_outputs(inputs):
    output, state = sbp_keras.LIF(surrogate="triangle", return_state=True, name="lif")(dense()(inputs))
    joined = keras.layers.Add()([output, keras.layers.RepeatVector(3)(state.potential)])
    return keras.Model(inputs, sbp_keras.Readout(CLASSES)(joined)), ["lif:0"]


def beside_shared(inputs):
    shared = dense(6)
    before = lif("before")(inputs)
    after = lif("after")(shared(shared(before)))
    return keras.Model(inputs, sbp_keras.Readout(CLASSES)(after)), ["before", "after"]


def over_space(inputs):
    maps = lif("layer1")(keras.layers.Reshape((3, 3, 2))(dense(6)(inputs)))
    return keras.Model(inputs, sbp_keras.Readout(CLASSES)(maps)), ["layer1"]


def own_head(channels, classes):
    return keras.Sequential([keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(classes)])


ATTACHED = {
    "functional": (functional, {}),
    "Sequential": (sequential, {}),
    "inside models": (nested, {}),
    "two inputs": (two_inputs, {}),
    "one of several outputs": (several_outputs, {}),
    "beside a shared layer": (beside_shared, {}),
    "convolutional branch": (over_space, {"branch": "convolutional"}),
    "own branch": (functional, {"branch": own_head}),
}
MODES = ["fit", "train_on_batch", "own loop", "mixed_bfloat16", "mixed_float16", "accumulation"]
MODES += {"tensorflow": ["eager", "jit", "execution of 3"], "jax": ["eager", "execution of 3"], "torch": ["jit"]}[
    BACKEND
]
CELLS = [(kind, "fit") for kind in ATTACHED] + [("functional", mode) for mode in MODES if mode != "fit"]
CELLS += [("inside models", mode) for mode in ("own loop", "mixed_bfloat16")]


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def data():
    x = np.random.default_rng(0).normal(size=(STEPS * BATCH, 3, 6)).astype("float32")
    return x, np.random.default_rng(1).integers(0, CLASSES, STEPS * BATCH)


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_softmax[np.arange(len(labels)), labels].mean()


def tapped_by_hand(net, taps, x):
    """The tapped outputs, by calling layer after layer, the way the graph goes, without any shortcut."""
    values = {}

    def run(model, inputs, prefix):
        flat = [inputs[tensor.name] if isinstance(inputs, dict) else inputs for tensor in model.inputs]
        known = {id(tensor): value for tensor, value in zip(model.inputs, flat, strict=True)}

        def value(tensor):
            if id(tensor) not in known:
                layer, index, _ = tensor._keras_history
                node = layer._inbound_nodes[index]
                arguments = [value(argument) for argument in node.input_tensors]
                whole = arguments[0] if len(arguments) == 1 else arguments
                inner = isinstance(layer, keras.Model)
                outputs = run(layer, whole, f"{prefix}{layer.name}/") if inner else layer(whole)
                for place, (symbol, output) in enumerate(zip(node.outputs, keras.tree.flatten(outputs), strict=True)):
                    known[id(symbol)] = values[f"{prefix}{layer.name}:{place}"] = output
            return known[id(tensor)]

        return value(model.outputs[0])

    main = run(net, x, "")
    return main, [values[tap if ":" in tap else f"{tap}:0"] for tap in taps]


def per_batch(x, index):
    rows = slice(index * BATCH, (index + 1) * BATCH)
    return keras.tree.map_structure(lambda part: part[rows], x)


def losses_by_hand(model, x, y, window):
    expected = []
    for index in range(STEPS):
        rows = per_batch(x, index)
        main, blocks = tapped_by_hand(
            model.main, model.spec.taps, keras.tree.map_structure(ops.convert_to_tensor, rows)
        )
        branches = [branch(block, training=True) for branch, block in zip(model.branches, blocks, strict=True)]
        weight = SCHEDULE(-(-(index + 1) // window) * window)
        logits = numpy(main) + weight * sum(map(numpy, branches))
        expected.append(cross_entropy(logits, per_batch(y, index)))
    return expected


def own_loop(model, x, y):
    """A step of one's own in the framework underneath, compiled where that is usual."""
    loss_of = model.loss
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function
        def step(x, y):
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            model.optimizer.apply_gradients(
                zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
            )
            return loss

        return [float(step(per_batch(x, index), per_batch(y, index))) for index in range(STEPS)]
    if BACKEND == "torch":
        losses = []
        for index in range(STEPS):
            model.zero_grad()
            loss = loss_of(ops.convert_to_tensor(per_batch(y, index)), model(per_batch(x, index), training=True))
            loss.backward()
            gradients = [variable.value.grad for variable in model.trainable_variables]
            model.optimizer.apply(gradients, model.trainable_variables)
            losses.append(float(loss))
        return losses
    import jax

    def scalar(trainable, rest, x, y):
        logits, rest = model.stateless_call(trainable, rest, x, training=True)
        return loss_of(y, logits), rest

    @jax.jit
    def jax_step(state, x, y):
        trainable, rest, slots = state
        (loss, rest), gradients = jax.value_and_grad(scalar, has_aux=True)(trainable, rest, x, y)
        trainable, slots = model.optimizer.stateless_apply(slots, gradients, trainable)
        return loss, (trainable, rest, slots)

    groups = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    state, losses = tuple([variable.value for variable in group] for group in groups), []
    for index in range(STEPS):
        loss, state = jax_step(state, per_batch(x, index), per_batch(y, index))
        losses.append(float(loss))
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
    return losses


class LossesOfSteps(keras.callbacks.Callback):
    """The loss of each step, undone from fit's running mean, and the step that it ended with."""

    def __init__(self):
        super().__init__()
        self.means, self.ends = [0.0], [0]

    def on_train_batch_end(self, batch, logs=None):
        # the last execution may have fewer steps than it announces
        self.ends.append(min(batch + 1, STEPS))
        self.means.append(float(logs["loss"]))

    def sums(self):
        totals = np.multiply(self.means, self.ends)
        return list(zip(self.ends[1:], np.diff(totals), strict=True))


def by_fit(model, x, y):
    recorder = LossesOfSteps()
    callbacks = [sbp_keras.ShortcutCallback(SCHEDULE), recorder]
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)
    return recorder.sums()


def one_by_one(losses):
    return list(zip(range(1, STEPS + 1), losses, strict=True))


@functools.cache
def policy(mode):
    return mode if mode.startswith("mixed") else "float32"


def cell(attached, mode):
    mark = pytest.mark.matrix(attached, f"Keras on {BACKEND}", mode)
    return pytest.param(attached, mode, id=f"{attached}-{BACKEND}-{mode}", marks=mark)


@pytest.mark.parametrize(("attached", "mode"), [cell(attached, mode) for attached, mode in CELLS])
def test_every_step_is_the_shortcuts_and_the_net_is_left_as_it_was(attached, mode, monkeypatch):
    if (BACKEND, mode) == ("torch", "jit"):
        import torch

        # the graphs that torch.compile makes of a step, without the half minute of compiling them in C++
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    build, options = ATTACHED[attached]
    keras.config.set_dtype_policy(policy(mode))
    try:
        net, taps = build(keras.Input((3, 6), name="x"))
        model = sbp_keras.ShortcutModel(net, taps, CLASSES, **options)
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = data()
    if attached == "two inputs":
        x = {"x": x, "other": x[::-1].copy()}
    before = [numpy(weight) for weight in net.weights]
    first = numpy(net(x))
    window = 2 if mode == "accumulation" else 1
    model.compile(
        keras.optimizers.SGD(0.0, gradient_accumulation_steps=2 if window == 2 else None),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=mode == "eager",
        jit_compile="auto" if BACKEND == "jax" else mode == "jit",
        steps_per_execution=3 if mode == "execution of 3" else 1,
    )
    model.optimizer.build(model.trainable_variables)
    expected = losses_by_hand(model, x, y, window)

    if mode == "train_on_batch":
        model.schedule = SCHEDULE
        batches = [(per_batch(x, index), per_batch(y, index)) for index in range(STEPS)]
        found = one_by_one([model.train_on_batch(*batch, return_dict=True)["loss"] for batch in batches])
    elif mode == "own loop":
        model.schedule = SCHEDULE
        found = one_by_one(own_loop(model, x, y))
    else:
        found = by_fit(model, x, y)

    ends = [end for end, _ in found]
    wanted = np.diff(np.cumsum([0.0, *expected])[[0, *ends]])
    tolerance = 1e-5 if policy(mode) == "float32" else 0.05
    assert ends == ([3, 4] if mode == "execution of 3" else [1, 2, 3, 4])
    np.testing.assert_allclose([loss for _, loss in found], wanted, rtol=0, atol=tolerance)
    assert (int(model.step), float(model.coefficient)) == (STEPS, 0.0)
    assert model.coefficient.dtype == "float32"
    scaled = type(model.optimizer).__name__ == "LossScaleOptimizer"
    assert scaled == (mode == "mixed_float16")

    # the net is the very object, its weights did not move, and what it gives is bitwise the same, with and without us
    assert model.strip() is net
    for weight, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)
    np.testing.assert_array_equal(numpy(net(x)), first)
    np.testing.assert_array_equal(numpy(model(x)), first)
