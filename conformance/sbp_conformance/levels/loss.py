"""Loss level: every composition of main and branch logits, and the gradient of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.compare import close, close_number
from sbp_conformance.compare import native_dtype as compare_dtype
from sbp_conformance.levels.base import REFERENCE, Case, Tolerance, reference_dtype, tolerances
from sbp_conformance.precision import FULL, representable
from sbp_conformance.results import Finding
from sbp_core import LossSpec
from sbp_core.backend import Backend, LossResult, Mode
from sbp_core.specs.shortcut import Combine

# the branches' sum, the coefficient, a softmax (difference, exponential, sum, quotient), label and mean, doubled
_ROUNDINGS = 20
# softmax as exp(logit - logsumexp) is off by the rounding of logits in the hundreds
_FAR = Tolerance(value=1e-6, gradient=1e-4)
# supervision of every step and distillation; the shares are large, so that a fault in either shows
_COMPOSITIONS: dict[str, LossSpec] = {
    "per-step-logits": LossSpec(combine="logits", per_step=True, level_weight=0.25),
    "per-step-losses": LossSpec(per_step=True, level_weight=0.25, level=0.5),
    "per-step-entropy": LossSpec(per_step=True, level_weight=0.0),
    "distilled": LossSpec(distillation=0.5),
    "distilled-attached": LossSpec(distillation=0.5, temperature=2.0, detach_teacher=False),
    "distilled-alone": LossSpec(distillation=1.0, temperature=0.5, detach_teacher=False),
    "smoothed": LossSpec(label_smoothing=0.3),
    "smoothed-logits": LossSpec(combine="logits", label_smoothing=0.7),
    "smoothed-alone": LossSpec(label_smoothing=1.0),
    "smoothed-distilled": LossSpec(label_smoothing=0.2, distillation=0.3, temperature=1.7),
    "per-step-smoothed": LossSpec(per_step=True, level_weight=0.4, level=-0.7, label_smoothing=0.3),
    "per-step-level-alone": LossSpec(combine="logits", per_step=True, level_weight=1.0, level=0.3),
    "per-step-distilled": LossSpec(per_step=True, level_weight=0.25, distillation=0.5),
    "per-step-distilled-attached": LossSpec(
        per_step=True, level_weight=0.125, distillation=0.75, temperature=4.0, detach_teacher=False
    ),
}


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """A composed loss of random logits.

    Attributes:
        spec: the composition.
        branches: how many.
        coefficient: lambda.
        spread: standard deviation of the logits; a large one overflows a softmax that is not shifted.
        shape: (batch, classes).
        time_steps: of the logits, where the loss supervises each.
    """

    level: ClassVar[str] = "loss"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    spec: LossSpec
    branches: int
    coefficient: float
    spread: float = 1.5
    shape: tuple[int, int] = (3, 4)
    time_steps: int = 2

    def inputs(self, dtype: str) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], NDArray[np.int64]]:
        """Return the main logits, the branches' and the labels."""
        random = np.random.default_rng(self.seed)
        shape = (self.time_steps, *self.shape) if self.spec.per_step else self.shape
        logits = [representable(random.normal(0.0, self.spread, shape), dtype) for _ in range(1 + self.branches)]
        return logits[0], logits[1:], random.integers(0, self.shape[1], self.shape[0])

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the loss, and the gradients of the main and of the branches' logits."""
        main, branches, labels = self.inputs(dtype)
        want = REFERENCE.loss(
            main,
            branches,
            labels,
            self.coefficient,
            spec=self.spec,
            dtype=reference_dtype(dtype),
            mode="eager",
        )
        got = backend.loss(main, branches, labels, self.coefficient, spec=self.spec, dtype=dtype, mode=mode)
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
    """Return both plain compositions of 0 to 3 branches at each coefficient, every further one, sizes, far logits."""
    return (*_plain(), *_further(), *_coefficients(), *_sizes(), *_far())


def _plain() -> list[LossCase]:
    compiled = {
        ("logits", 2, 0.25): ("float64",),
        ("losses", 2, 0.25): ("float32",),
        ("logits", 0, 1.0): ("float32",),
        ("losses", 3, 0.0): ("float64",),
    }
    product = itertools.product(get_args(Combine), range(4), (0.0, 0.25, 1.0))
    return [
        LossCase(
            name=f"loss-{combine}-{branches}-branches-{coefficient:g}",
            seed=3000 + index,
            spec=LossSpec(combine=combine),
            branches=branches,
            coefficient=coefficient,
            compiled=compiled.get((combine, branches, coefficient), ()),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (combine, branches, coefficient) in enumerate(product)
    ]


def _further() -> list[LossCase]:
    compiled = {
        "per-step-logits": ("float32",),
        "per-step-distilled-attached": ("float64",),
        "distilled": ("float32",),
        "smoothed-distilled": ("float64",),
    }
    return [
        LossCase(
            name=f"loss-{name}",
            seed=3050 + index,
            spec=spec,
            branches=2,
            coefficient=0.75,
            compiled=compiled.get(name, ()),
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (name, spec) in enumerate(_COMPOSITIONS.items())
    ]


def _coefficients() -> list[LossCase]:
    """Outside [0, 1], small, and held exactly by no dtype."""
    product = itertools.product(get_args(Combine), (-0.6, 1.0 / 3.0, 1e-3, 0.9, 1.7, 30.0))
    return [
        LossCase(
            name=f"loss-{combine}-coefficient-{coefficient:.2g}",
            seed=3070 + index,
            spec=LossSpec(combine=combine),
            branches=1 + index % 3,
            coefficient=coefficient,
            tolerances=tolerances(_ROUNDINGS),
        )
        for index, (combine, coefficient) in enumerate(product)
    ]


# batch and classes, time steps, branches: one of each, and more classes than a block of threads or lanes
_SHAPES: dict[str, tuple[tuple[int, int], int, int]] = {
    "one-sample": ((1, 4), 2, 2),
    "one-class": ((3, 1), 2, 2),
    "two-classes": ((3, 2), 2, 1),
    "one-of-each": ((1, 1), 1, 1),
    "one-step": ((3, 4), 1, 2),
    "many-classes": ((3, 1037), 2, 2),
    "many-samples": ((1031, 3), 2, 1),
    "many-steps": ((2, 3), 131, 1),
    "many-branches": ((3, 4), 2, 9),
}


def _sizes() -> list[LossCase]:
    specs = {
        "logits": LossSpec(combine="logits"),
        "distilled": LossSpec(distillation=0.3, temperature=1.7, detach_teacher=False),
        "per-step": LossSpec(per_step=True, level_weight=0.3, level=0.7, label_smoothing=0.1),
    }
    found = []
    for index, ((size, (shape, steps, branches)), (name, spec)) in enumerate(
        itertools.product(_SHAPES.items(), specs.items())
    ):
        if size not in _THRICE and (not spec.per_step if steps != 2 else index % 3 != index // 3 % 3):
            continue
        found.append(
            LossCase(
                name=f"loss-{name}-{size}",
                seed=3200 + index,
                spec=spec,
                branches=branches,
                coefficient=0.7,
                shape=shape,
                time_steps=steps,
                # a framework that compiles each operation does so for each size and dtype: a dtype each
                dtypes=(FULL[index // len(specs) % 2],),
                tolerances=tolerances(_ROUNDINGS) | {"float32": Tolerance(value=3e-6, gradient=1e-5)},
            )
        )
    return found


# the others take one composition each
_THRICE = ("one-sample", "one-class")


def _far() -> list[LossCase]:
    named = {combine: LossSpec(combine=combine) for combine in get_args(Combine)} | _COMPOSITIONS
    return [
        LossCase(
            name=f"loss-{name}-far-logits",
            seed=3100 + index,
            spec=spec,
            branches=2,
            coefficient=0.25,
            spread=200.0,
            dtypes=FULL,
            tolerances=tolerances(_ROUNDINGS) | {"float32": _FAR},
        )
        for index, (name, spec) in enumerate(named.items())
    ]
