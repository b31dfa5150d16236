"""The backend computes natively what the reference does, and the package imports quietly and without Keras."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import sbp_tf
from sbp_conformance.worker import load
from sbp_core import Evolutionary, LIFSpec, LIFState, LossSpec, Triangle
from sbp_core.reference.backend import make_backend as make_reference

BACKEND = load("tf")
MODES = ("eager", "compiled")
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
DTYPES = tuple(TOLERANCE)


def dyadic(shape, seed):
    return np.random.default_rng(seed).integers(-4, 9, shape) / 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_neuron_spike_and_loss_are_the_references(dtype, mode):
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    exact = "float64" if dtype == "bfloat16" else dtype
    spec = LIFSpec(synaptic_decay=0.5, surrogate="triangle", learn_decay=True)
    x, cotangent = dyadic((3, 2, 2), 1), dyadic((3, 2, 2), 2)
    state = LIFState(dyadic((2, 2), 3), dyadic((2, 2), 4))
    found, wanted = (
        backend.neuron(spec, x, state, cotangent, state, decay_logit=0.0, dtype=name, mode=mode)
        for backend, name in ((BACKEND, dtype), (make_reference(), exact))
    )
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.output, wanted.output)
    np.testing.assert_allclose(found.grad_input, wanted.grad_input, **close)
    np.testing.assert_allclose(found.grad_state.potential, wanted.grad_state.potential, **close)
    np.testing.assert_allclose(found.grad_state.current, wanted.grad_state.current, **close)
    assert found.grad_state.spikes is None
    assert found.grad_decay_logit == pytest.approx(wanted.grad_decay_logit, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])

    fired = BACKEND.spike(x, Triangle(), cotangent, inclusive=True, dtype=dtype, mode=mode)
    np.testing.assert_array_equal(fired.spikes, x >= 0)
    np.testing.assert_allclose(fired.grad_input, Triangle().derivative(x, np) * cotangent, **close)

    logits = dyadic((3, 2, 4), 5)
    losses = [
        backend.loss(logits[0], logits[1:], np.array([3, 0]), 0.25, spec=LossSpec(), dtype=name, mode=mode)
        for backend, name in ((BACKEND, dtype), (make_reference(), exact))
    ]
    assert losses[0].value == pytest.approx(losses[1].value, rel=TOLERANCE[dtype])
    np.testing.assert_allclose(losses[0].grad_main, losses[1].grad_main, **close)
    np.testing.assert_allclose(losses[0].grad_branches, losses[1].grad_branches, **close)


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_start_has_no_gradient_of_the_state_and_schedules_run(mode):
    spec, x = LIFSpec(), dyadic((3, 2), 1)
    found = BACKEND.neuron(spec, x, None, x, LIFState(x[0]), decay_logit=None, dtype="float64", mode=mode)
    assert found.grad_state == LIFState(None)
    assert found.grad_decay_logit is None
    assert BACKEND.schedule(Evolutionary(total_steps=8), 2, mode=mode) == 0.1875


def test_every_docstrings_example_runs():
    for module in pkgutil.iter_modules(sbp_tf.__path__, "sbp_tf."):
        assert doctest.testmod(importlib.import_module(module.name)).failed == 0, module.name


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_it_prints_nothing_at_import_and_runs_where_there_is_no_keras():
    result = run("import sys; sys.modules['keras'] = None; import sbp_tf; sbp_tf.lif([[0.5]])")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_without_tensorflow_the_error_says_what_to_install():
    result = run("import sys; sys.modules['tensorflow'] = None; import sbp_tf")
    assert 'pip install ".[tf]"' in result.stderr
