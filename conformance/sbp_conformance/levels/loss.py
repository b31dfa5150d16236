"""Loss level: every composition of main and branch logits, and the gradient of each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.compare import close, close_number
from sbp_conformance.compare import native_dtype as compare_dtype
from sbp_conformance.levels.base import REFERENCE, Case, Tolerance, reference_dtype, tolerances
from sbp_conformance.precision import FULL, HALF, representable
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
    "reliable": LossSpec(distillation=0.5, teacher="right"),
    "reliable-attached": LossSpec(distillation=0.4, teacher="right", temperature=2.0, detach_teacher=False),
    "per-step-reliable": LossSpec(per_step=True, level_weight=0.2, distillation=0.6, teacher="right"),
    "strong-to-weak": LossSpec(step_distillation=1.0, temperature=2.0),
    "strong-to-weak-logits": LossSpec(combine="logits", step_distillation=0.5),
    "strong-to-weak-attached": LossSpec(step_distillation=0.7, detach_teacher=False, label_smoothing=0.2),
    "weak-to-strong": LossSpec(step_distillation=1.5, step_teacher="weak", temperature=1.5),
    "per-step-weak-to-strong-attached": LossSpec(
        per_step=True, level_weight=0.2, step_distillation=0.5, step_teacher="weak", detach_teacher=False
    ),
    "right-to-wrong": LossSpec(combine="logits", step_distillation=1.0, step_teacher="right"),
    "right-to-wrong-attached": LossSpec(step_distillation=0.8, step_teacher="right", detach_teacher=False),
    "strong-to-weak-distilled": LossSpec(step_distillation=0.6, distillation=0.3),
    "right-to-wrong-reliable": LossSpec(
        step_distillation=0.6, step_teacher="right", distillation=0.3, teacher="right", detach_teacher=False
    ),
}
# how far apart what decides is where half precision rounds, and where it does not: logits in units of their spread,
# and how sure steps are
_CLEAR = {True: (0.06, 0.02), False: (1e-4, 1e-4)}
_ATTEMPTS = 1000


class NoDrawError(RuntimeError):
    """Nothing could be drawn that decides who teaches clearly: nothing to do with the backend under test."""


@dataclass(frozen=True, kw_only=True)
class LossCase(Case):
    """A composed loss of random logits.

    Attributes:
        spec: the composition.
        branches: how many.
        coefficient: lambda.
        spread: standard deviation of the logits; a large one overflows a softmax that is not shifted.
        shape: (batch, classes).
        time_steps: of the logits, where the loss has use for each.
        said: whose largest logit is the label's: "some" outputs', "none"'s or "all"'s.
    """

    level: ClassVar[str] = "loss"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    spec: LossSpec
    branches: int
    coefficient: float
    spread: float = 1.5
    shape: tuple[int, int] = (3, 4)
    time_steps: int = 2
    said: Literal["some", "none", "all"] = "some"

    def inputs(self, dtype: str) -> tuple[NDArray[np.float64], list[NDArray[np.float64]], NDArray[np.int64]]:
        """Return the main logits, the branches' and the labels.

        Raises:
            NoDrawError: none that decide clearly who teaches.
        """
        random = np.random.default_rng(self.seed)
        shape = (self.time_steps, *self.shape) if self.spec.timed else self.shape
        for _ in range(_ATTEMPTS):
            logits = [random.normal(0.0, self.spread, shape) for _ in range(1 + self.branches)]
            labels = random.integers(0, self.shape[1], self.shape[0])
            if self.said == "all":
                logits = [_swapped(each, labels) for each in logits]
            main, *branches = (representable(each, dtype) for each in logits)
            outputs = self._outputs(main, branches)
            if self.said == "none":
                said = np.concatenate([each.argmax(-1).reshape(-1, len(labels)) for each in outputs])
                labels = np.array([np.setdiff1d(np.arange(self.shape[1]), column)[0] for column in said.T])
            if self._clear(outputs):
                return main, branches, labels
        raise NoDrawError(f"{self.name}: in {_ATTEMPTS} draws none decides clearly who teaches")

    def _outputs(self, main: NDArray[np.float64], branches: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """Return what is asked whether it is right: logits of each step, and their mean."""
        given = [main, *branches]
        if self.spec.combine == "logits":
            given = [main + self.coefficient * np.sum([np.zeros_like(main), *branches], axis=0)]
        return given + [each.mean(0) for each in given if self.spec.timed]

    def _clear(self, outputs: list[NDArray[np.float64]]) -> bool:
        """Return whether roundings decide nothing of who teaches."""
        apart, surer = _CLEAR[any(dtype in HALF for dtype in self.dtypes)]
        if self.spec.needs_classes and self.shape[1] > 1:
            for each in outputs:
                first, second = np.moveaxis(np.sort(each, axis=-1)[..., :-3:-1], -1, 0)
                if (first - second).min() < apart * self.spread:
                    return False
        if self.spec.step_distillation and self.spec.step_teacher != "right" and self.time_steps > 1:
            for each in (each for each in outputs if each.ndim == 3):
                shifted = np.exp(each - each.max(-1, keepdims=True))
                sure = np.sort((1.0 / shifted.sum(-1)).mean(-1))
                if min(sure[1] - sure[0], sure[-1] - sure[-2]) < surer and self.shape[1] > 1:
                    return False
        return True

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


def _swapped(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the logits with the largest of each row at the label."""
    found = logits.copy()
    wanted = np.broadcast_to(labels, logits.shape[:-1])[..., None]
    np.put_along_axis(found, logits.argmax(-1, keepdims=True), np.take_along_axis(logits, wanted, -1), -1)
    np.put_along_axis(found, wanted, logits.max(-1, keepdims=True), -1)
    return found


def _describe(value: object) -> str:
    name = type(value).__name__
    return f"a {name} of {len(value)}" if isinstance(value, list | tuple) else name


def cases() -> tuple[Case, ...]:
    """Return both plain compositions of 0 to 3 branches at each coefficient, every further one, sizes, far logits."""
    return (*_plain(), *_further(), *_coefficients(), *_sizes(), *_far(), *_teachers())


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
        "reliable-attached": ("float32",),
        "strong-to-weak": ("float64",),
        "right-to-wrong-reliable": ("float32",),
    }
    return [
        LossCase(
            name=f"loss-{name}",
            seed=3050 + index,
            spec=spec,
            branches=2,
            coefficient=0.75,
            compiled=compiled.get(name, ()),
            **(_TAUGHT if _decides(spec) else {"tolerances": tolerances(_ROUNDINGS)}),
            **(_WHOLE if _decides(spec) and name not in _IN_HALF else {}),
        )
        for index, (name, spec) in enumerate(_COMPOSITIONS.items())
    ]


# where it is decided who teaches: enough samples and steps that some are right and some are not
_TAUGHT: dict[str, Any] = {"shape": (6, 4), "time_steps": 3, "tolerances": tolerances(2 * _ROUNDINGS)}
_WHOLE: dict[str, Any] = {"dtypes": FULL}
_IN_HALF = ("reliable-attached", "strong-to-weak-attached", "right-to-wrong")


def _coefficients() -> list[LossCase]:
    """Outside [0, 1], small, and held exactly by no dtype."""
    product = itertools.product(get_args(Combine), (-0.6, 1.0 / 3.0, 1e-3, 0.9, 1.7, 30.0))
    return [
        LossCase(
            name=f"loss-{combine}-coefficient-{coefficient:.2g}",
            seed=3700 + index,
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


def _decides(spec: LossSpec) -> bool:
    """Return whether the loss asks who is right, or sure."""
    return spec.needs_classes or spec.step_distillation > 0.0


def _teachers() -> list[LossCase]:
    """Nobody is right, or all are; one step, class or sample, and many; no branch; coefficients of 0 and below."""
    reliable = LossSpec(distillation=0.4, teacher="right", detach_teacher=False)
    strong = LossSpec(step_distillation=0.8, temperature=2.0, detach_teacher=False)
    wrong = LossSpec(step_distillation=0.8, step_teacher="right", detach_teacher=False)
    given: dict[str, tuple[LossSpec, dict[str, Any]]] = {
        "reliable-none-right": (reliable, {"said": "none", "shape": (3, 11)}),
        "reliable-all-right": (reliable, {"said": "all"}),
        "reliable-no-branch": (reliable, {"branches": 0}),
        "reliable-one-branch": (reliable, {"branches": 1}),
        "reliable-coefficient-0": (reliable, {"coefficient": 0.0}),
        "reliable-coefficient-negative": (reliable, {"coefficient": -0.6}),
        "reliable-one-class": (reliable, {"shape": (3, 1)}),
        "reliable-one-sample": (reliable, {"shape": (1, 2)}),
        "reliable-many-samples": (reliable, {"shape": (257, 3), "branches": 1}),
        "strong-to-weak-one-step": (strong, {"time_steps": 1}),
        "strong-to-weak-one-class": (strong, {"shape": (3, 1)}),
        "strong-to-weak-one-sample": (strong, {"shape": (1, 4)}),
        "strong-to-weak-no-branch": (strong, {"branches": 0}),
        "strong-to-weak-many-steps": (strong, {"branches": 1, "time_steps": 33}),
        "strong-to-weak-coefficient-0": (strong, {"coefficient": 0.0}),
        "right-to-wrong-none-right": (wrong, {"said": "none", "shape": (3, 11), "branches": 1}),
        "right-to-wrong-all-right": (wrong, {"said": "all"}),
        "right-to-wrong-one-step": (wrong, {"time_steps": 1}),
        "right-to-wrong-many-steps": (wrong, {"branches": 1, "time_steps": 33}),
    }
    return [
        LossCase(
            name=f"loss-{name}",
            seed=3300 + index,
            spec=spec,
            dtypes=(FULL[index % len(FULL)],),
            **{**_TAUGHT, "branches": 2, "coefficient": 0.7, **fields},
        )
        for index, (name, (spec, fields)) in enumerate(given.items())
    ]


def _far() -> list[LossCase]:
    named = {combine: LossSpec(combine=combine) for combine in get_args(Combine)} | _COMPOSITIONS
    # of steps that are all sure none is the surest; of the others two stand for all
    alike = {name for name, spec in named.items() if _decides(spec)} - {"reliable-attached", "right-to-wrong-attached"}
    named = {name: spec for name, spec in named.items() if name not in alike}
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
