"""Faults by kind: each shows only for some sizes, values or histories of calls, as those of real backends do.

They are planted at the contract, in NumPy, and are the same in every backend: the reference stands for all. Each kind
is a family, a fault for each of several numbers.
"""

from sbp_conformance.mutants.base import Mutant
from sbp_conformance.mutants.kinds import histories, losses, networks, neurons, schedules, states

MUTANTS: tuple[Mutant, ...] = (
    *neurons.MUTANTS,
    *losses.MUTANTS,
    *schedules.MUTANTS,
    *networks.MUTANTS,
    *states.MUTANTS,
    *histories.MUTANTS,
)
