"""What a Shortcut is attached to, against the ways it is run, each compared with the composition written by hand."""

import functools
import os
import subprocess
import sys
import tempfile
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

import sbp_tf
from sbp_core import Evolutionary, LossSpec, ResNetSpec
from sbp_core.reference.losses import loss_of

CLASSES, STEPS = 5, 4
LABELS = np.array([0, 4, 2, 1])
SCHEDULE = Evolutionary(initial=2.0, total_steps=STEPS)
SPEC = ResNetSpec(depths=(1, 1), widths=(3, 4), in_channels=2, num_classes=CLASSES, time_steps=2)
RNG = np.random.default_rng(47)
IMAGES = RNG.normal(0.5, 1, (4, 6, 6, 2)).astype("float32")
SEQUENCE = RNG.normal(0.5, 1, (3, 4, 6)).astype("float32")


class Own(tf.Module):
    """A network of someone's own, without space."""

    tap_channels: ClassVar = {"first": 8, "second": 6}

    def __init__(self, per_step=False):
        super().__init__()
        self.one, self.two = (tf.Variable(tf.random.normal(shape)) for shape in ((6, 8), (8, 6)))
        self.neuron = sbp_tf.LIF(surrogate="triangle")
        self.head = sbp_tf.Readout(6, CLASSES, per_step=per_step)

    def __call__(self, x, training=False, taps=None):
        outputs = {"first": self.neuron(x @ tf.cast(self.one, x.dtype))}
        outputs["second"] = tf.nn.relu(outputs["first"] @ tf.cast(self.two, x.dtype))
        logits = self.head(outputs["second"])
        return logits if taps is None else (logits, {tap: outputs[tap] for tap in taps})


def resnet(per_step=False):
    return sbp_tf.ResNet(SPEC, per_step=per_step)


ATTACHED = {"sbp ResNet": (resnet, ["layer1", "stem"], IMAGES), "tf.Module": (Own, ["second", "first"], SEQUENCE)}


def wrapped(name, combine="logits", **options):
    """Return the same shortcut each time."""
    tf.random.set_seed(7)
    build, taps, _ = ATTACHED[name]
    return sbp_tf.Shortcut(build(**options), taps, CLASSES, combine, coefficient=0.25)


def images(name, dtype="float32"):
    return tf.constant(ATTACHED[name][2], dtype)


def by_hand(model, x, training=True):
    """Compose what the network itself gives; ``training`` is there to be called like a model."""
    main, tapped = model.main(x, training=training, taps=model.spec.taps)
    for tap in model.spec.taps:
        pooled = tf.reduce_mean(tapped[tap], axis=list(range(2, tapped[tap].shape.rank - 1)))
        branch = model.branches[tap]
        logits = pooled @ tf.cast(branch.weight, x.dtype) + tf.cast(branch.bias, x.dtype)
        over_time = logits if main.shape.rank == 3 else tf.reduce_mean(logits, axis=0)
        main += tf.cast(model.coefficient, x.dtype) * over_time
    return main


def differentiated(forward, model, x, labels=LABELS):
    """Return the logits, the loss and its gradients."""
    with tf.GradientTape() as tape:
        logits = forward(x, training=True)
        mean = tf.reduce_mean(logits, axis=0) if logits.shape.rank == 3 else logits
        mean = tf.cast(mean, tf.float32)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, mean))
    return logits, loss, tape.gradient(loss, model.trainable_variables)


def close(found, expected, rtol=2e-4, atol=1e-6):
    for got, wanted in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(np.asarray(got, "float64"), np.asarray(wanted, "float64"), rtol=rtol, atol=atol)


def statistics(model):
    return [variable for variable in model.variables if not variable.trainable]


def check(name, run, dtype="float32", coefficients=(0.25, 0.5, 0.0), **tolerances):
    """Compare logits, loss, gradients and statistics over calls with a coefficient that moves."""
    model, twin = wrapped(name), wrapped(name)
    x = images(name, dtype)
    for coefficient in coefficients:
        for each in (model, twin):
            each.coefficient.assign(coefficient)
        found = run(model, x)
        wanted = differentiated(lambda x, training: by_hand(twin, x, training), twin, x)
        assert found[0].dtype.name == dtype
        close(found, wanted, **tolerances)
        close(statistics(model), statistics(twin), **tolerances)
        if coefficient:
            assert all(np.any(gradient) for gradient in found[2])  # everything fires, and learns
    return model


def eager(name):
    check(name, lambda model, x: differentiated(model, model, x))


def traced(**options):
    def run(name):
        functions = {}

        def step(model, x):
            function = functions.setdefault("step", tf.function(lambda x: differentiated(model, model, x), **options))
            return function(x)

        check(name, step)
        assert functions["step"].experimental_get_tracing_count() == 1  # the coefficient moved

    return run


def half(name):
    model = check(name, lambda model, x: differentiated(model, model, x), "bfloat16", (0.25,), rtol=0.05, atol=0.02)
    exact = wrapped(name)
    _, loss, gradients = differentiated(model, model, images(name, "bfloat16"))
    assert {tensor.dtype.name for tensor in (loss, *gradients)} == {"float32"}
    np.testing.assert_allclose(loss, differentiated(exact, exact, images(name))[1], atol=0.2)


def each_step(name):
    model, twin = wrapped(name, per_step=True), wrapped(name, per_step=True)
    x = images(name)
    logits = model(x, training=True)
    assert logits.shape.rank == 3
    close(logits, by_hand(twin, x))
    close(tf.reduce_mean(logits, axis=0), by_hand(wrapped(name), x))
    apart = wrapped(name, "losses", per_step=True)
    output, spec = apart(x, training=True), LossSpec(per_step=True)
    wanted, _, _ = loss_of(spec, output.main.numpy(), [b.numpy() for b in output.branches], LABELS, 0.25)
    close(sbp_tf.ShortcutLoss(spec)(output, LABELS, 0.25), wanted)


def trained(model, scheduler, x, steps, descend):
    losses = []
    for _ in range(steps):
        _, loss, gradients = differentiated(model, model, x)
        descend(gradients)
        scheduler.step()
        losses.append(float(loss))
    return losses


def resumed(name):
    def start():
        model = wrapped(name)
        optimizer = tf.keras.optimizers.Adam(0.01)
        optimizer.build(model.trainable_variables)
        scheduler = sbp_tf.CoefficientScheduler(model, SCHEDULE)
        saved = tf.train.Checkpoint(model=model, scheduler=scheduler, optimizer=optimizer)
        return model, scheduler, lambda g: optimizer.apply(g, model.trainable_variables), saved

    x = images(name)
    (whole, *rest, _), (first, *others, saved), (second, *again, restored) = start(), start(), start()
    losses = trained(whole, rest[0], x, STEPS, rest[1])
    assert trained(first, others[0], x, 2, others[1]) == losses[:2]
    with tempfile.TemporaryDirectory() as folder:
        restored.restore(saved.save(f"{folder}/middle")).assert_consumed()
    assert float(second.coefficient) == SCHEDULE(3)
    assert trained(second, again[0], x, 2, again[1]) == losses[2:]
    for found, wanted in zip(second.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(found, wanted)


def stripped(name):
    tf.random.set_seed(7)
    build, taps, _ = ATTACHED[name]
    net = build()
    model, x = sbp_tf.Shortcut(net, taps, CLASSES), images(name)
    differentiated(model, model, x)
    tf.random.set_seed(7)
    alone = build()
    by_hand_too = sbp_tf.Shortcut(alone, taps, CLASSES).main(x, training=True)  # the statistics move as without us
    assert by_hand_too.shape == (4, CLASSES)
    assert model.strip() is model.main is net
    graphs = []
    for forward in (alone, model, model.main, model.strip()):
        function = tf.function(lambda x, forward=forward: forward(x, training=False))
        np.testing.assert_array_equal(forward(x), alone(x))
        np.testing.assert_array_equal(function(x), tf.function(alone)(x))
        nodes = function.get_concrete_function(x).graph.as_graph_def().node
        graphs.append([(node.op, list(node.input), node.attr["T"].type) for node in nodes])
    assert len(graphs[0]) > 20
    assert all(graph == graphs[0] for graph in graphs)
    for found, wanted in zip(net.variables, alone.variables, strict=True):
        assert found.name == wanted.name
        np.testing.assert_array_equal(found, wanted)


MODES = {
    "eager": eager,
    "tf.function": traced(),
    "XLA": traced(jit_compile=True),
    "bf16 images": half,
    "logits of each step": each_step,
    "resumed": resumed,
    "stripped": stripped,
}


def cell(name, mode):
    return pytest.param(name, mode, id=f"{name}-{mode}", marks=pytest.mark.matrix(name, "TensorFlow", mode))


@pytest.mark.parametrize(("name", "mode"), [cell(name, mode) for name in ATTACHED for mode in MODES])
def test_it_is_the_composition_by_hand(name, mode):
    MODES[mode](name)


@functools.cache
def mirrors():
    part = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [part, part])
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.mark.parametrize(("name", "mode"), [cell(name, "MirroredStrategy") for name in ATTACHED])
def test_two_replicas_with_half_the_batch_give_the_steps_of_one(name, mode):
    if os.environ.get("SBP_TEST_DEVICES") != "2":
        pytest.skip("one device: test_two_replicas_are_tested_in_a_process_of_their_own starts a process with two")
    x, labels, batch_axis = ATTACHED[name][2], LABELS, 0 if name == "sbp ResNet" else 1
    if name == "sbp ResNet":  # batch norm is each replica's own: its statistics are those of all where the halves agree
        x, labels = np.tile(x[:2], (2, 1, 1, 1)), np.tile(labels[:2], 2)
    strategy = mirrors()
    with strategy.scope():
        model = wrapped(name)
        scheduler = sbp_tf.CoefficientScheduler(model, SCHEDULE)
    twin = wrapped(name)
    twin_scheduler = sbp_tf.CoefficientScheduler(twin, SCHEDULE)

    def halves(array, axis):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(array, 2, axis)[context.replica_id_in_sync_group])
        )

    @tf.function
    def step(x, labels):
        _, losses, gradients = strategy.run(lambda x, labels: differentiated(model, model, x, labels), (x, labels))
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.1 * strategy.reduce("MEAN", gradient, axis=None))
        scheduler.step()
        return strategy.reduce("MEAN", losses, axis=None)

    for number in range(1, STEPS + 1):
        assert model.coefficient.numpy() == twin.coefficient.numpy() == SCHEDULE(number)
        found = step(halves(x, batch_axis), halves(labels, 0))
        _, wanted, gradients = differentiated(twin, twin, tf.constant(x), labels)
        for variable, gradient in zip(twin.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)
        twin_scheduler.step()
        close(found, wanted)
    assert step.experimental_get_tracing_count() == 1
    for replica in (0, 1):
        found = [strategy.experimental_local_results(variable)[replica] for variable in model.trainable_variables]
        close(found, list(twin.trainable_variables), rtol=1e-3, atol=1e-5)


def test_statistics_of_replicas_with_halves_that_differ_are_read_as_their_mean():
    if os.environ.get("SBP_TEST_DEVICES") != "2":
        pytest.skip("one device: test_two_replicas_are_tested_in_a_process_of_their_own starts a process with two")
    strategy, halves = mirrors(), np.split(IMAGES, 2)
    with strategy.scope():
        model = wrapped("sbp ResNet")
    x = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(halves[context.replica_id_in_sync_group])
    )
    strategy.run(lambda x: model(x, training=True), (x,))
    twins = [wrapped("sbp ResNet") for _ in halves]
    for twin, half in zip(twins, halves, strict=True):
        twin(tf.constant(half), training=True)
    for part in ("running_mean", "running_var"):
        first, second = (getattr(twin.main.stem.bn, part).numpy() for twin in twins)
        assert (first != second).any()
        np.testing.assert_allclose(getattr(model.main.stem.bn, part).numpy(), (first + second) / 2, rtol=1e-5)


@pytest.mark.matrix
def test_two_replicas_are_tested_in_a_process_of_their_own():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "replicas_with_hal"]
    environment = os.environ | {"SBP_TEST_DEVICES": "2"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert f"{len(ATTACHED) + 1} passed" in result.stdout, result.stdout[-6000:] + result.stderr[-3000:]
