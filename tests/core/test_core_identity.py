"""A spec is what it says it is: its kind is its own, and a class that would be mistaken for another is no class."""

import copy
import math
import pickle
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from sbp_core import (
    Evolutionary,
    Exponential,
    ExponentialSchedule,
    LIFSpec,
    Rectangle,
    Schedule,
    Surrogate,
    as_surrogate,
)
from sbp_core.specs.base import Spec


@dataclass(frozen=True, kw_only=True)
class Hat(Surrogate):
    """A user's family."""

    kind: ClassVar[str] = "hat_of_a_test"
    width: float = 2.0

    def derivative(self, x, xp):
        return xp.exp(-xp.abs(x) / self.width)


def test_a_users_surrogate_is_known_by_name_and_survives_json_pickle_and_copy():
    neuron = LIFSpec(surrogate="hat_of_a_test")
    assert neuron.surrogate == Hat()
    for again in (Spec.from_json(neuron.to_json()), pickle.loads(pickle.dumps(neuron)), copy.deepcopy(neuron)):
        assert again == neuron
        assert type(again.surrogate) is Hat
    assert "hat_of_a_test" in Surrogate.families()


def test_a_users_surrogate_needs_a_derivative_alone():
    x = np.linspace(-6.0, 6.0, 41)
    np.testing.assert_allclose(
        Hat().antiderivative(x), 0.5 + np.sign(x) * 2.0 * -np.expm1(-np.abs(x) / 2.0), atol=1e-12
    )
    assert Hat().peak == 1.0


@pytest.mark.parametrize(
    "family", [Rectangle(), Exponential(height=2.0), LIFSpec().surrogate.replace(width=3.0)], ids=repr
)
def test_quadrature_finds_the_formulas_antiderivative(family):
    x = np.concatenate([np.linspace(-3.0, 3.0, 31), [0.0]])
    np.testing.assert_allclose(Surrogate.antiderivative(family, x), family.antiderivative(x), atol=5e-3)


def test_a_class_without_a_kind_of_its_own_is_no_class():
    with pytest.raises(TypeError, match=r'class Wave needs a kind of its own.*kind: ClassVar\[str\] = "wave"'):

        class Wave(Surrogate):
            def derivative(self, x, xp):
                return x


@pytest.mark.parametrize("base", [Rectangle, LIFSpec, Evolutionary, Hat])
def test_no_class_derives_from_a_final_one(base):
    with pytest.raises(TypeError, match=f"class Mine cannot derive from {base.__name__}: it would be computed"):
        type("Mine", (base,), {"kind": "mine"})


def test_a_kind_that_another_class_has_is_refused_and_the_other_stays():
    with pytest.raises(TypeError, match=r"'exponential' is that of sbp_core.specs.surrogates.Exponential"):

        class Mine(Surrogate):
            kind: ClassVar[str] = "exponential"

            def derivative(self, x, xp):
                return x

    assert Surrogate.families()["exponential"] is Exponential


def test_a_cell_that_is_run_again_defines_its_class_anew():
    def cell(peak):
        @dataclass(frozen=True, kw_only=True)
        class Again(Surrogate):
            kind: ClassVar[str] = "again_of_a_test"
            height: float = peak

            def derivative(self, x, xp):
                return self.height * xp.ones_like(x)

        return Again

    cell(1.0)
    second = cell(2.0)
    assert as_surrogate("again_of_a_test") == second()
    assert as_surrogate("again_of_a_test").peak == 2.0


@pytest.mark.parametrize("base", [Surrogate, Schedule, Spec])
def test_an_abstract_class_is_neither_made_nor_loaded(base):
    with pytest.raises(TypeError, match=f"{base.__name__} is abstract"):
        base()
    with pytest.raises(ValueError, match="kind must be one of"):
        base.from_dict({"kind": base.__name__.lower()})
    with pytest.raises(ValueError, match="kind must be one of"):
        base.from_dict({})


def test_a_class_without_what_its_family_asks_for_is_no_class():
    with pytest.raises(TypeError, match="class Lazy must define derivative"):

        class Lazy(Surrogate):
            kind: ClassVar[str] = "lazy_of_a_test"

    with pytest.raises(TypeError, match="class Idle is abstract and has no instances"):

        class Idle(Surrogate, abstract=True):
            kind: ClassVar[str] = "idle"


def test_a_field_that_no_dataclass_made_is_said():
    class Plain(Surrogate):
        kind: ClassVar[str] = "plain_of_a_test"
        height: float = 3.0

        def derivative(self, x, xp):
            return x

    with pytest.raises(TypeError, match=r"class Plain must be decorated with @dataclass.*'height' is a field"):
        Plain()


def test_the_two_exponentials_are_told_apart():
    schedule = ExponentialSchedule(total_steps=4)
    assert Schedule.from_json(schedule.to_json()) == schedule
    assert Surrogate.from_json(Exponential().to_json()) == Exponential()
    with pytest.raises(ValueError, match="kind must be one of"):
        Schedule.from_json(Exponential().to_json())


def test_a_name_whose_family_has_no_defaults_says_what_it_needs():
    @dataclass(frozen=True, kw_only=True)
    class Needy(Surrogate):
        kind: ClassVar[str] = "needy_of_a_test"
        slope: float = field()

        def derivative(self, x, xp):
            return self.slope * xp.ones_like(x)

    with pytest.raises(ValueError, match=r"surrogate 'needy_of_a_test' needs slope: pass Needy\(...\)"):
        as_surrogate("needy_of_a_test")
    assert as_surrogate(Needy(slope=math.pi)).peak == math.pi
