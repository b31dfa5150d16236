"""Moves the coefficient of a shortcut while ``fit`` runs."""

# mypy: allow-subclassing-any
from __future__ import annotations

from typing import Any

import keras

from sbp_core.specs.schedules import Constant, Schedule
from sbp_keras.shortcut import ShortcutModel


class ShortcutCallback(keras.callbacks.Callback):
    """Sets ``model.coefficient`` to ``schedule(k)`` before the k-th training step (Guo et al. 2024, Algorithm 1).

    ``k = 1`` is the first batch of epoch 0, whatever ``initial_epoch`` is, so that a resumed ``fit`` goes on where it
    stopped; every ``fit`` from epoch 0 starts the schedule again. A schedule without ``total_steps`` takes
    ``epochs * steps per epoch`` from ``fit``. The history has the last coefficient of each epoch as ``coefficient``.

    Args:
        schedule: the coefficient as a function of the step.

    Raises:
        TypeError: not a schedule; at the start of ``fit``: a model that is no ShortcutModel.
        ValueError: at the start of ``fit``: the number of steps is unknown (a generator without length) and the
            schedule needs it, or ``steps_per_execution`` is more than 1, which would skip steps.

    Example:
        >>> from sbp_core import Evolutionary
        >>> callback = ShortcutCallback(Evolutionary(initial=0.25))
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {schedule!r} of type {type(schedule).__name__}")
        self.schedule = schedule
        self._resolved = schedule
        self._step = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count the steps of the whole training."""
        model = self.model
        if not isinstance(model, ShortcutModel):
            raise TypeError(f"ShortcutCallback needs a ShortcutModel, got {type(model).__name__}")
        if model.steps_per_execution != 1:
            raise ValueError(
                "steps_per_execution must be 1 with ShortcutCallback, which sets the coefficient before each step; "
                f"got {model.steps_per_execution}"
            )
        steps = self.params.get("steps")
        if steps is not None:
            self._resolved = self.schedule.resolve(total_steps=self.params["epochs"] * steps, steps_per_epoch=steps)
        else:
            self._resolved = self._without_length()
        self._step = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the epoch's first step."""
        if self._resolved.steps_per_epoch is not None:
            self._step = epoch * self._resolved.steps_per_epoch
        elif self._step == 0 and epoch > 0 and not isinstance(self._resolved, Constant):
            raise ValueError(
                f"initial_epoch is {epoch}, but the data has no known length, so the steps already taken are unknown: "
                "pass steps_per_epoch to fit, or in the schedule"
            )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the coefficient of the step to come."""
        # self.model, not a reference of our own: on JAX that is what puts fit's state back into the variables, and
        # makes fit read them again before the step
        self.model.coefficient.assign(self._resolved(self._step + 1))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the step: fit may announce a batch and then find that the data has run out."""
        self._step += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the coefficient of the last step."""
        if logs is not None:
            logs["coefficient"] = float(self._resolved(self._step))

    def _without_length(self) -> Schedule:
        open_fields = ["total_steps"] if self.schedule.total_steps is None else []
        if self.schedule.per == "epoch" and self.schedule.steps_per_epoch is None:
            open_fields.append("steps_per_epoch")
        if open_fields:
            raise ValueError(
                f"the number of steps per epoch is unknown (data without a length): pass steps_per_epoch to fit, or "
                f"{' and '.join(open_fields)} to the schedule {self.schedule!r}"
            )
        return self.schedule
