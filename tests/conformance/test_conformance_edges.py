"""The edges level feeds in what it claims, and catches what only shows there."""

import numpy as np
import pytest

from sbp_conformance import Selection, cases_of, run_backend
from sbp_conformance.compare import close
from sbp_conformance.levels.edges import HUGE, TINY, LayoutCase, ScaledCase
from sbp_conformance.precision import DTYPES, SMALLEST_NORMAL
from sbp_conformance.run import select
from sbp_core.reference.backend import ReferenceBackend

CASES = {case.name: case for case in cases_of("edges")}
LAYOUTS = [case for case in CASES.values() if isinstance(case, LayoutCase)]


def problems(backend, pattern, dtype="float64"):
    outcomes = list(run_backend(backend, Selection(levels=["edges"], cases=[pattern], dtypes=[dtype])))
    assert outcomes
    return {outcome.case: outcome.problems for outcome in outcomes if not outcome.passed}


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case.layout)
def test_a_layout_is_a_view_of_the_same_numbers(case):
    x = case.inputs("float32").x
    assert not x.flags.c_contiguous
    assert x.shape == case.shape
    assert x.size >= 1 << 15  # wide enough for a fast kernel
    if case.layout != "repeated":
        np.testing.assert_array_equal(x, case.drawn.x)
    assert (case.layout == "reversed") == (min(x.strides) < 0)


def test_every_dtype_meets_huge_and_tiny_values():
    for case in CASES.values():
        if isinstance(case, ScaledCase):
            assert set(case.dtypes) == set(DTYPES)
            for dtype in DTYPES:
                x = np.abs(case.inputs(dtype).x)
                assert np.all(np.isfinite(x))
                assert x.max() > 0.5 * HUGE[dtype] or x.max() < 2 * TINY[dtype]
                assert x.min() > SMALLEST_NORMAL[dtype]


def test_an_input_that_is_not_finite_reaches_the_state_and_no_other_neuron():
    for name, case in CASES.items():
        if name.startswith(("edges-nan", "edges-infinite", "edges-minus")):
            with np.errstate(invalid="ignore"):
                state = case.expected("float64").state.potential.ravel()
            soft_or_not_reset = case.spec.reset != "hard" or not name.startswith("edges-minus")
            assert not np.isfinite(state[0]) or not soft_or_not_reset, name
            assert np.all(np.isfinite(state[1:])), name


class Swallows(ReferenceBackend):
    """Makes numbers of whatever is not finite."""

    def neuron(self, spec, x, *arguments, **options):
        return super().neuron(spec, np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), *arguments, **options)

    def loss(self, main, branches, *arguments, **options):
        return super().loss(main, [np.nan_to_num(branch) for branch in branches], *arguments, **options)


class SkipsAtZero(ReferenceBackend):
    def loss(self, main, branches, labels, coefficient, **options):
        result = super().loss(main, branches if coefficient else [], labels, coefficient, **options)
        empty = tuple(np.zeros_like(branch) for branch in branches)
        return result if coefficient else result._replace(grad_branches=empty)


class Masks(ReferenceBackend):
    """Multiplies the log-softmax by the one-hot label, so that 0 meets minus infinity."""

    def loss(self, main, branches, *arguments, **options):
        result = super().loss(main, branches, *arguments, **options)
        return result._replace(value=float("nan")) if np.isinf(main).any() else result


class WritesIntoItsInput(ReferenceBackend):
    def neuron(self, spec, x, *arguments, **options):
        result = super().neuron(spec, x, *arguments, **options)
        if x.flags.writeable:
            x[...] = 0.0
        return result


class ReadsTheBufferAsItLies(ReferenceBackend):
    def neuron(self, spec, x, *arguments, **options):
        return super().neuron(spec, np.ravel(x, order="K").reshape(x.shape), *arguments, **options)


class DropsAnEmptyBatch(ReferenceBackend):
    def neuron(self, spec, x, *arguments, **options):
        result = super().neuron(spec, x, *arguments, **options)
        return result if x.size else result._replace(output=np.zeros((0, 0)))


class Leaks(ReferenceBackend):
    """One neuron's NaN reaches all of its sample."""

    def neuron(self, spec, x, *arguments, **options):
        return super().neuron(spec, x + 0.0 * x.sum(axis=-1, keepdims=True), *arguments, **options)


class OverflowsInTheTail(ReferenceBackend):
    def spike(self, x, surrogate, cotangent, **options):
        result = super().spike(x, surrogate, cotangent, **options)
        return result._replace(grad_input=np.where(np.isinf(x), np.nan, result.grad_input))


FAULTS = {
    "NaN swallowed": (Swallows(), "edges-nan-*"),
    "infinity swallowed": (Swallows(), "edges-infinite-*"),
    "NaN of a branch hidden at 0": (SkipsAtZero(), "edges-loss-nan-in-a-branch-at-0"),
    "NaN of a masked class": (Masks(), "edges-loss-masked-class"),
    "input written to": (WritesIntoItsInput(), "edges-layout-channels-last"),
    "strides ignored": (ReadsTheBufferAsItLies(), "edges-layout-channels-last"),
    "empty batch of another shape": (DropsAnEmptyBatch(), "edges-empty-neuron"),
    "NaN leaks": (Leaks(), "edges-nan-readout"),
    "slope NaN at infinity": (OverflowsInTheTail(), "edges-spike-arctan"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name):
    backend, pattern = FAULTS[name]
    found = problems(backend, pattern)
    assert found
    assert not problems(ReferenceBackend(), pattern)
    assert all("raised" not in problem for each in found.values() for problem in each), found


def test_where_nan_is_expected_a_number_will_not_do_and_the_rest_is_compared():
    want = np.array([np.nan, 1.0, -np.inf])
    for got, passes in {
        (np.nan, 1.0, -np.inf): True,
        (np.inf, 1.0, np.nan): True,
        (0.0, 1.0, -np.inf): False,
        (np.nan, 1.1, -np.inf): False,
        (np.nan, np.nan, -np.inf): False,
    }.items():
        finding = close("x", "state", np.array(got), want, "float64", 1e-12)
        assert (finding.problem is None) == passes, got


def test_only_spikes_and_neurons_are_mapped_over_their_batch():
    class Mapped(ReferenceBackend):
        modes = ("eager", "vmapped")

    checks = [check for check in select(Mapped(), Selection()) if check.mode == "vmapped"]
    assert {check.case.level for check in checks} == {"surrogate", "neuron", "edges"}
    assert {type(check.case).__name__ for check in checks} == {"SurrogateCase", "NeuronCase", "SingleStepCase"}
    loss = Selection(cases=["loss-*"], modes=["vmapped"])
    assert select(Mapped(), loss) == []
