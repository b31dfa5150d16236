"""Counts the steps of ``fit`` for the schedule of a shortcut."""

# mypy: allow-subclassing-any
from __future__ import annotations

from typing import Any

import keras

from sbp_core.specs.schedules import Constant, Schedule
from sbp_keras.shortcut import ShortcutModel, check_schedule


class ShortcutCallback(keras.callbacks.Callback):
    """Has the k-th training step of ``fit`` use the coefficient ``schedule(k)`` (Guo et al. 2024, Algorithm 1).

    It sets the model's ``schedule``, with what the schedule leaves open filled in from ``fit`` (a missing
    ``total_steps`` is ``epochs * steps per epoch``), and the model's ``step`` at the start of each epoch; the model
    does the rest inside its training step. ``k = 1`` is the first batch of epoch 0, whatever ``initial_epoch`` is, so
    that a resumed ``fit`` goes on where it stopped; every ``fit`` from epoch 0 starts the schedule again. Where the
    data has no known length, a ``fit`` from a later epoch goes on from the model's own step. The history has the last
    coefficient of each epoch as ``coefficient``; callbacks that are to see it there, ``TensorBoard`` say, come after.

    Args:
        schedule: the coefficient as a function of the step; None goes on with the schedule and the step that the
            model has, one that was loaded from a file say.

    Raises:
        TypeError: not a schedule; at the start of ``fit``: a model that is no ShortcutModel.
        ValueError: at the start of ``fit``: the number of steps is unknown (a generator without length) and the
            schedule needs it; or there is no schedule to go on with.

    Example:
        >>> from sbp_core import Evolutionary
        >>> callback = ShortcutCallback(Evolutionary(initial=0.25))
    """

    def __init__(self, schedule: Schedule | None = None) -> None:
        super().__init__()
        if schedule is not None:
            check_schedule(schedule)
        self.schedule = schedule
        self._steps_per_epoch: int | None = None
        self._started = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Give the model its schedule."""
        model = self.model
        if not isinstance(model, ShortcutModel):
            raise TypeError(f"ShortcutCallback needs a ShortcutModel, got {type(model).__name__}")
        self._started = False
        if self.schedule is None:
            if model.schedule is None:
                raise ValueError("schedule must be given, since the model has none to go on with; got None")
            return
        steps = self.params.get("steps")
        if steps is not None:
            resolved = self.schedule.resolve(total_steps=self.params["epochs"] * steps, steps_per_epoch=steps)
        else:
            resolved = _without_length(self.schedule)
        model.schedule = resolved
        self._steps_per_epoch = resolved.steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the epoch's first step."""
        # self.model, not a reference of our own: on JAX that is what puts fit's state back into the variables, and
        # makes fit read them again before the step
        model, started = self.model, self._started
        self._started = True
        if self.schedule is None:
            return
        if self._steps_per_epoch is not None:
            model.step.assign(epoch * self._steps_per_epoch)
        elif epoch == 0:
            model.step.assign(0)
        elif not started and _number(model.step) == 0 and not isinstance(self.schedule, Constant):
            raise ValueError(
                f"initial_epoch is {epoch}, but the data has no known length and the model has taken no step, so the "
                "steps already taken are unknown: pass steps_per_epoch to fit, or in the schedule"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the coefficient of the last step."""
        if logs is not None:
            logs["coefficient"] = _number(self.model.coefficient)


def _number(variable: Any) -> float:
    # a mirrored variable of TensorFlow converts to no Python number by itself
    return float(keras.ops.convert_to_numpy(variable))


def _without_length(schedule: Schedule) -> Schedule:
    open_fields = ["total_steps"] if schedule.total_steps is None else []
    if schedule.per == "epoch" and schedule.steps_per_epoch is None:
        open_fields.append("steps_per_epoch")
    if open_fields:
        raise ValueError(
            f"the number of steps per epoch is unknown (data without a length): pass steps_per_epoch to fit, or "
            f"{' and '.join(open_fields)} to the schedule {schedule!r}"
        )
    return schedule
