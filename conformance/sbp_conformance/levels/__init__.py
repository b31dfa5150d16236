"""The levels, each usable alone.

To add one: a module with a :class:`Case` of its own and a function that returns its cases, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from sbp_conformance.levels import calls, edges, loss, network, neuron_cases, random_neurons, schedule, surrogate
from sbp_conformance.levels.base import Case, Tolerance

LEVELS: dict[str, Callable[[], tuple[Case, ...]]] = {
    "surrogate": surrogate.cases,
    "neuron": neuron_cases.cases,
    "random": random_neurons.cases,
    "loss": loss.cases,
    "schedule": schedule.cases,
    "edges": edges.cases,
    "calls": calls.cases,
    "network": network.network_cases,
    "training": network.training_cases,
}


def default_levels() -> list[str]:
    """Return every level, but not the random one where hypothesis is not installed."""
    return [level for level in LEVELS if level != "random" or random_neurons.is_available()]


@cache
def cases_of(level: str) -> tuple[Case, ...]:
    """Return the cases of a level.

    Raises:
        ValueError: there is no such level.
        ModuleNotFoundError: the level needs a package that is not installed.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(map(repr, LEVELS))}; got {level!r}")
    return LEVELS[level]()


__all__ = ["LEVELS", "Case", "Tolerance", "cases_of", "default_levels"]
