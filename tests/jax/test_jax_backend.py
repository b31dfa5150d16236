"""The backend's contract: what it computes in, and that it leaves JAX's settings as they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbp_conformance.worker import load
from sbp_core import Evolutionary, LIFSpec, LIFState, LossSpec, Triangle
from sbp_core.backend import Backend
from sbp_core.reference.backend import make_backend as make_reference

RNG = np.random.default_rng(24)
SPEC = LIFSpec(learn_decay=True, synaptic_decay=0.5, surrogate=Triangle(width=1.5))
X = RNG.integers(-8, 24, (5, 2, 3)) / 16
STATE = LIFState(np.full((2, 3), 0.25), np.full((2, 3), 0.5))
COTANGENT = RNG.normal(size=X.shape)
LAST = LIFState(np.ones((2, 3)), np.full((2, 3), -0.5))
BACKEND, REFERENCE = load("jax"), make_reference()
MODES = ("eager", "compiled")


def test_it_fulfils_the_contract_under_its_registered_name():
    assert isinstance(BACKEND, Backend)
    assert (BACKEND.name, tuple(BACKEND.modes)) == ("jax", (*MODES, "vmapped"))
    assert BACKEND.versions["jax"] == jax.__version__


@pytest.mark.parametrize("dtype", BACKEND.dtypes)
@pytest.mark.parametrize("mode", MODES)
def test_it_really_computes_in_each_dtype_and_leaves_float64_as_it_was(dtype, mode):
    result = BACKEND.neuron(SPEC, X, STATE, COTANGENT, LAST, decay_logit=0.5, dtype=dtype, mode=mode)
    assert result.dtype == dtype
    # a third is no short binary fraction: its last bits say which precision was at work
    fine = BACKEND.loss(np.eye(2) / 3, [], np.array([0, 1]), 0.0, spec=LossSpec(), dtype=dtype, mode=mode)
    exact = np.log(1 + np.exp(-1 / 3))
    epsilon = float(jnp.finfo(dtype).eps)
    assert fine.dtype == dtype
    assert abs(fine.value - exact) <= 2 * epsilon
    assert jnp.zeros(1, float).dtype == jnp.float32


def test_float64_stays_on_for_a_user_who_has_it_on():
    with jax.enable_x64(True):
        BACKEND.spike(X, Triangle(), X, inclusive=False, dtype="float32", mode="compiled")
        assert jnp.zeros(1, float).dtype == jnp.float64


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("state", [STATE, None], ids=["state", "fresh"])
def test_it_agrees_with_the_reference(mode, dtype, tolerance, state):
    def results(backend, mode):
        neuron = backend.neuron(SPEC, X, state, COTANGENT, LAST, decay_logit=0.0, dtype=dtype, mode=mode)
        spike = backend.spike(X - 1, Triangle(), COTANGENT, inclusive=True, dtype=dtype, mode=mode)
        loss = backend.loss(
            COTANGENT[0],
            [COTANGENT[1], COTANGENT[2]],
            np.array([2, 0]),
            0.25,
            spec=LossSpec(combine="logits"),
            dtype=dtype,
            mode=mode,
        )
        return neuron[:-1], spike[:-1], loss[:-1]

    expected, found = results(REFERENCE, "eager"), results(BACKEND, mode)
    np.testing.assert_array_equal(found[0][0], expected[0][0])
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_gets_the_step_as_an_array(mode):
    assert BACKEND.schedule(Evolutionary(initial=0.25, total_steps=8), 6, mode=mode) == 0.0625
