"""Neurons as nnx modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sbp_jax
from sbp_core import LIFSpec, LIFState
from sbp_core.reference.neuron import adjoint, forward

X = jnp.asarray(np.random.default_rng(21).normal(0.5, 0.6, (4, 2, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        (sbp_jax.LIF(), LIFSpec()),
        (sbp_jax.LIF(decay=0.25, surrogate="triangle"), LIFSpec(decay=0.25, surrogate="triangle")),
        (sbp_jax.LIF(LIFSpec(reset="soft")), LIFSpec(reset="soft")),
        (sbp_jax.IF(), LIFSpec(decay=1.0)),
        (sbp_jax.LeakyIntegrator(decay=0.9), LIFSpec(decay=0.9, reset="none", output="potential")),
        (sbp_jax.CurrentLIF(), LIFSpec(synaptic_decay=0.5)),
        (sbp_jax.CLIF(), LIFSpec(complementary_state=True, reset="soft")),
        (sbp_jax.PLIF(decay=0.75), LIFSpec(decay=0.75, learn_decay=True, input_gain="complement")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_layer_is_the_function_of_its_spec(layer, spec):
    assert layer.spec == spec
    np.testing.assert_allclose(layer(X), sbp_jax.lif(X, spec)[0], rtol=1e-6)


def test_only_a_learnt_decay_is_a_parameter_and_starts_from_the_spec():
    assert jax.tree.leaves(nnx.state(sbp_jax.LIF())) == []
    layer = sbp_jax.PLIF(decay=0.75)
    assert list(nnx.state(layer, nnx.Param)) == ["decay_logit"]
    np.testing.assert_allclose(jax.nn.sigmoid(layer.decay_logit[...]), 0.75, rtol=1e-6)


@pytest.mark.parametrize("steps", [4, 12], ids=["unrolled", "scan"])
def test_a_learnt_start_begins_where_the_spec_says_and_has_the_adjoints_gradient(steps):
    spec = LIFSpec(decay=0.7, rest=-0.1, initial_potential=0.4, learn_initial=True, surrogate="sigmoid")
    layer = sbp_jax.LIF(spec)
    assert list(nnx.state(layer, nnx.Param)) == ["initial_potential"]
    assert layer.initial_potential[...].item() == np.float32(0.4)
    layer.initial_potential[...] = jnp.float32(0.55)
    x = np.random.default_rng(3).normal(0.4, 0.8, (steps, 2, 3)).astype("float32")
    given = np.random.default_rng(1).normal(size=x.shape)
    gradient = nnx.grad(lambda layer: (layer(jnp.asarray(x)) * given).sum())(layer)["initial_potential"][...]
    start = LIFState(np.full(x.shape[1:], 0.55))
    found = adjoint(spec, x.astype("float64"), start, given, LIFState(np.zeros(x.shape[1:])))
    np.testing.assert_array_equal(layer(jnp.asarray(x)), found.output)
    np.testing.assert_allclose(gradient, found.grad_state.potential.sum(), rtol=1e-4)


@pytest.mark.parametrize("steps", [4, 12], ids=["unrolled", "scan"])
def test_a_start_that_follows_moves_in_training_alone_and_passes_no_gradient_on(steps):
    spec = LIFSpec(decay=0.7, initial_potential=0.375, initial_follows=True, surrogate="sigmoid")
    layer = sbp_jax.LIF(spec)
    assert jax.tree.leaves(nnx.state(layer, nnx.Param)) == []
    assert list(nnx.state(layer, nnx.BatchStat)) == ["running_potential"]
    x = np.random.default_rng(3).normal(0.0, 0.7, (steps, 4, 8)).astype("float32")
    given = np.random.default_rng(1).normal(size=x.shape)

    def loss(x, layer):
        return (layer(x) * given).sum()

    start, nothing = 0.375, LIFState(np.zeros(x.shape[1:]))
    for _ in range(2):
        gradient = nnx.grad(loss)(jnp.asarray(x), layer)
        found = adjoint(spec, x.astype("float64"), LIFState(np.full(x.shape[1:], start)), given, nothing)
        np.testing.assert_allclose(gradient, found.grad_input, rtol=1e-4, atol=1e-6)
        fired = found.output.any(0)
        assert 0 < fired.sum() < fired.size
        start += 0.1 * (found.state.potential[fired].mean() - start)
        np.testing.assert_allclose(layer.running_potential[...], start, rtol=1e-6)
    # it is the second of two outputs as it is the first, in the dtype that it has
    layer(jnp.asarray(x, jnp.bfloat16), return_state=True)
    assert layer.running_potential[...].dtype == jnp.float32
    layer.running_potential[...] = jnp.float32(start)
    # where none fires, with a state, and in evaluation it stays; and evaluation starts there
    layer(jnp.zeros_like(x))
    np.testing.assert_array_equal(layer(jnp.asarray(x), sbp_jax.initial_state(spec, x[0]))[0], forward(spec, x)[0])
    layer.eval()
    _, state = layer(jnp.asarray(x), return_state=True)
    wanted = forward(spec, x.astype("float64"), LIFState(np.full(x.shape[1:], start)))[1]
    np.testing.assert_allclose(state.potential, wanted.potential, rtol=1e-5, atol=1e-6)
    assert layer.running_potential[...] == np.float32(start)


def test_the_learnt_decay_gets_a_gradient_and_changes_the_output():
    layer = sbp_jax.PLIF(LIFSpec.leaky_integrator(learn_decay=True))

    def total(layer):
        return layer(X).sum()

    gradient = nnx.grad(total)(layer)["decay_logit"][...].item()
    before, width = layer.decay_logit[...], 0.01
    ends = []
    for logit in (before + width, before - width):
        layer.decay_logit[...] = logit
        ends.append(total(layer).item())
    np.testing.assert_allclose(gradient, (ends[0] - ends[1]) / (2 * width), rtol=1e-3)


@pytest.mark.parametrize("layer", [sbp_jax.LIF(), sbp_jax.CLIF()], ids=["lif", "clif"])
def test_each_call_starts_afresh_unless_a_state_is_passed(layer):
    np.testing.assert_array_equal(layer(X), layer(X))
    first, state = layer(X[:2], return_state=True)
    second, _ = layer(X[2:], state)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), layer(X))


def test_a_layer_takes_a_spec_or_fields_but_not_both():
    with pytest.raises(ValueError, match="either a spec or fields"):
        sbp_jax.LIF(LIFSpec(), decay=0.5)
    with pytest.raises(TypeError, match="spec must be a LIFSpec"):
        sbp_jax.LIF(0.5)
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\]"):
        sbp_jax.LIF(decay=2.0)
