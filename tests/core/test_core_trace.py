"""What is recorded of a formula is the formula, and what cannot be recorded says so."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from sbp_core import LIFSpec, Surrogate
from sbp_core.specs.surrogates import FAMILIES
from sbp_core.trace import expression
from sbp_core.trace.expression import Namespace, Node, NotTraceableError
from sbp_core.trace.step import step_graph

X = np.array([-3.0, -1.0, -0.25, -0.0, 0.0, 0.25, 1.0, 2.5, np.nan])
OPERATIONS = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "where": lambda condition, chosen, other: np.where(condition != 0, chosen, other),
}


def evaluate(value, x):
    if not isinstance(value, Node):
        return np.full_like(x, value)
    if value.operation == "x":
        return x
    operation = OPERATIONS.get(value.operation) or getattr(np, value.operation)
    return np.asarray(operation(*(evaluate(operand, x) for operand in value.operands)), float)


FORMULAS = {
    "functions": lambda x, xp: xp.cos(x) * xp.exp(-xp.abs(x)) + xp.tanh(x) / (2.0 + xp.sin(x)),
    "roots": lambda x, xp: xp.sqrt(1.0 + x**2) - xp.log(3.0 + xp.square(x)),
    "clip": lambda x, xp: xp.clip(x, -1.0, 0.5) + xp.maximum(x, 0.0) - xp.minimum(-0.5, x),
    "sign": lambda x, xp: xp.sign(x) * 3.0,
    "both": lambda x, xp: xp.where((x > -1.0) & (x <= 1.0), x, 7.0),
    "either": lambda x, xp: xp.where((x < -1.0) | ~(x < 1.0), x, 7.0),
    "compared": lambda x, xp: x * (x >= 0.25) + 1.0,
    "numbers of NumPy's": lambda x, xp: np.sqrt(2.0) * x + np.float64(1.0) - x * np.float32(2.0) + np.array(3.0) * x,
    "constant": lambda x, xp: xp.ones_like(x) * 2.0 + xp.zeros_like(x),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_recorded_formula_has_the_values_of_arrays(name):
    formula = FORMULAS[name]
    recorded = formula(Node("x"), Namespace())
    np.testing.assert_array_equal(evaluate(recorded, X), formula(X, np))


@pytest.mark.parametrize("surrogate", sorted(FAMILIES))
def test_every_family_that_comes_with_sbp_is_recorded_as_it_is(surrogate):
    family = FAMILIES[surrogate]()
    recorded = expression.derivative(family, Node("x"))
    np.testing.assert_array_equal(evaluate(recorded, X[:-1]), family.derivative(X[:-1], np))


UNRECORDED = {
    "a choice of Python's": lambda x, xp: x if x > 0 else -x,
    "a choice of Python's by": lambda x, xp: max(x, 0.0),
    "xp.cumsum": lambda x, xp: xp.cumsum(x),
    "a power of 0.3": lambda x, xp: x**0.3,
    "==": lambda x, xp: x * (x == 0),
    "does not support ufuncs": lambda x, xp: np.exp(x),
    "a function of NumPy's own": lambda x, xp: np.where(x > 0, 1.0, 2.0),
    "must be real number": lambda x, xp: math.exp(x),
    "an operand of type ndarray": lambda x, xp: np.ones(3) * x,
    "the attribute 'shape'": lambda x, xp: xp.ones_like(x) * x.shape[0],
    "not subscriptable": lambda x, xp: x[0],
    "the larger or smaller of two arrays": lambda x, xp: xp.maximum(x, -x),
    "the sum of two comparisons": lambda x, xp: xp.astype((x < 1.0) + (x > 0.0), x.dtype),
}


@pytest.mark.parametrize("said", UNRECORDED)
def test_what_cannot_be_recorded_is_named(said):
    class Odd:
        derivative = staticmethod(UNRECORDED[said])

    with pytest.raises(NotTraceableError, match="the derivative of Odd") as error:
        expression.derivative(Odd(), Node("x"))
    assert said in str(error.value)


def test_a_step_with_a_formula_that_cannot_be_recorded_says_so():
    @dataclass(frozen=True, kw_only=True)
    class Branching(Surrogate):
        kind: ClassVar[str] = "branching_of_a_trace"

        def derivative(self, x, xp):
            return x if x > 0 else -x

    with pytest.raises(NotTraceableError, match="the derivative of Branching uses a choice of Python's"):
        step_graph(LIFSpec(surrogate=Branching()))
