"""Schedule level: the coefficient at the first, a middle and the last step, and past the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sbp_conformance.compare import close_number
from sbp_conformance.levels.base import REFERENCE, Case, Tolerance
from sbp_conformance.results import Finding
from sbp_core import Constant, Cosine, Evolutionary, ExponentialSchedule, Schedule, Step
from sbp_core.backend import Backend, Mode

# a step is an integer and its coefficient float32: three roundings of the progress, through an exponential of ln(100)
_TOLERANCE = Tolerance(value=1e-6, gradient=0.0)

_OPEN: dict[str, Schedule] = {
    "evolutionary": Evolutionary(initial=0.25),
    "constant": Constant(value=0.7, total_steps=None),
    "cosine": Cosine(initial=0.9, final=0.1),
    "exponential": ExponentialSchedule(initial=0.5, ratio=0.01),
    "step": Step(initial=0.4, factor=0.5, milestones=(0.3, 0.7)),
}


@dataclass(frozen=True, kw_only=True)
class ScheduleCase(Case):
    """A schedule read at some steps.

    Attributes:
        schedule: with its total filled in.
        steps: training steps to read it at.
        compiled_steps: those to read it at when compiled.
    """

    level: ClassVar[str] = "schedule"
    needs: ClassVar[tuple[str, ...]] = ("schedule",)
    schedule: Schedule
    steps: tuple[int, ...]
    compiled_steps: tuple[int, ...]

    def run(self, backend: Backend, *, dtype: str, mode: Mode) -> list[Finding]:
        """Compare the coefficient at each step, relative to the one it starts from."""
        steps = self.compiled_steps if mode == "compiled" else self.steps
        want = {step: REFERENCE.schedule(self.schedule, step, mode="eager") for step in steps}
        scale = abs(REFERENCE.schedule(self.schedule, 0, mode="eager"))
        return [
            close_number(
                f"coefficient at step {step}",
                "value",
                backend.schedule(self.schedule, step, mode=mode),
                expected,
                dtype,
                self.tolerances[dtype].value,
                scale=scale,
            )
            for step, expected in want.items()
        ]


def cases() -> tuple[Case, ...]:
    """Return every schedule per iteration and per epoch, the last epoch whole and cut short."""
    lengths: dict[str, dict[str, Any]] = {
        "iteration": {"total_steps": 10},
        "long": {"total_steps": 1000},
        "epoch": {"total_steps": 12, "steps_per_epoch": 4, "per": "epoch"},
        "cut-epoch": {"total_steps": 10, "steps_per_epoch": 4, "per": "epoch"},
    }
    found = []
    for kind, schedule in _OPEN.items():
        for length, fields in lengths.items():
            total = fields["total_steps"]
            found.append(
                ScheduleCase(
                    name=f"schedule-{kind}-{length}",
                    seed=0,
                    schedule=schedule.replace(**fields),
                    # 3 of 10 and 7 of 10, 300 and 700 of 1000 lie exactly on milestones
                    steps=tuple(sorted({0, 1, 3, total // 2, 7, total - 1, total, total + 1, 10 * total})),
                    # a compiler may multiply by 1 / total, which is off by a rounding
                    compiled_steps=(round(0.7 * total), total, 10 * total),
                    dtypes=("float32",),
                    compiled=("float32",) if length == "cut-epoch" or (kind, length) == ("step", "long") else (),
                    tolerances={"float32": _TOLERANCE},
                )
            )
    return tuple(found)
