"""What a Shortcut is attached to, against the ways it is run, each compared with the composition written by hand.

Whatever it is becomes a function ``(parameters, state, x, coefficient) -> (logits, state)``, and so does the hand's.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import sbp_jax
from sbp_core import Evolutionary, ResNetSpec
from sbp_jax import branches

RNG = np.random.default_rng(43)
CLASSES, STEPS = 3, 5
X = jnp.asarray(RNG.normal(0.5, 1, (3, 4, 6)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0])
COEFFICIENT = jnp.float32(0.3)
SCHEDULE = Evolutionary(initial=2.0, total_steps=STEPS)
XLA_FLAGS = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
TWO_DEVICES = {"XLA_FLAGS": XLA_FLAGS, "JAX_PLATFORMS": "cpu"}


class Attached(NamedTuple):
    """A network with branches, as pure functions; and the network that never had any."""

    parameters: Any
    branches: Callable  # the part of the parameters, or of their gradients, that is the branches'
    run: Callable
    by_hand: Callable
    alone: Callable  # x -> logits
    inference: list[Callable]  # the same with the branches taken off
    weights: tuple[Any, Any]  # of the network taken off, and of the one alone
    state: Any = ()
    x: jax.Array = X
    batch_axis: int = 1


class Block(nnx.Module):
    def __init__(self, rngs, dtype):
        self.linear = nnx.Linear(6, 6, dtype=dtype, rngs=rngs)
        self.neuron = sbp_jax.LIF(threshold=0.25, surrogate="triangle")

    def __call__(self, x):
        return self.neuron(self.linear(x))


class ByPath(nnx.Module):
    """It knows nothing of taps; its statistics move."""

    taps = ("blocks.0", "norm")

    def __init__(self, rngs, dtype=None):
        self.blocks = nnx.List([Block(rngs, dtype), Block(rngs, dtype)])
        self.norm = sbp_jax.BatchNorm(6, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, dtype=dtype, rngs=rngs)

    def tapped(self, x):
        return (first := self.blocks[0](x)), self.norm(self.blocks[1](first))

    def __call__(self, x):
        return self.head(self.tapped(x)[-1]).mean(0)


class Tappable(ByPath):
    """It returns what it is asked for, under names of its own."""

    taps = ("first", "second")

    def __call__(self, x, *, taps=None):
        outputs = dict(zip(self.taps, self.tapped(x), strict=True))
        logits = self.head(outputs["second"]).mean(0)
        return logits if taps is None else (logits, outputs)


class ResNet(sbp_jax.ResNet):
    """Tapped by name and by path at once."""

    taps = ("layer1.0.conv2", "layer1")

    def __init__(self, rngs, dtype=None):
        spec = ResNetSpec(depths=(1, 1), widths=(4, 4), in_channels=1, num_classes=CLASSES, time_steps=2)
        super().__init__(spec, rngs=rngs)


def through_nnx(kind, dtype=None, x=X, batch_axis=1):
    model = sbp_jax.Shortcut(kind(nnx.Rngs(0), dtype), kind.taps, CLASSES, sample=x, dtype=dtype, rngs=nnx.Rngs(1))
    graph, parameters, state = nnx.split(model, nnx.Param, ...)

    def call(function):
        def pure(parameters, state, x, coefficient):
            model = nnx.merge(graph, parameters, state, copy=True)
            return function(model, x, coefficient), nnx.state(model, nnx.Not(nnx.Param))

        return pure

    def by_hand(model, x, coefficient):
        *_, last = tapped = model.main.tapped(x)
        summed = sum((y @ b.kernel[...] + b.bias[...]).mean(0) for y, b in zip(tapped, model.branches, strict=True))
        return model.main.head(last).mean(0) + coefficient * summed

    net, own = kind(nnx.Rngs(0), dtype), nnx.merge(graph, parameters, state, copy=True)
    own(x, coefficient=COEFFICIENT)
    net(x)  # the statistics move as without us
    for module in (net, own):
        module.eval()
    return Attached(
        parameters,
        lambda parameters: parameters["branches"],
        call(lambda model, x, coefficient: model(x, coefficient=coefficient)),
        call(by_hand),
        lambda x: net(x),
        [lambda x: own(x), lambda x: own.main(x), lambda x: own.strip()(x)],
        (nnx.to_pure_dict(nnx.state(own.strip())), nnx.to_pure_dict(nnx.state(net))),
        state,
        x,
        batch_axis,
    )


def through_branches(weights, net, blocks, alone, dtype=None):
    """Attach to ``net(weights, x) -> (logits, taps)``; ``blocks`` are what it taps, ``alone`` its logits, by hand."""
    start = (weights, branches.init(jax.random.key(1), branches.channels(net, weights, X, time_axis=0), CLASSES))

    def cast(tree):
        return jax.tree.map(lambda leaf: leaf.astype(dtype or leaf.dtype), tree)

    def run(parameters, state, x, coefficient):
        (weights, heads), x = cast((parameters, x))
        return branches.apply(heads, *net(weights, x), coefficient, time_axis=0), state

    def by_hand(parameters, state, x, coefficient):
        (weights, heads), x = cast((parameters, x))
        blocks_by_tap, logits = blocks(weights, x), alone(weights, x)
        summed = sum((y @ heads[tap]["kernel"] + heads[tap]["bias"]).mean(0) for tap, y in blocks_by_tap.items())
        return logits + coefficient.astype(logits.dtype) * summed, state

    inference = [lambda x: net(weights, x)[0]]
    return Attached(
        start, lambda pair: pair[1], run, by_hand, lambda x: alone(weights, x), inference, (start[0], weights)
    )


class EquinoxNet(eqx.Module):
    block: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.block, self.head = eqx.nn.Linear(6, 8, key=first), eqx.nn.Linear(8, CLASSES, key=second)

    def __call__(self, x):
        hidden = jax.vmap(jax.vmap(lambda now: jnp.tanh(self.block(now))))(x)
        return jax.vmap(jax.vmap(self.head))(hidden).mean(0), {"block": hidden}


def equinox(dtype=None):
    arrays, rest = eqx.partition(EquinoxNet(jax.random.key(0)), eqx.is_array)

    def block(net, x):
        return jax.vmap(jax.vmap(lambda now: jnp.tanh(net.block(now))))(x)

    return through_branches(
        arrays,
        lambda arrays, x: eqx.combine(arrays, rest)(x),
        lambda net, x: {"block": block(net, x)},
        lambda net, x: jax.vmap(jax.vmap(net.head))(block(net, x)).mean(0),
        dtype,
    )


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = jnp.tanh(linen.Dense(8, name="block1")(x))
        return linen.Dense(CLASSES, name="head")(linen.Dense(5, name="block2")(x)).mean(0)


def through_linen(dtype=None):
    net = LinenNet()

    def run(variables, x):
        logits, state = net.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
        return logits, branches.from_linen(state["intermediates"], ("block2", "block1"))

    def blocks(variables, x):
        first, second = (variables["params"][name] for name in ("block1", "block2"))
        before = x @ first["kernel"] + first["bias"]
        after = jnp.tanh(before) @ second["kernel"] + second["bias"]
        return {"block1": before, "block2": after}

    return through_branches(net.init(jax.random.key(0), X), run, blocks, net.apply, dtype)


def function(dtype=None):
    random = np.random.default_rng(5)
    shapes = {"in": (6, 8), "out": (8, CLASSES)}
    weights = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    def run(weights, x):
        hidden = jnp.tanh(x @ weights["in"])
        return (hidden @ weights["out"]).mean(0), {"hidden": hidden}

    return through_branches(
        weights,
        run,
        lambda weights, x: {"hidden": jnp.tanh(x @ weights["in"])},
        lambda weights, x: (jnp.tanh(x @ weights["in"]) @ weights["out"]).mean(0),
        dtype,
    )


ATTACHED = {
    "nnx, by path": functools.partial(through_nnx, ByPath),
    "nnx, its own taps": functools.partial(through_nnx, Tappable),
    "Equinox": equinox,
    "Linen": through_linen,
    "function": function,
}
IMAGES = jnp.asarray(RNG.normal(0.5, 1, (4, 6, 6, 1)), jnp.float32)
MESH_TOO = {"sbp ResNet": functools.partial(through_nnx, ResNet, x=IMAGES, batch_axis=0)}


@functools.cache
def made(name):
    return (ATTACHED | MESH_TOO)[name]()


def loss_of(function):
    def loss(parameters, state, x, labels, coefficient):
        logits, state = function(parameters, state, x, coefficient)
        return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean(), state

    return jax.value_and_grad(loss, argnums=(0, 4), has_aux=True)


def close(found, expected, **tolerances):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, leaf), got in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(got, leaf, err_msg=where, **({"rtol": 2e-5, "atol": 1e-6} | tolerances))


def training_step(function):
    """Return a training step over a carry, and the list that each trace of it adds to."""
    optimizer, traces = optax.adam(0.02), []

    def step(carry, number):
        traces.append(number)
        parameters, state, moments = carry
        (value, state), (gradients, _) = loss_of(function)(parameters, state, X, LABELS, SCHEDULE(number))
        updates, moments = optimizer.update(gradients, moments, parameters)
        return (optax.apply_updates(parameters, updates), state, moments), (value, gradients)

    return step, optimizer, traces


def trained(attached, function):
    step, optimizer, traces = training_step(function)
    jitted, carry, seen = jax.jit(step), None, []
    carry = (attached.parameters, attached.state, optimizer.init(attached.parameters))
    for number in range(1, STEPS + 1):
        carry, found = jitted(carry, jnp.asarray(number))
        seen.append(found)
    return carry, seen, len(traces)


@functools.cache
def expected(name):
    """Loss, statistics, and gradients of parameters and coefficient, of the composition by hand."""
    attached = made(name)
    batch = (attached.x, LABELS, COEFFICIENT)
    (value, state), gradients = jax.jit(loss_of(attached.by_hand))(attached.parameters, attached.state, *batch)
    return value, state, gradients


@functools.cache
def trained_by_hand(name):
    return trained(made(name), made(name).by_hand)


def check_gradients(name, differentiated):
    attached, wanted = made(name), expected(name)
    (value, state), gradients = differentiated(attached.parameters, attached.state, attached.x, LABELS, COEFFICIENT)
    close((value, state, gradients), wanted)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))  # everything fires, and learns


def eager(name):
    attached = made(name)
    check_gradients(name, loss_of(attached.run))
    for coefficient in (0, 0.25):
        found, _ = attached.run(attached.parameters, attached.state, X, coefficient)
        close(found, attached.by_hand(attached.parameters, attached.state, X, jnp.float32(coefficient))[0])


def jitted(name):
    check_gradients(name, jax.jit(loss_of(made(name).run)))


def remat(name):
    check_gradients(name, jax.jit(loss_of(jax.checkpoint(made(name).run))))


def vmapped(name):
    """An ensemble, each of its members with a coefficient of its own."""
    attached, coefficients = made(name), jnp.array([0.1, 0.3, 0.9])
    members = [
        jax.tree.map(lambda leaf, by=by: np.float32(by) * np.asarray(leaf), attached.parameters)
        for by in (1.0, 1.1, 0.9)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    over = jax.jit(jax.vmap(loss_of(attached.run), (0, None, None, None, 0)))
    found = jax.tree.map(np.asarray, over(stacked, attached.state, X, LABELS, coefficients))
    alone = jax.jit(loss_of(attached.by_hand))
    for place, (member, coefficient) in enumerate(zip(members, coefficients, strict=True)):
        wanted = alone(member, attached.state, X, LABELS, coefficient)
        close(jax.tree.map(lambda leaf, place=place: leaf[place], found), wanted)


def scanned(name):
    attached = made(name)
    step, optimizer, _ = training_step(attached.run)
    carry = (attached.parameters, attached.state, optimizer.init(attached.parameters))
    carry, (losses, _) = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(1, STEPS + 1)))(carry)
    wanted, seen, _ = trained_by_hand(name)
    close(losses, jnp.stack([loss for loss, _ in seen]), rtol=1e-4)
    close(carry[:2], wanted[:2], rtol=1e-3, atol=1e-5)


def trains(name):
    attached = made(name)
    carry, seen, traces = trained(attached, attached.run)
    assert traces == 1  # the coefficient moved at every step, and nothing was compiled again
    wanted, seen_by_hand, _ = trained_by_hand(name)
    close([loss for loss, _ in seen], [loss for loss, _ in seen_by_hand], rtol=1e-4)
    close(carry[:2], wanted[:2], rtol=1e-3, atol=1e-5)
    for number, (_, gradients) in enumerate(seen, 1):
        moves = [bool(np.any(leaf)) for leaf in jax.tree.leaves(attached.branches(gradients))]
        assert moves == [number < STEPS] * len(moves)  # the last coefficient is 0
    assert seen[-1][0] < seen[0][0]


def bfloat16(name):
    half = ATTACHED[name](jnp.bfloat16)
    logits, _ = jax.eval_shape(half.run, half.parameters, half.state, X, COEFFICIENT)
    assert logits.dtype == jnp.bfloat16
    _, seen, _ = trained(half, half.run)
    batch = (X, LABELS, jnp.float32(SCHEDULE(1)))
    (wanted, _), (gradients, _) = jax.jit(loss_of(half.by_hand))(half.parameters, half.state, *batch)
    close(seen[0], (wanted, gradients), rtol=0.05, atol=0.02)
    exact = trained_by_hand(name)[1]
    np.testing.assert_allclose(seen[0][0], exact[0][0], atol=0.2)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((half.parameters, seen[-1]))} == {"float32"}
    assert seen[-1][0] < seen[0][0]


def stripped(name):
    attached = made(name)
    operations, outputs = str(jax.make_jaxpr(attached.alone)(X)), jax.jit(attached.alone)(X)
    assert len(attached.inference) == (3 if name.startswith("nnx") else 1)
    for taken_off in attached.inference:
        assert str(jax.make_jaxpr(taken_off)(X)) == operations
        np.testing.assert_array_equal(jax.jit(taken_off)(X), outputs)
    close(*attached.weights, rtol=0, atol=0)


MODES = {
    "eager": eager,
    "jit": jitted,
    "vmap": vmapped,
    "scan over steps": scanned,
    "remat": remat,
    "training, one trace": trains,
    "bf16": bfloat16,
    "stripped": stripped,
}
MESH = "mesh of 2"


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(name, mode, id=f"{name}-{mode}", marks=pytest.mark.matrix(name, "JAX", mode))
        for name in ATTACHED
        for mode in MODES
    ],
)
def test_it_is_the_composition_by_hand(name, mode):
    MODES[mode](name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.matrix(n, "JAX", MESH)) for n in ATTACHED | MESH_TOO]
)
def test_a_batch_over_two_devices_gives_the_step_of_one(name):
    if jax.device_count() < 2:
        pytest.skip("one device: test_two_devices_are_tested_in_a_process_that_has_them starts a process with two")
    attached = made(name)
    # automatic axes: flax reshapes frames into one batch, which axes that are explicit in types do not allow
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    axes = [None] * attached.batch_axis + ["data"]
    everywhere, over_x, over_labels = (NamedSharding(mesh, PartitionSpec(*a)) for a in ((), axes, ("data",)))
    two = (
        *jax.device_put((attached.parameters, attached.state), everywhere),
        jax.device_put(attached.x, over_x),
        jax.device_put(LABELS, over_labels),
        jax.device_put(COEFFICIENT, everywhere),
    )
    step = jax.jit(loss_of(attached.run))
    assert "all-reduce" in step.lower(*two).compile().as_text()
    found = step(*two)
    one = (attached.parameters, attached.state, attached.x, LABELS, COEFFICIENT)
    wanted = step(*jax.device_put(one, jax.devices()[0]))
    close(found, wanted)
    assert sum(bool(np.any(leaf)) for leaf in jax.tree.leaves(found[1])) >= 4


@pytest.mark.matrix
def test_two_devices_are_tested_in_a_process_that_has_them():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "over_two_devices"]
    result = subprocess.run(command, env=os.environ | TWO_DEVICES, capture_output=True, text=True, timeout=500)
    assert f"{len(ATTACHED | MESH_TOO)} passed" in result.stdout, result.stdout[-6000:] + result.stderr[-3000:]
