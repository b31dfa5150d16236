"""Planted faults: each breaks one thing in a real adapter, and the suite must catch it.

A mutant is data: what it breaks, where in the adapter, and which level is to notice. ``python -m sbp_conformance
--mutants`` plants them one at a time and tells which check caught each. To add one: a line in the module of its seam.
"""

from sbp_conformance.mutants import compose, contract, fire, kinds, layers, networks, over_time, schedules, step
from sbp_conformance.mutants.base import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *fire.MUTANTS,
    *step.MUTANTS,
    *over_time.MUTANTS,
    *compose.MUTANTS,
    *schedules.MUTANTS,
    *contract.MUTANTS,
    *networks.MUTANTS,
    *kinds.MUTANTS,
    *layers.MUTANTS,
)

__all__ = ["MUTANTS", "Mutant"]
