"""The front end under the contract of conformance, against the reference; on whichever backend Keras is set to."""

import keras
import numpy as np
import pytest

from sbp_conformance.harness import as_backend
from sbp_core import Evolutionary, LIFSpec, LIFState, LossSpec, Sigmoid
from sbp_core.backend import PARTS
from sbp_core.reference.backend import make_backend as make_reference
from sbp_keras.engine import make_engine

BACKEND, REFERENCE = as_backend(make_engine()), make_reference()
SPECS = {
    "paper": LIFSpec(),
    "learnt, complement": LIFSpec(learn_decay=True, input_gain="complement", surrogate=Sigmoid()),
    "current, delayed": LIFSpec(synaptic_decay=0.5, output_delay=1, reset="soft"),
}
# relative to the largest value; float64 as conformance asks
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}


def agree(got, wanted, dtype):
    if wanted is None:
        assert got is None
        return
    got, wanted = np.asarray(got, "float64"), np.asarray(wanted, "float64")
    assert np.abs(got - wanted).max() <= TOLERANCE[dtype] * max(np.abs(wanted).max(), 1e-3)


def test_it_has_every_member_and_says_what_it_runs_on():
    assert all(hasattr(BACKEND, member) for member in PARTS)
    assert BACKEND.name == f"keras-{keras.backend.backend()}"
    assert keras.backend.backend() in BACKEND.versions


@pytest.mark.parametrize("mode", BACKEND.modes)
@pytest.mark.parametrize("dtype", BACKEND.dtypes)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_neuron_agrees_with_the_adjoint(spec, dtype, mode):
    rng = np.random.default_rng(0)

    def part():
        return rng.integers(-64, 64, (2, 3)) / 64

    def state():
        return LIFState(
            part(), part() if spec.synaptic_decay else None, (part() > 0) * 1.0 if spec.stores_spikes else None
        )

    x, cotangent = rng.integers(-64, 128, (3, 2, 3)) / 64, rng.integers(-8, 8, (3, 2, 3)) / 8
    logit = 0.0 if spec.learn_decay else None
    starts = (None, state()) if dtype == "float64" else (state(),)
    for start in starts:
        arguments = (spec, x, start, cotangent, state())
        got = BACKEND.neuron(*arguments, decay_logit=logit, dtype=dtype, mode=mode)
        wanted = REFERENCE.neuron(*arguments, decay_logit=logit, dtype="float64", mode="eager")
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.output, wanted.output)
        agree(got.grad_input, wanted.grad_input, dtype)
        agree(got.grad_decay_logit, wanted.grad_decay_logit, dtype)
        for pair in (zip(got.state, wanted.state, strict=True), zip(got.grad_state, wanted.grad_state, strict=True)):
            for one, other in pair:
                agree(one, other, dtype)


@pytest.mark.parametrize("mode", BACKEND.modes)
@pytest.mark.parametrize("combine", ["logits", "losses"])
@pytest.mark.parametrize("dtype", BACKEND.dtypes)
def test_a_composed_loss_agrees_with_the_adjoint(dtype, combine, mode):
    main, *branches = np.random.default_rng(1).normal(size=(3, 4, 5))
    labels = np.array([0, 4, 2, 2])
    got = BACKEND.loss(main, branches, labels, 0.3, spec=LossSpec(combine=combine), dtype=dtype, mode=mode)
    wanted = REFERENCE.loss(main, branches, labels, 0.3, spec=LossSpec(combine=combine), dtype="float64", mode="eager")
    assert got.dtype == dtype
    agree(got.value, wanted.value, dtype)
    agree(got.grad_main, wanted.grad_main, dtype)
    for one, other in zip(got.grad_branches, wanted.grad_branches, strict=True):
        agree(one, other, dtype)


@pytest.mark.parametrize("mode", BACKEND.modes)
def test_spikes_and_schedules_agree(mode):
    x = np.array([-0.5, 0.0, 0.25, 2.0])
    for inclusive in (False, True):
        arguments = (x, Sigmoid(), np.arange(1.0, 5.0))
        got = BACKEND.spike(*arguments, inclusive=inclusive, dtype="float64", mode=mode)
        wanted = REFERENCE.spike(*arguments, inclusive=inclusive, dtype="float64", mode="eager")
        np.testing.assert_array_equal(got.spikes, wanted.spikes)
        agree(got.grad_input, wanted.grad_input, "float64")
    schedule = Evolutionary(initial=0.25, total_steps=10)
    for step in (1, 10, 12):
        assert BACKEND.schedule(schedule, step, mode=mode) == pytest.approx(schedule(step), abs=1e-7)
