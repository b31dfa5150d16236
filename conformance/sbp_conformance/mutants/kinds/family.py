"""What the modules of this package share."""

from __future__ import annotations

from typing import Any

from sbp_conformance.mutants.base import Change, Mutant

#: Parameters of the contract's members, in order.
NEURON = ("spec", "x", "state", "output_cotangent", "state_cotangent")
LOSS = ("main", "branches", "labels", "coefficient")
SCHEDULE = ("schedule", "step")
SPIKE = ("x", "surrogate", "cotangent")


def family(kind: str, level: str, seam: str, changes: dict[str, Change], **fields: Any) -> tuple[Mutant, ...]:
    """Return a mutant for each of the faults of a kind."""
    return tuple(
        Mutant(name=f"{kind}: {name}", kind=kind, level=level, seam=seam, change=change, **fields)
        for name, change in changes.items()
    )
