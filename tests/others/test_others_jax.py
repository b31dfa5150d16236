"""Networks for JAX that others published: branches round each are what a composition by hand computes, in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sbp_jax
from sbp_jax import branches

flaxmodels = pytest.importorskip("flaxmodels", reason="flaxmodels is not installed: run `make others`")
spyx_nn = pytest.importorskip("spyx.nn", reason="spyx is not installed: run `make others`")

CLASSES, BATCH, STEPS, COEFFICIENT = 10, 2, 3, 0.3
LABELS = jnp.arange(BATCH)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def cell(names, mode):
    return [pytest.param(name, marks=pytest.mark.matrix(name, "JAX", mode), id=name) for name in names]


def assert_equal_trees(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@dataclass(frozen=True)
class Linen:
    make: Callable[[], Any]
    taps: tuple[str, str]


LINEN = {
    "flaxmodels ResNet-18 (Linen)": Linen(
        lambda: flaxmodels.ResNet18(
            output="logits", pretrained=None, normalize=False, num_classes=CLASSES, dtype="float64"
        ),
        ("BasicBlock_1", "BasicBlock_5"),
    ),
    "flaxmodels ResNet-50 (Linen)": Linen(
        lambda: flaxmodels.ResNet50(
            output="logits", pretrained=None, normalize=False, num_classes=CLASSES, dtype="float64"
        ),
        ("Bottleneck_0", "Bottleneck_6"),
    ),
}


def built(published):
    net = published.make()
    x = jax.random.uniform(jax.random.key(1), (BATCH, 40, 40, 3), jnp.float64)
    variables = jax.tree.map(lambda array: array.astype(jnp.float64), dict(net.init(jax.random.key(0), x)))

    def run(params, x):
        logits, state = net.apply(
            {**variables, "params": params}, x, capture_intermediates=True, mutable=["intermediates", "batch_stats"]
        )
        return logits, branches.from_linen(state["intermediates"], published.taps)

    options = {"time_axis": None}
    sizes = branches.channels(run, variables["params"], x, **options)
    heads = branches.init(jax.random.key(2), sizes, num_classes=CLASSES, dtype=jnp.float64)
    return net, variables, x, run, heads, options


@pytest.mark.parametrize("name", cell(LINEN, "training = by hand"))
def test_a_linen_networks_training_step_is_the_composition_by_hand(name):
    net, variables, x, run, heads, options = built(LINEN[name])

    @jax.jit
    @jax.value_and_grad
    def found(params):
        logits, tapped = run(params["net"], x)
        return cross_entropy(branches.apply(params["heads"], logits, tapped, COEFFICIENT, **options))

    @jax.jit
    @jax.value_and_grad
    def wanted(params):
        logits, state = net.apply(
            {**variables, "params": params["net"]},
            x,
            capture_intermediates=True,
            mutable=["intermediates", "batch_stats"],
        )
        for tap in LINEN[name].taps:
            head = params["heads"][tap]
            (block,) = state["intermediates"][tap]["__call__"]
            logits += COEFFICIENT * (block.mean((1, 2)) @ head["kernel"] + head["bias"])
        return cross_entropy(logits)

    params = {"net": variables["params"], "heads": heads}
    (value, gradient), (by_hand, gradient_by_hand) = found(params), wanted(params)
    np.testing.assert_allclose(value, by_hand, rtol=1e-10)
    assert_equal_trees(gradient, gradient_by_hand)


@pytest.mark.parametrize("name", cell(LINEN, "evaluation = bare"))
def test_a_linen_networks_evaluation_needs_no_branch(name):
    net, variables, x, run, _, _ = built(LINEN[name])
    np.testing.assert_array_equal(run(variables["params"], x)[0], net.apply(variables, x, mutable=["batch_stats"])[0])


class Parallel(nnx.Module):
    """spyx's parallel neuron over all of time."""

    def __init__(self, *arguments, **options):
        self.neuron = spyx_nn.PSU_LIF(*arguments, **options)

    def __call__(self, x):
        return self.neuron.parallel(x)


class Spyx(nnx.Module):
    """A network of spyx's neurons that run all of time at once."""

    def __init__(self, rngs):
        double = {"rngs": rngs, "param_dtype": jnp.float64}
        self.body = nnx.Sequential(
            nnx.Linear(6, 8, **double),
            Parallel((8,), rngs=rngs),
            nnx.Linear(8, 7, **double),
            Parallel((7,), rngs=rngs),
        )
        self.head = nnx.Linear(7, CLASSES, **double)

    def __call__(self, x):
        return self.head(self.body(x)).mean(0)


class SpyxLoop(nnx.Module):
    """A network of spyx's step layers, run over time by spyx's own function."""

    def __init__(self, rngs):
        self.body = spyx_nn.Sequential(nnx.Linear(6, 8, rngs=rngs), spyx_nn.LIF((8,), rngs=rngs))
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(spyx_nn.run(self.body, x)[0]).mean(0)


SPYX = "spyx, parallel neurons (nnx)"


def spyx():
    net = Spyx(nnx.Rngs(0))
    x = 3 * jax.random.normal(jax.random.key(1), (STEPS, BATCH, 6), jnp.float64)
    model = sbp_jax.Shortcut(
        net, ("body.1", "body.2"), CLASSES, time_axis=0, sample=x, param_dtype=jnp.float64, rngs=nnx.Rngs(1)
    )
    return net, x, model


@pytest.mark.matrix(SPYX, "JAX", "training = by hand")
def test_a_spyx_networks_training_step_is_the_composition_by_hand():
    _, x, model = spyx()

    @nnx.value_and_grad
    def found(model):
        return cross_entropy(model(x, coefficient=COEFFICIENT))

    @nnx.value_and_grad
    def wanted(model):
        h, tapped = x, []
        for index, layer in enumerate(model.main.body.layers):
            h = layer(h)
            if index in (1, 2):
                tapped.append(h)
        logits = model.main.head(h).mean(0)
        for branch, block in zip(model.branches, tapped, strict=True):
            logits += COEFFICIENT * (block @ branch.kernel[...] + branch.bias[...]).mean(0)
        return cross_entropy(logits)

    (value, gradient), (by_hand, gradient_by_hand) = found(model), wanted(model)
    np.testing.assert_allclose(value, by_hand, rtol=1e-10)
    assert_equal_trees(gradient, gradient_by_hand)


@pytest.mark.matrix(SPYX, "JAX", "evaluation = bare")
def test_a_spyx_networks_evaluation_is_the_bare_networks():
    net, x, model = spyx()
    model.eval()
    np.testing.assert_array_equal(model(x), net(x))


@pytest.mark.matrix(SPYX, "JAX", "strip")
def test_a_spyx_network_comes_back():
    net, _, model = spyx()
    assert model.strip() is net


@pytest.mark.matrix(SPYX, "JAX", "save and load")
def test_a_spyx_networks_state_goes_into_a_new_wrapper():
    _, x, model = spyx()
    again = spyx()[2]
    nnx.update(again, jax.tree.map(lambda leaf: leaf, nnx.state(model)))
    np.testing.assert_array_equal(again(x, coefficient=COEFFICIENT), model(x, coefficient=COEFFICIENT))


@pytest.mark.matrix("spyx, steps in a scan (nnx)", "JAX", "training = by hand")
def test_a_tap_inside_anothers_scan_says_why_it_cannot_be_reached(matrix_says):
    matrix_says("no, and says why: inside a scan of spyx's")
    net, x = SpyxLoop(nnx.Rngs(0)), jnp.ones((STEPS, BATCH, 6))
    with pytest.raises(RuntimeError, match="a tapped LIF runs inside a JAX transformation"):
        sbp_jax.Shortcut(net, ("body.1",), CLASSES, time_axis=0, sample=x, rngs=nnx.Rngs(1))(x, coefficient=1.0)
