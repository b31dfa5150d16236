"""What the cases of every level share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sbp_conformance.precision import DTYPES, FULL, HALF, UNIT_ROUNDOFF
from sbp_conformance.results import Finding
from sbp_core.backend import Backend, Mode
from sbp_core.reference.backend import make_backend

REFERENCE = make_backend()


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest difference allowed, relative to the largest magnitude expected in the array.

    Attributes:
        value: of states, read-outs, losses and coefficients.
        gradient: of gradients.
    """

    value: float
    gradient: float


def tolerances(roundings: int) -> dict[str, Tolerance]:
    """Return the tolerances of each dtype for a result that ``roundings`` operations in a row lead to.

    float64: 1e-12, thousands of its roundings, and still far below any fault. float32: 1e-5 for gradients (measured
    between correct implementations: 4e-7; a slope off by 0.1% shows as 7e-4), and for values the bound itself,
    ``roundings * 2^-24``, but at least 1e-6: the reference computes them in float32 too, in one order, while a compiler
    may fuse a multiplication and an addition into one rounding. bfloat16 and float16, for values and gradients alike:
    ``1.2 * sqrt(roundings)`` times half a unit in the last place, for roundings go either way (measured: 3.4 of the
    5.4 of a loss, 3.0 of the 5.9 of four steps of a neuron, 2.8 of the 3.8 of a surrogate).
    """
    half = 1.2 * math.sqrt(roundings)
    return {
        "float64": Tolerance(value=1e-12, gradient=1e-12),
        "float32": Tolerance(value=max(1e-6, roundings * UNIT_ROUNDOFF["float32"]), gradient=1e-5),
    } | {dtype: Tolerance(value=half * UNIT_ROUNDOFF[dtype], gradient=half * UNIT_ROUNDOFF[dtype]) for dtype in HALF}


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """A case is data: what goes in, by seed, and how far what comes out may lie from the reference.

    Attributes:
        name: unique over all levels; ``--case`` takes it.
        seed: of everything random in it.
        dtypes: those it runs in, of those that the backend has.
        compiled: those it runs in when compiled. Few: compiling costs seconds a case, so the compiled cases are a
            selection of their own.
        vmapped: those it runs in sample by sample, mapped over the batch.
        tolerances: by dtype.
    """

    level: ClassVar[str]
    #: Members of the contract that it calls. It does not run on a backend that lacks one.
    needs: ClassVar[tuple[str, ...]] = ()
    name: str
    seed: int
    dtypes: tuple[str, ...] = DTYPES
    compiled: tuple[str, ...] = ()
    vmapped: tuple[str, ...] = ()
    tolerances: Mapping[str, Tolerance]

    def dtypes_in(self, mode: Mode, *, named: bool = False) -> tuple[str, ...]:
        """Return the dtypes that it runs in, in a mode; one that is asked for by name compiles in all of them."""
        if mode == "vmapped":
            return self.vmapped
        return self.compiled if mode == "compiled" and not named else self.dtypes

    def with_examples(self, examples: int) -> Self:
        """Return a case that makes up ``examples`` inputs anew, where it makes up any; else this one."""
        return self

    @abstractmethod
    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Run it on ``backend`` and on the reference, and compare."""


def reference_dtype(dtype: str) -> str:
    """Return what the reference computes a case of ``dtype`` in: its half-precision cases are exact in float64 too."""
    return dtype if dtype in FULL else "float64"
