"""What a mutant is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Operations(NamedTuple):
    """What the mutants need of a framework beyond operators.

    Attributes:
        detach: stops the gradient.
        concatenate: arrays along the first axis.
        reverse: the first axis.
        cast: to the dtype of a name.
    """

    detach: Callable[[Any], Any]
    concatenate: Callable[[list[Any]], Any]
    reverse: Callable[[Any], Any]
    cast: Callable[[Any, str], Any]


#: The right function, and the framework's operations, to the wrong function that takes its place.
Change = Callable[[Callable[..., Any], Operations], Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault.

    Attributes:
        name: what is wrong, in a few words.
        level: the one that is to catch it.
        seam: where it is planted, a part of the adapter (:mod:`.seams`) or a member of the contract.
        change: how.
        dtypes: in which it is looked for.
        cases: patterns of cases to look at before the others; the first check that fails ends the search.
        kind: of the faults by kind (:mod:`.kinds`).
    """

    name: str
    level: str
    seam: str
    change: Change
    dtypes: tuple[str, ...] = ("float64",)
    cases: tuple[str, ...] = ()
    kind: str = ""


def mutants(level: str, seam: str, changes: dict[str, Change], **fields: Any) -> tuple[Mutant, ...]:
    """Return a mutant for each change, by name."""
    return tuple(Mutant(name=name, level=level, seam=seam, change=change, **fields) for name, change in changes.items())
