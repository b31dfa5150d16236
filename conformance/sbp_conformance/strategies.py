"""Hypothesis strategies: neurons and losses of every kind, and cases of them. They need hypothesis; the suite does not.

from hypothesis import given
from sbp_conformance import strategies

@given(strategies.neuron_cases())
def test_mine(case):
assert not [f.problem for f in case.run(my_backend, dtype="float64", mode="eager") if f.problem]
"""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from sbp_conformance.levels.base import Tolerance, tolerances
from sbp_conformance.levels.loss import LossCase
from sbp_conformance.levels.neuron import NeuronCase
from sbp_conformance.precision import FULL
from sbp_core import LIFSpec, LossSpec, Surrogate
from sbp_core.specs.losses import Combine, StepTeacher, Teacher
from sbp_core.specs.surrogates import FAMILIES, StraightThrough

_SHAPE = (4, 2, 3)  # one shape: a framework that compiles each operation does so once
_SEEDS = 2**31
# a draw that keeps off every jump is found within a few attempts, or the neuron has a jump where it starts
_ATTEMPTS = 50


def _decimals(low: float, high: float) -> st.SearchStrategy[float]:
    """Return numbers of two decimals: they shrink to short ones, which read well."""
    return st.integers(round(low * 100), round(high * 100)).map(lambda hundredths: hundredths / 100)


def surrogates() -> st.SearchStrategy[Surrogate]:
    """Return surrogates of every family, heights and widths within a factor of 2 or so of the common ones."""

    def of(family: type[Surrogate]) -> st.SearchStrategy[Surrogate]:
        fields = {"height": _decimals(0.25, 2.0)}
        if family is not StraightThrough:
            fields["width"] = _decimals(0.5, 2.5)
        return st.builds(family, **fields)

    return st.sampled_from(list(FAMILIES.values())).flatmap(of)


@st.composite
def neuron_specs(draw: st.DrawFn) -> LIFSpec:
    """Return spiking neurons: every reset, timing, delay, detachment, state, gain, level and surrogate."""
    learnt = draw(st.booleans())
    fields: dict[str, Any] = {
        "reset": draw(st.sampled_from(("hard", "soft", "none"))),
        "reset_timing": draw(st.sampled_from(("now", "next"))),
        "output_delay": draw(st.sampled_from((0, 1))),
        "detach_reset": draw(st.booleans()),
        "inclusive": draw(st.booleans()),
        "learn_decay": learnt,
        "synaptic_decay": draw(st.none() | _decimals(0.0, 0.9)),
        "decay": draw(_decimals(0.05, 0.95) if learnt else _decimals(0.0, 1.0)),
        "input_gain": draw(st.just("complement") | _decimals(-1.0, 3.0)),
        "threshold": draw(_decimals(0.1, 3.0)),
        "rest": draw(_decimals(-0.7, 0.7)),
        "initial_potential": draw(st.none() | _decimals(-0.7, 0.7)),
        "reset_value": draw(_decimals(-1.0, 1.0)),
        "surrogate": draw(surrogates()),
    }
    if fields["reset"] != "none" and fields["reset_timing"] == "now":
        fields["complementary_state"] = draw(st.booleans())
    if fields["output_delay"] == 0 and hasattr(fields["surrogate"], "half_width"):
        fields["width_follows"] = draw(st.booleans())
    return LIFSpec(**fields)


@st.composite
def neuron_cases(draw: st.DrawFn) -> NeuronCase:
    """Return cases of the neuron level, off every jump as all its random cases are."""
    spec = draw(neuron_specs())
    seed = draw(st.integers(0, _SEEDS - 1))
    # heights of 2 and widths of 0.5 in every step: a little wider than the level's own, and still below any fault
    allowed = tolerances(6 * _SHAPE[0]) | {"float32": Tolerance(value=2e-6, gradient=5e-5)}
    return NeuronCase(
        name=f"random-{seed}",
        seed=seed,
        spec=spec,
        shape=_SHAPE,
        with_state=draw(st.booleans()),
        decay_logit=draw(_decimals(-2.0, 2.0)) if spec.learn_decay else None,
        attempts=_ATTEMPTS,
        dtypes=FULL,
        tolerances=allowed,
    )


@st.composite
def loss_specs(draw: st.DrawFn) -> LossSpec:
    """Return losses: every composition, supervision, teacher of branches and of steps, temperature and smoothing."""
    combine = draw(st.sampled_from(get_args(Combine)))
    fields: dict[str, Any] = {
        "combine": combine,
        "label_smoothing": draw(st.just(0.0) | _decimals(0.0, 1.0)),
        "per_step": draw(st.booleans()),
        "level_weight": draw(_decimals(0.0, 1.0)),
        "level": draw(_decimals(-2.0, 2.0)),
        "distillation": draw(_decimals(0.0, 1.0)) if combine == "losses" else 0.0,
        "teacher": draw(st.sampled_from(get_args(Teacher))),
        "temperature": draw(_decimals(0.5, 4.0)),
        "detach_teacher": draw(st.booleans()),
        "step_distillation": draw(st.just(0.0) | _decimals(0.1, 2.0)),
        "step_teacher": draw(st.sampled_from(get_args(StepTeacher))),
    }
    return LossSpec(**fields)


@st.composite
def loss_cases(draw: st.DrawFn) -> LossCase:
    """Return cases of the loss level, off every tie of who teaches as all its cases are."""
    seed = draw(st.integers(0, _SEEDS - 1))
    return LossCase(
        name=f"random-{seed}",
        seed=seed,
        spec=draw(loss_specs()),
        branches=draw(st.integers(0, 3)),
        coefficient=draw(_decimals(-1.0, 2.0)),
        shape=(6, 4),
        time_steps=3,
        dtypes=FULL,
        # a distance near 0 of logits of a few: rounding is relative to those, and the gradients may all but cancel
        tolerances=tolerances(40) | {"float32": Tolerance(value=1e-5, gradient=1e-4)},
    )
