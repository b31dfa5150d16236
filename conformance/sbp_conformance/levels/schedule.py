"""Schedule level: the coefficient at the first, a middle and the last step, and past the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sbp_conformance.compare import close_number
from sbp_conformance.levels.base import REFERENCE, Case, Tolerance
from sbp_conformance.results import Finding
from sbp_core import Constant, Cosine, Evolutionary, ExponentialSchedule, Following, Schedule, Step
from sbp_core.backend import Backend, Mode


def tolerance() -> dict[str, Tolerance]:
    """Return how far a coefficient may be off."""
    # a step is an integer and its coefficient float32: three roundings of the progress, through exp of ln(100)
    return {"float32": Tolerance(value=1e-6, gradient=0.0)}


_OPEN: dict[str, Schedule] = {
    "evolutionary": Evolutionary(initial=0.25),
    "constant": Constant(value=0.7, total_steps=None),
    "cosine": Cosine(initial=0.9, final=0.1),
    "exponential": ExponentialSchedule(initial=0.5, ratio=0.01),
    "step": Step(initial=0.4, factor=0.5, milestones=(0.3, 0.7)),
    "following": Following(initial=0.8, target=0.3, signal=0.07),
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


# beyond these, float16 and float32 have gaps between whole numbers
_HALF_GAP, _FLOAT_GAP = 2**11, 2**24

# fields, the steps to read, and those to read when compiled
_MORE: dict[str, tuple[Schedule, tuple[int, ...], tuple[int, ...]]] = {
    "epochs-of-7": (
        Evolutionary(initial=0.3, total_steps=280, per="epoch", steps_per_epoch=7),
        (1, 6, 7, 8, 14, 21, 22, 49, 98, 140, 175, 273, 274, 280),
        (21,),
    ),
    "epochs-of-468": (
        Step(initial=0.9, factor=0.3, milestones=(0.1, 0.55), total_steps=140400, per="epoch", steps_per_epoch=468),
        (467, 468, 469, 14040, 14041, 23400, 77220, 77221, 102960, 140400),
        (),
    ),
    "cosine-epochs-of-1": (Cosine(initial=0.9, total_steps=9, per="epoch", steps_per_epoch=1), (0, 1, 2, 8, 9), ()),
    "one-long-epoch": (Evolutionary(initial=0.7, total_steps=9, per="epoch", steps_per_epoch=30), (0, 1, 9, 10), ()),
    "milestones-that-round": (
        Step(initial=0.7, factor=0.3, milestones=(0.07, 0.29, 0.57, 0.58), total_steps=100),
        (6, 7, 8, 28, 29, 30, 56, 57, 58, 59),
        (57,),
    ),
    "milestones-between-steps": (
        Step(initial=0.7, factor=-0.3, milestones=(1 / 3, 2 / 3), total_steps=10),
        (3, 4, 6, 7),
        (),
    ),
    "no-milestones": (Step(initial=0.6, milestones=(), total_steps=10), (0, 5, 10), ()),
    "beyond-half": (
        Step(initial=0.4, factor=0.5, milestones=(_HALF_GAP / 8192, (_HALF_GAP + 2) / 8192), total_steps=8192),
        (_HALF_GAP, _HALF_GAP + 1, _HALF_GAP + 2, _HALF_GAP + 3),
        (),
    ),
    "beyond-half-epochs": (
        Evolutionary(initial=0.4, total_steps=6 * 2051, per="epoch", steps_per_epoch=2051),
        (2048, 2050, 2051, 2052, 4102, 4103, 10255, 10256),
        (),
    ),
    "beyond-float": (
        Step(initial=0.4, factor=0.5, milestones=(_FLOAT_GAP / 2**26, (_FLOAT_GAP + 2) / 2**26), total_steps=2**26),
        (_FLOAT_GAP, _FLOAT_GAP + 1, _FLOAT_GAP + 2, _FLOAT_GAP + 3),
        (_FLOAT_GAP + 1,),
    ),
    "beyond-float-epochs": (
        Evolutionary(initial=0.4, total_steps=4 * (_FLOAT_GAP + 1), per="epoch", steps_per_epoch=_FLOAT_GAP + 1),
        (_FLOAT_GAP, _FLOAT_GAP + 1, _FLOAT_GAP + 2, 2 * _FLOAT_GAP + 2, 2 * _FLOAT_GAP + 3),
        (),
    ),
    "evolutionary-one-step": (Evolutionary(initial=0.3, total_steps=1), (0, 1, 2), ()),
    "following-without-end": (
        Following(initial=0.8, target=0.3, fade=False, signal=0.07, total_steps=9),
        (0, 4, 9),
        (),
    ),
    "following-nothing": (Following(initial=0.8, total_steps=9), (0, 4, 9), ()),
    "following-enough": (Following(initial=0.8, signal=0.4, total_steps=9), (0, 4, 9), ()),
    "cosine-one-step": (Cosine(initial=0.3, final=0.2, total_steps=1), (0, 1, 2), ()),
    "exponential-one-step": (ExponentialSchedule(initial=0.3, total_steps=1), (0, 1, 2), ()),
    "step-one-step": (Step(initial=0.3, total_steps=1), (0, 1, 2), ()),
    "evolutionary-below-0": (Evolutionary(initial=-1.3, total_steps=11), (0, 1, 4, 11), ()),
    "evolutionary-small": (Evolutionary(initial=3e-5, total_steps=11), (0, 1, 4, 11), ()),
    "cosine-rising": (Cosine(initial=0.1, final=2.3, total_steps=11), (0, 1, 4, 10, 11, 12), ()),
    "cosine-below-0": (Cosine(initial=-0.1, final=-0.7, total_steps=11), (0, 1, 4, 11), ()),
    "exponential-rising": (ExponentialSchedule(initial=0.03, ratio=1.7, total_steps=11), (0, 1, 4, 10, 11, 12), ()),
    "exponential-below-0": (ExponentialSchedule(initial=-3.0, ratio=1e-4, total_steps=11), (0, 1, 4, 11), ()),
    "constant-below-0": (Constant(value=-1.7, total_steps=5), (0, 3, 9), ()),
    "constant-small": (Constant(value=7e-6, total_steps=5), (0, 3, 9), ()),
    "step-that-stays": (Step(initial=0.6, factor=1.0, milestones=(0.5,), total_steps=10), (0, 5, 6, 10), ()),
    "cosine-from-0": (Cosine(initial=0.0, final=0.8, total_steps=11), (0, 1, 4, 11), ()),
    "constant-0": (Constant(value=0.0, total_steps=5), (0, 3, 9), ()),
    "step-rising": (Step(initial=0.3, factor=1.9, milestones=(0.2, 0.4, 0.9), total_steps=10), (2, 3, 4, 5, 9, 10), ()),
}
_BEFORE = (-1, -3, -4, -1000)


def cases() -> tuple[Case, ...]:
    """Return every schedule per iteration and per epoch, the last epoch whole and cut short, and far numbers."""
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
                    steps=tuple(sorted({*_BEFORE, 0, 1, 3, total // 2, 7, total - 1, total, total + 1, 10 * total})),
                    # a compiler may multiply by 1 / total, which is off by a rounding
                    compiled_steps=(round(0.7 * total), total, 10 * total),
                    dtypes=("float32",),
                    compiled=("float32",) if length == "cut-epoch" or (kind, length) == ("step", "long") else (),
                    tolerances=tolerance(),
                )
            )
    found += [
        ScheduleCase(
            name=f"schedule-{name}",
            seed=0,
            schedule=schedule,
            steps=(*_BEFORE, *steps),
            compiled_steps=compiled,
            dtypes=("float32",),
            compiled=("float32",) if compiled else (),
            tolerances=tolerance(),
        )
        for name, (schedule, steps, compiled) in _MORE.items()
    ]
    return tuple(found)
