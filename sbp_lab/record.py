"""What is kept of a run: its recipe, its curve, and what it ran on, as ``results.json`` in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sbp_lab.environment import machine, versions
from sbp_lab.files import finite, read_json, sound, write_json
from sbp_lab.recipe import Recipe

#: Of a run's results.json. What sbp 0.4 and before wrote, a whole comparison in one file, is told from it by its own.
SCHEMA = "sbp.run/1"
RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a run. Means are over its steps; what was not measured is None, what is no number is NaN.

    Attributes:
        number: from 1.
        loss: mean training loss.
        accuracy: of the main output alone on the test samples after the epoch, in 0 .. 1.
        train_accuracy: mean of the training batches', of the output that is trained, branches and all.
        gradient: mean L2 norm of the gradient of all weights, before clipping.
        first_gradient: mean L2 norm of the first layer's gradient.
        last_gradient: the same of the last layer's weights.
        coefficient: the branches' at the epoch's last step; None where there are none.
        learning_rate: at the epoch's last step.
        firing_rate: mean spikes a neuron and step on test samples.
        seconds: of the epoch, its test included.
    """

    number: int
    loss: float
    accuracy: float
    train_accuracy: float | None = None
    gradient: float | None = None
    first_gradient: float | None = None
    last_gradient: float | None = None
    coefficient: float | None = None
    learning_rate: float | None = None
    firing_rate: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, finished or not.

    Attributes:
        recipe: what was asked for.
        epochs: the curve so far.
        initial_loss: the loss of the first batch, before any step.
        step_ms: median time of a training step in milliseconds, the first ones left out.
        seconds: time of the whole run, building and testing included, over all its sessions.
        data: the data's checksum and the number of samples of its parts.
        versions: package to version.
        machine: where it ran.
        created: when it began, ISO 8601 in UTC.

    Example:
        >>> run = Run(recipe=Recipe(epochs=2), epochs=(Epoch(number=1, loss=1.0, accuracy=0.7),))
        >>> run.complete, run.accuracy, run.best.number
        (False, 0.7, 1)
    """

    recipe: Recipe
    epochs: tuple[Epoch, ...] = ()
    initial_loss: float = math.nan
    step_ms: float = math.nan
    seconds: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def complete(self) -> bool:
        """Whether every epoch of the recipe is there."""
        return len(self.epochs) >= self.recipe.epochs

    @property
    def accuracy(self) -> float:
        """Test accuracy of the main output after the last epoch; NaN before the first."""
        return self.epochs[-1].accuracy if self.epochs else math.nan

    @property
    def best(self) -> Epoch:
        """The epoch of the highest test accuracy, the first of equals.

        Raises:
            ValueError: there is no epoch.
        """
        if not self.epochs:
            raise ValueError("epochs must hold at least one for there to be a best, got none")
        return max(self.epochs, key=lambda epoch: epoch.accuracy)

    @property
    def gradient_ratio(self) -> float:
        """Size of the first layer's gradient relative to the last's, in the first epoch; NaN where it is not known."""
        first = self.epochs[0] if self.epochs else None
        if first is None or first.first_gradient is None or not first.last_gradient:
            return math.nan
        return first.first_gradient / first.last_gradient

    def with_epoch(self, epoch: Epoch) -> Self:
        """Return a copy that holds ``epoch`` too."""
        return replace(self, epochs=(*self.epochs, epoch))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``; what is not a finite number becomes None."""
        best = self.best if self.epochs else None
        content: dict[str, Any] = finite(
            {
                "schema": SCHEMA,
                "complete": self.complete,
                "created": self.created,
                "recipe": self.recipe.to_dict(),
                "accuracy": self.accuracy,
                "best": best and {"epoch": best.number, "accuracy": best.accuracy},
                "gradient_ratio": self.gradient_ratio,
                "initial_loss": self.initial_loss,
                "step_ms": self.step_ms,
                "seconds": self.seconds,
                "data": dict(self.data),
                "versions": dict(self.versions),
                "machine": dict(self.machine),
                "epochs": [asdict(epoch) for epoch in self.epochs],
            }
        )
        return content

    def write(self, folder: Path) -> Path:
        """Write ``results.json`` into ``folder``, whole or not at all, and return its path.

        Raises:
            OSError: the folder cannot be written.
        """
        return write_json(folder / RESULTS, self.to_dict())

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Return the run whose ``results.json`` lies in ``folder``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is damaged, or of another kind or version; the message says which.
        """
        path = folder / RESULTS
        content = read_json(path, SCHEMA, "a run")
        with sound(path):
            return cls._of(content)

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Run:
        return cls(
            recipe=Recipe.from_dict(content["recipe"]),
            epochs=tuple(_epoch(each) for each in content["epochs"]),
            initial_loss=_number(content["initial_loss"]),
            step_ms=_number(content["step_ms"]),
            seconds=content["seconds"],
            data=content["data"],
            versions=content["versions"],
            machine=content["machine"],
            created=content["created"],
        )


def _epoch(content: Mapping[str, Any]) -> Epoch:
    given = dict(content)
    names = {each.name for each in fields(Epoch)}
    if set(given) != names:
        raise ValueError(f"an epoch must have {', '.join(sorted(names))}; got {', '.join(sorted(given))}")
    return Epoch(**given | {"loss": _number(given["loss"]), "accuracy": _number(given["accuracy"])})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
