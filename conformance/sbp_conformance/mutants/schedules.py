"""Faults of the schedule read at an array, as a compiled training step reads it; at a Python number it stays right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sbp_conformance.mutants.base import Change, Operations, mutants
from sbp_core.specs.schedules import Schedule

Right = Callable[[Schedule, Any], Any]


def read(wrong: Callable[[Right, Schedule, Any, Operations], Any]) -> Change:
    """Return the change of what an array reads: ``wrong(right, schedule, step, operations)``."""

    def change(right: Callable[..., Any], operations: Operations) -> Callable[..., Any]:
        def __call__(self: Schedule, step: Any) -> Any:  # noqa: N807
            if isinstance(step, int | float):
                return right(self, step)
            return wrong(right, self, step, operations)

        return __call__

    return change


def _floor(right: Right, schedule: Schedule, step: Any, operations: Operations) -> Any:
    back = (schedule.steps_per_epoch or 1) - 1 if schedule.per == "epoch" else 0
    return right(schedule, step - back)


def _past_the_end(right: Right, schedule: Schedule, step: Any, operations: Operations) -> Any:
    total = schedule.total_steps or 1
    return right(schedule, step) if int(step) <= total else right(schedule, step) * float("nan")


def _from_one(right: Right, schedule: Schedule, step: Any, operations: Operations) -> Any:
    return right(schedule.replace(total_steps=(schedule.total_steps or 1) + 1), step)


MUTANTS = mutants(
    "schedule",
    "schedule in arrays",
    {
        "coefficient an iteration late": read(lambda right, s, step, o: right(s, step - 1)),
        "coefficient an iteration early": read(lambda right, s, step, o: right(s, step + 1)),
        "coefficient stuck at the first": read(lambda right, s, step, o: right(s, step * 0)),
        "epochs ignored": read(lambda right, s, step, o: right(s.replace(per="iteration"), step)),
        "epoch takes its first step's coefficient": read(_floor),
        "an iteration too many in the total": read(_from_one),
        "coefficient in half precision": read(
            lambda right, s, step, o: o.cast(o.cast(right(s, step), "float16"), "float32")
        ),
        "coefficient not a number past the end": read(_past_the_end),
    },
    dtypes=("float32",),
)
