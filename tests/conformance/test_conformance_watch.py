"""What a backend was given must be left as it was, what it returned must stay, and no call may reach the next one."""

import subprocess
import sys

import pytest

from sbp_conformance import Selection, run_backend
from sbp_core.reference.backend import ReferenceBackend


def problems(backend, case):
    selection = Selection(cases=[case], dtypes=["float64"], modes=["eager"])
    return [problem for outcome in run_backend(backend, selection) for problem in outcome.problems]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (lambda x, state: x, "arrays: the backend wrote into argument 2 of neuron"),
        (lambda x, state: state.potential, "arrays: the backend wrote into argument 3.potential of neuron"),
    ],
    ids=["input", "state"],
)
def test_an_argument_that_is_written_to_is_told_by_name_and_put_right(written, told):
    class Writes(ReferenceBackend):
        def neuron(self, spec, x, state, *others, **given):
            result = super().neuron(spec, x, state, *others, **given)
            written(x, state)[...] = 7.0
            return result

    assert problems(Writes(), "edges-double-hard") == [told]


def test_what_is_written_to_before_an_error_is_told_too():
    class Writes(ReferenceBackend):
        def neuron(self, spec, x, *others, **given):
            x[...] = 0.0
            raise ValueError("no")

    assert problems(Writes(), "edges-double-hard")[1:] == ["arrays: the backend wrote into argument 2 of neuron"]


def test_a_result_that_the_next_call_overwrites_is_told():
    buffers = {}

    class Reuses(ReferenceBackend):
        def neuron(self, *given, **others):
            result = super().neuron(*given, **others)
            buffer = buffers.setdefault(result.grad_input.shape, result.grad_input.copy())
            buffer[...] = result.grad_input
            return result._replace(grad_input=buffer)

    found = problems(Reuses(), "calls-neuron-state")
    assert found == ["arrays: result.grad_input of neuron changed while the backend was called again"]


def test_a_number_kept_from_the_call_before_fails_the_sequence_alone():
    kept = {}

    class Keeps(ReferenceBackend):
        def neuron(self, spec, x, *others, **given):
            threshold = kept.setdefault((spec.replace(threshold=1.0), x.shape), spec.threshold)
            return super().neuron(spec.replace(threshold=threshold), x, *others, **given)

    assert any(problem.startswith("call 5: ") for problem in problems(Keeps(), "calls-neuron-numbers"))


def test_a_case_that_is_misspelt_is_told_what_is_near():
    command = [sys.executable, "-m", "sbp_conformance", "--list", "--case", "calls-neuron-number"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no case is called 'calls-neuron-number'" in done.stderr
    assert "calls-neuron-numbers" in done.stderr
