"""Loss level: both compositions of main and branch logits, and the gradient of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.compare import close, close_number
from sbp_conformance.compare import native_dtype as compare_dtype
from sbp_conformance.levels.base import REFERENCE, Case, Tolerance, reference_dtype, tolerances
from sbp_conformance.precision import FULL, representable
from sbp_conformance.results import Finding
from sbp_core.backend import Backend, Combine, LossResult, Mode

# the branches' sum, the coefficient, a softmax (difference, exponential, sum, quotient), label and mean, doubled
_ROUNDINGS = 20
# softmax as exp(logit - logsumexp) is off by the rounding of logits in the hundreds
_FAR = Tolerance(value=1e-6, gradient=1e-4)
_COMBINATIONS: tuple[Combine, ...] = ("logits", "losses")


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """A composed cross-entropy of random logits.

    Attributes:
        combine: the composition.
        branches: how many.
        coefficient: lambda.
        spread: standard deviation of the logits; a large one overflows a softmax that is not shifted.
        shape: (batch, classes).
    """

    level: ClassVar[str] = "loss"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    combine: Combine
    branches: int
    coefficient: float
    spread: float = 1.5
    shape: tuple[int, int] = (3, 4)

    def inputs(self, dtype: str) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], NDArray[np.int64]]:
        """Return the main logits, the branches' and the labels."""
        random = np.random.default_rng(self.seed)
        logits = [representable(random.normal(0.0, self.spread, self.shape), dtype) for _ in range(1 + self.branches)]
        return logits[0], logits[1:], random.integers(0, self.shape[1], self.shape[0])

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the loss, and the gradients of the main and of the branches' logits."""
        main, branches, labels = self.inputs(dtype)
        want = REFERENCE.loss(
            main,
            branches,
            labels,
            self.coefficient,
            combine=self.combine,
            dtype=reference_dtype(dtype),
            mode="eager",
        )
        got = backend.loss(main, branches, labels, self.coefficient, combine=self.combine, dtype=dtype, mode=mode)
        if not isinstance(got, LossResult):
            problem = f"wrong type: expected a LossResult, got {type(got).__name__}"
            return [Finding(quantity="result", kind="contract", problem=problem)]
        allowed = self.tolerances[dtype]
        # a loss near 0 is the difference of logits: its rounding is relative to those
        scale = float(np.max(np.abs(main)))
        findings = [
            compare_dtype(got.dtype, dtype),
            close_number("loss", "value", got.value, want.value, dtype, allowed.value, scale=scale),
            close("gradient of the main logits", "gradient", got.grad_main, want.grad_main, dtype, allowed.gradient),
        ]
        if not isinstance(got.grad_branches, tuple) or len(got.grad_branches) != self.branches:
            problem = f"wrong shape: expected a tuple of {self.branches}, got {_describe(got.grad_branches)}"
            return [*findings, Finding(quantity="gradients of the branches", kind="contract", problem=problem)]
        for index, (found, expected) in enumerate(zip(got.grad_branches, want.grad_branches, strict=True)):
            quantity = f"gradient of branch {index}'s logits"
            findings.append(close(quantity, "gradient", found, expected, dtype, allowed.gradient))
        return findings


def _describe(value: object) -> str:
    name = type(value).__name__
    return f"a {name} of {len(value)}" if isinstance(value, list | tuple) else name


def cases() -> tuple[Case, ...]:
    """Return every composition of 0 to 3 branches with coefficients 0, 0.25 and 1, and two with far logits."""
    compiled = {
        ("logits", 2, 0.25): ("float64",),
        ("losses", 2, 0.25): ("float32",),
        ("logits", 0, 1.0): ("float32",),
        ("losses", 3, 0.0): ("float64",),
    }
    product = itertools.product(_COMBINATIONS, range(4), (0.0, 0.25, 1.0))
    found = [
        LossCase(
            name=f"loss-{combine}-{branches}-branches-{coefficient:g}",
            seed=3000 + index,
            combine=combine,
            branches=branches,
            coefficient=coefficient,
            compiled=compiled.get((combine, branches, coefficient), ()),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (combine, branches, coefficient) in enumerate(product)
    ]
    far = [
        LossCase(
            name=f"loss-{combine}-far-logits",
            seed=3100 + index,
            combine=combine,
            branches=2,
            coefficient=0.25,
            spread=200.0,
            dtypes=FULL,
            tolerances=tolerances(_ROUNDINGS) | {"float32": _FAR},
        )
        for index, combine in enumerate(_COMBINATIONS)
    ]
    return (*found, *far)
