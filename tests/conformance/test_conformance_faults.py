"""What a backend does wrong, ends at the check that does it: the others go on, and the reference raises no alarm."""

import sys

import pytest

from sbp_conformance import Selection, run_backend
from sbp_conformance.levels import default_levels
from sbp_core import Schedule
from sbp_core.reference.backend import ReferenceBackend


def run(level, backend):
    return list(run_backend(backend, Selection(levels=[level], dtypes=["float64", "float32"])))


def test_the_reference_raises_no_alarm():
    outcomes = list(run_backend(ReferenceBackend()))
    assert len(outcomes) > 500
    assert [outcome for outcome in outcomes if not outcome.passed] == []
    assert {outcome.level for outcome in outcomes} == set(default_levels())


def test_a_fault_in_one_case_fails_that_case_alone():
    class Faulty(ReferenceBackend):
        def schedule(self, schedule: Schedule, step, *, mode):
            return super().schedule(schedule, step, mode=mode) + (step == 3 and schedule.kind == "cosine") * 1e-3

    failed = {outcome.case for outcome in run("schedule", Faulty()) if not outcome.passed}
    assert failed == {f"schedule-cosine-{length}" for length in ("iteration", "long", "epoch", "cut-epoch")}


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (lambda: {}["two branches"], "raised KeyError: 'two branches'"),
        (lambda: sys.exit(3), "raised SystemExit: 3"),
    ],
    ids=["an error", "an exit"],
)
def test_what_a_backend_raises_is_reported_and_the_run_goes_on(action, told):
    class Faulty(ReferenceBackend):
        def loss(self, main, branches, labels, coefficient, **given):
            if len(branches) == 2:
                action()
            return super().loss(main, branches, labels, coefficient, **given)

    outcomes = run("loss", Faulty())
    failed = [outcome for outcome in outcomes if not outcome.passed]
    assert 0 < len(failed) < len(outcomes)
    assert all(told in outcome.problems[0] for outcome in failed)
