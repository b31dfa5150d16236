"""Faults of a loss for some coefficients and sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sbp_conformance.mutants.base import Change, Mutant
from sbp_conformance.mutants.contract import Arguments, before, loss
from sbp_conformance.mutants.kinds.family import LOSS, family
from sbp_conformance.precision import FULL


def _coefficients() -> dict[str, Change]:
    changes: dict[str, Callable[[float], float]] = {
        "coefficient within 0 and 1": lambda c: min(max(c, 0.0), 1.0),
        "coefficient at most 1": lambda c: min(c, 1.0),
        "coefficient at most 2": lambda c: min(c, 2.0),
        "coefficient at least 0": lambda c: max(c, 0.0),
        "coefficient's size": abs,
        "small coefficient taken for 0": lambda c: c if abs(c) > 2e-3 else 0.0,
        "coefficient in steps of 2^-8": lambda c: round(c * 256) / 256,
        "coefficient in float32": lambda c: float(np.float32(c)),
        "coefficient in float16": lambda c: float(np.float16(c)),
        "coefficient of two decimals": lambda c: round(c, 2),
    }

    def through(change: Callable[[float], float]) -> Change:
        return before(lambda a: {"coefficient": change(a["coefficient"])}, LOSS)

    return {name: through(change) for name, change in changes.items()}


def _steps(a: Arguments) -> bool:
    return bool(a["spec"].step_distillation)


def _teaches(a: Arguments) -> bool:
    return bool(a["spec"].needs_classes)


def _right(a: Arguments) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.stack([a["main"], *a["branches"]]).argmax(-1) == a["labels"]
    return found


def _nobody_right(a: Arguments) -> bool:
    return _teaches(a) and not _right(a).any()


def _everybody_right(a: Arguments) -> bool:
    return _teaches(a) and a["main"].shape[-1] > 1 and bool(_right(a).all())


def _losses() -> dict[str, Change]:
    def where(condition: Callable[[Arguments], bool]) -> Change:
        return loss(lambda r, a: r._replace(grad_main=r.grad_main * 1.001 + 1e-3) if condition(a) else r)

    def many(most: int) -> Change:
        return where(lambda a: bool(a["main"].shape[-1] > most))

    return {
        "one sample in the loss": where(lambda a: a["main"].shape[-2] == 1),
        "one class": where(lambda a: a["main"].shape[-1] == 1),
        "two classes": where(lambda a: a["main"].shape[-1] == 2),
        **{f"more than {most} classes": many(most) for most in (32, 256, 1000, 1024)},
        "more than 512 samples": where(lambda a: a["main"].shape[-2] > 512),
        "more than 100 steps in the loss": where(lambda a: a["main"].ndim == 3 and len(a["main"]) > 100),
        "more than 4 branches": where(lambda a: len(a["branches"]) > 4),
        "nobody right": where(_nobody_right),
        "everybody right": where(_everybody_right),
        "one step of several teachers": where(lambda a: _steps(a) and len(a["main"]) == 1),
        "more than 32 steps that teach": where(lambda a: _steps(a) and len(a["main"]) > 32),
        "more than 256 samples with a teacher": where(lambda a: _teaches(a) and a["main"].shape[-2] > 256),
        "a teacher of no branch": where(lambda a: _teaches(a) and not a["branches"]),
        "label smoothing ignored": before(lambda a: {"spec": a["spec"].replace(label_smoothing=0.0)}, LOSS),
    }


_CASES = ("loss-*-one-*", "loss-*-many-*", "loss-*smooth*", "loss-*-right", "loss-*-no-branch")

MUTANTS: tuple[Mutant, ...] = (
    *family("sizes", "loss", "loss", _losses(), cases=_CASES, dtypes=FULL),
    *family("coefficients", "loss", "loss", _coefficients(), cases=("loss-*-coefficient-*",)),
)
