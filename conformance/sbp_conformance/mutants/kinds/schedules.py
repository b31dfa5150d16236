"""Faults of a schedule for some steps, lengths and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sbp_conformance.mutants.base import Change, Mutant, Operations
from sbp_conformance.mutants.contract import after, before
from sbp_conformance.mutants.kinds.family import SCHEDULE, family


def _read(step: Callable[[Any, int], float]) -> Change:
    """Return the change of the step that a schedule is read at."""
    return before(lambda a: {"step": step(a["schedule"], a["step"])}, SCHEDULE)


def _factor(schedule: Any) -> float:
    return getattr(schedule, "factor", 0.0)


def _schedules() -> dict[str, Change]:
    def through(dtype: type[np.floating[Any]]) -> Change:
        with np.errstate(over="ignore"):
            return _read(lambda s, k: int(dtype(k)) if abs(k) < 6e4 or dtype is not np.float16 else k)

    def epoch_end(s: Any, k: int) -> float:
        if s.per != "epoch":
            return k
        return float(np.ceil(np.float32(k) * np.float32(1.0 / s.steps_per_epoch))) * int(s.steps_per_epoch)

    def unclamped(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def schedule(schedule: Any, step: int, **others: Any) -> Any:
            if step < 0:
                first, second = (right(schedule, at, **others) for at in (0, schedule.total_steps))
                return first + (second - first) * step / schedule.total_steps
            return right(schedule, step, **others)

        return schedule

    def floored(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def schedule(schedule: Any, step: int, **others: Any) -> Any:
            if schedule.kind != "step" or schedule.per == "epoch":
                return right(schedule, step, **others)
            at = min(max(step, 0), schedule.total_steps)
            return schedule.initial * schedule.factor ** sum(at > m * schedule.total_steps for m in schedule.milestones)

        return schedule

    def kept(alter: Callable[[float], float]) -> Change:
        return after(lambda result, a: alter(result), SCHEDULE)

    return {
        "steps in float16": through(np.float16),
        "steps in float32": through(np.float32),
        "epochs by a product in float32": _read(epoch_end),
        "steps before the first": unclamped,
        "negative steps taken for their size": _read(lambda s, k: abs(k)),
        "milestones as they round": floored,
        "one step in all": after(lambda r, a: r if a["schedule"].total_steps > 1 else r + 0.01, SCHEDULE),
        "schedule within 0 and 1": kept(lambda c: min(max(c, 0.0), 1.0)),
        "schedule at most 1.5": kept(lambda c: min(c, 1.5)),
        "schedule at least 0": kept(lambda c: max(c, 0.0)),
        "schedule of 0 taken for unset": kept(lambda c: c or 1.0),
        "factor of 1 taken for unset": before(
            lambda a: {"schedule": a["schedule"].replace(factor=0.1)} if _factor(a["schedule"]) == 1.0 else {},
            SCHEDULE,
        ),
        "small schedule taken for 0": kept(lambda c: c if abs(c) > 1e-4 else 0.0),
        "epochs no longer than the training": before(
            lambda a: {
                "schedule": a["schedule"].replace(
                    steps_per_epoch=min(a["schedule"].steps_per_epoch or 1, a["schedule"].total_steps // 3 or 1)
                )
            },
            SCHEDULE,
        ),
    }


MUTANTS: tuple[Mutant, ...] = (*family("schedules", "schedule", "schedule", _schedules(), dtypes=("float32",)),)
