"""Where a training is, as JSON values: with a trainer's state all that it goes on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from sbp_lab.record import Epoch
from sbp_lab.trainers import StepResult


@dataclass
class Sums:
    """What the steps of an epoch add up to, in their order: bit for bit the same however often one resumes."""

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    #: steps that float16 did not skip
    measured: int = 0
    gradient: float = 0.0
    first_gradient: float = 0.0
    last_gradient: float = 0.0
    seconds: float = 0.0

    def add(self, result: StepResult) -> None:
        """Add a step."""
        self.steps += 1
        self.loss += result.loss
        self.accuracy += result.accuracy
        if not result.skipped:
            self.measured += 1
            self.gradient += result.gradient
            self.first_gradient += result.first_gradient
            self.last_gradient += result.last_gradient

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure; None where no step measured it."""
        count = self.steps if name in ("loss", "accuracy") else self.measured
        value = float(getattr(self, name)) / count if count else math.nan
        return value if math.isfinite(value) else None


@dataclass
class Progress:
    """Where the loop is.

    Attributes:
        epoch: the number of the epoch that comes, or is being trained, from 1.
        step: steps that were made, of the whole training.
        sums: of the epoch's steps that were made; their number is the loader's place.
        epochs: records of those that are done.
        initial_loss: of the first batch.
        step_ms: median of a step.
        seconds: of all sessions.
        created: when the run began.
    """

    epoch: int = 1
    step: int = 0
    sums: Sums = field(default_factory=Sums)
    epochs: list[Epoch] = field(default_factory=list)
    initial_loss: float | None = None
    step_ms: float | None = None
    seconds: float = 0.0
    created: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_dict` described.

        Raises:
            ValueError: a field is missing or unknown.

        Example:
            >>> Progress.from_dict(Progress(step=3).to_dict()).step
            3
        """
        names = {each.name for each in fields(cls)}
        if set(values) != names:
            raise ValueError(f"progress must have {', '.join(sorted(names))}; got {', '.join(sorted(values))}")
        given = dict(values) | {
            "sums": Sums(**values["sums"]),
            "epochs": [Epoch(**each) for each in values["epochs"]],
        }
        return cls(**given)
