"""Faults of the spike and its surrogate gradient, at the function that fires: ``fire(x, surrogate, inclusive)``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from sbp_conformance.mutants.base import Change, Operations, mutants
from sbp_core.specs.surrogates import Rectangle, Sigmoid, Surrogate

Derivative = Callable[[Surrogate, Any, Any], Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Altered(Surrogate):
    """A surrogate with another derivative."""

    kind: ClassVar[str] = "altered_by_a_mutant"
    right: Surrogate
    wrong: Derivative

    @property
    def peak(self) -> float:
        """The right one's."""
        return self.right.peak

    def derivative(self, x: Any, xp: Any) -> Any:
        """Return the wrong one."""
        return self.wrong(self.right, x, xp)

    def antiderivative(self, x: Any) -> Any:
        """Return the right one's."""
        return self.right.antiderivative(x)


def derivative(wrong: Derivative) -> Change:
    """Return the change to another derivative."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def fire(x: Any, surrogate: Surrogate, inclusive: bool = False) -> Any:
            return right(x, Altered(right=surrogate, wrong=wrong), inclusive=inclusive)

        return fire

    return change


def call(wrong: Callable[[Callable[..., Any], Any, Surrogate, bool], Any]) -> Change:
    """Return the change of the call as a whole: ``wrong(right, x, surrogate, inclusive)``."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def fire(x: Any, surrogate: Surrogate, inclusive: bool = False) -> Any:
            return wrong(right, x, surrogate, inclusive)

        return fire

    return change


def _naive_sigmoid(right: Surrogate, x: Any, xp: Any) -> Any:
    if not isinstance(right, Sigmoid):
        return right.derivative(x, xp)
    e = xp.exp(x / right.width)
    return 4 * right.height * e / (1 + e) ** 2


def _closed_rectangle(right: Surrogate, x: Any, xp: Any) -> Any:
    edge = right.width / 2 if isinstance(right, Rectangle) else math.inf
    return xp.where(xp.abs(x) == edge, xp.ones_like(x) * right.peak, right.derivative(x, xp))


def _cut_off(right: Surrogate, x: Any, xp: Any) -> Any:
    return xp.where(xp.abs(x) > 9.0, xp.zeros_like(x), right.derivative(x, xp))


def _of_fired(right: Surrogate, x: Any, xp: Any) -> Any:
    return xp.where(x > 0, right.derivative(x, xp), xp.zeros_like(x))


MUTANTS = mutants(
    "surrogate",
    "fire",
    {
        ">= for >": call(lambda right, x, s, inclusive: right(x, s, inclusive=True)),
        "> for >=": call(lambda right, x, s, inclusive: right(x, s, inclusive=False)),
        "> and >= swapped": call(lambda right, x, s, inclusive: right(x, s, inclusive=not inclusive)),
        "threshold a rounding too high": call(lambda right, x, s, inclusive: right(x - 1e-12, s, inclusive=inclusive)),
        "spikes of -1 and 1": call(lambda right, x, s, inclusive: 2.0 * right(x, s, inclusive=inclusive) - 1.0),
        "spikes of the height of the surrogate": call(
            lambda right, x, s, inclusive: s.peak * right(x, s, inclusive=inclusive)
        ),
        "one surrogate for all": call(lambda right, x, s, inclusive: right(x, Rectangle(), inclusive=inclusive)),
        "slope 0.1% off": derivative(lambda s, x, xp: s.derivative(x, xp) * 1.001),
        "slope 0.0001% off": derivative(lambda s, x, xp: s.derivative(x, xp) * 1.000001),
        "width 0.1% off": derivative(lambda s, x, xp: s.derivative(x * 1.001, xp)),
        "surrogate shifted by 1e-6": derivative(lambda s, x, xp: s.derivative(x - 1e-6, xp)),
        "surrogate of unit height": derivative(lambda s, x, xp: s.derivative(x, xp) / s.peak),
        "surrogate cut off far out": derivative(_cut_off),
        "surrogate of fired neurons alone": derivative(_of_fired),
        "rectangle closed at its edges": derivative(_closed_rectangle),
        "sigmoid that overflows": derivative(_naive_sigmoid),
        "straight through": derivative(lambda s, x, xp: xp.ones_like(x)),
        "no gradient at all": derivative(lambda s, x, xp: xp.zeros_like(x)),
    },
)
