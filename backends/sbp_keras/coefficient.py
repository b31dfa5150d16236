"""Counts the steps of ``fit`` for the schedule of a shortcut."""

# mypy: allow-subclassing-any
from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, cast

import keras

from sbp_core.specs.schedules import Constant, Following, Schedule
from sbp_keras.diagnosis import Diagnoser
from sbp_keras.shortcut import ShortcutModel, check_schedule


class FollowingCallback(keras.callbacks.Callback):
    """Has ``fit`` use the coefficient of a :class:`~sbp_core.Following`, which measures the main network's gradient.

    The k-th training step uses ``schedule(k)``, as with :class:`ShortcutCallback`, whose place it takes; a look is
    taken after the first step and after every ``schedule.every``. The training is not touched otherwise. The logs have
    the coefficient as ``coefficient``.

    Args:
        schedule: what follows; ``total_steps`` is filled in from ``fit``.
        batches: pairs of images and labels, always the same ones.

    Attributes:
        schedule: that of now, whose ``signal`` is the last one: pass it on to a ``fit`` that goes on.

    Raises:
        TypeError: not a Following; at the start of ``fit``: a model that is no ShortcutModel.
        ValueError: no batches; at the start of ``fit``: the number of steps is unknown, or the model has a schedule of
            its own.

    Example:
        >>> import numpy as np
        >>> from sbp_core import Following
        >>> callback = FollowingCallback(Following(initial=1.0), [(np.zeros((4, 8, 8, 1)), np.arange(4))] * 2)
    """

    def __init__(self, schedule: Following, batches: Iterable[tuple[Any, Any]]) -> None:
        super().__init__()
        if not isinstance(schedule, Following):
            raise TypeError(f"schedule must be a Following, got {schedule!r} of type {type(schedule).__name__}")
        self._batches = list(batches)
        if not self._batches:
            raise ValueError("batches must be given, a Following measures on them; got none")
        self.schedule = schedule
        self._step, self._diagnoser = 0, Diagnoser()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Fill in the steps."""
        if not isinstance(self.model, ShortcutModel):
            raise TypeError(f"FollowingCallback needs a ShortcutModel, got {type(self.model).__name__}")
        if self.model.schedule is not None:
            raise ValueError(f"the model must have no schedule beside FollowingCallback, got {self.model.schedule!r}")
        steps = (self.params or {}).get("steps")
        if steps is None:
            self.schedule = cast(Following, _without_length(self.schedule))
        else:
            self.schedule = self.schedule.resolve(total_steps=self.params["epochs"] * steps, steps_per_epoch=steps)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the epoch's first step."""
        steps = (self.params or {}).get("steps")
        self._step = self._step if steps is None else epoch * steps

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the coefficient of the step to come."""
        # self.model, which on JAX puts fit's state back into the variables
        self.model.coefficient.assign(float(self.schedule(self._step + 1)))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look, if it is time."""
        self._step += 1
        if logs is not None:
            logs["coefficient"] = float(self.schedule(self._step))
        if self.schedule.is_due(self._step):
            self.schedule = self.schedule.seeing(self._diagnoser(self.model.main, self._batches))


class ShortcutCallback(keras.callbacks.Callback):
    """Has the k-th training step of ``fit`` use the coefficient ``schedule(k)`` (Guo et al. 2024, Algorithm 1).

    It sets the model's ``schedule``, with what the schedule leaves open filled in from ``fit`` (a missing
    ``total_steps`` is ``epochs * steps per epoch``), and the model's ``step`` at the start of each epoch; the model
    does the rest inside its training step. ``k = 1`` is the first batch of epoch 0, whatever ``initial_epoch`` is, so
    that a resumed ``fit`` goes on where it stopped; every ``fit`` from epoch 0 starts the schedule again. Where the
    data has no known length, a ``fit`` from a later epoch goes on from the model's own step. The logs of each batch
    have its coefficient as ``coefficient``, computed here without waiting for the device; those of an epoch, and the
    history, the last one. The progress bar shows it; callbacks that are to see it, ``TensorBoard`` say, come after.

    A ``fit`` that goes on from a later epoch must go on with the coefficient too: one whose schedule has another number
    of steps, filled in from other ``epochs`` say, is refused.

    Args:
        schedule: the coefficient as a function of the step; None goes on with the schedule and the step that the
            model has, one that was loaded from a file say.

    Raises:
        TypeError: not a schedule; at the start of ``fit``: a model that is no ShortcutModel.
        ValueError: at the start of ``fit``: the number of steps is unknown (a generator without length) and the
            schedule needs it; there is no schedule to go on with; or a resumed ``fit`` would move the coefficient.

    Example:
        >>> from sbp_core import Evolutionary
        >>> callback = ShortcutCallback(Evolutionary(initial=0.25))
    """

    #: what it does after a batch may run in another thread, and in any order
    async_safe = True

    def __init__(self, schedule: Schedule | None = None) -> None:
        super().__init__()
        if schedule is not None:
            check_schedule(schedule)
        self.schedule = schedule
        self._steps_per_epoch: int | None = None
        self._started = False
        self._resolved: Schedule | None = None
        self._first, self._window = 0, 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Give the model its schedule."""
        model = self.model
        if not isinstance(model, ShortcutModel):
            raise TypeError(f"ShortcutCallback needs a ShortcutModel, got {type(model).__name__}")
        self._started = False
        if self.schedule is None:
            if model.schedule is None:
                raise ValueError("schedule must be given, since the model has none to go on with; got None")
            self._resolved = model.schedule
            return
        steps = (self.params or {}).get("steps")
        if steps is not None:
            resolved = self.schedule.resolve(total_steps=self.params["epochs"] * steps, steps_per_epoch=steps)
        else:
            resolved = _without_length(self.schedule)
        model.schedule = self._resolved = resolved
        self._steps_per_epoch = resolved.steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the epoch's first step."""
        # self.model, not a reference of our own: on JAX that is what puts fit's state back into the variables, and
        # makes fit read them again before the step
        model, resumed = self.model, epoch > 0 and not self._started
        self._started = True
        self._window = model.window
        taken = int(_number(model.step))
        if self.schedule is None:
            self._first = taken
            return
        if self._steps_per_epoch is not None:
            first = epoch * self._steps_per_epoch
        elif epoch == 0:
            first = 0
        else:
            first = taken
            if resumed and taken == 0 and not isinstance(self.schedule, Constant):
                raise ValueError(
                    f"initial_epoch is {epoch}, but the data has no known length and the model has taken no step, so "
                    "the steps already taken are unknown: pass steps_per_epoch to fit, or in the schedule"
                )
        if resumed and taken > 0:
            self._check_resumed(_number(model.coefficient), taken, first)
        if first != taken:
            model.step.assign(first)
        self._first = first

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the coefficient of the batch."""
        if isinstance(logs, dict):
            # the last execution of several steps may have fewer than it announces
            steps = (self.params or {}).get("steps")
            taken = batch + 1 if steps is None else min(batch + 1, steps)
            logs["coefficient"] = self._at(self._first + taken)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the coefficient of the last step."""
        if logs is not None:
            logs["coefficient"] = _number(self.model.coefficient)

    def _at(self, step: int) -> float:
        """Return the coefficient that the model uses in a step."""
        schedule = cast(Schedule, self._resolved)
        return float(schedule(-(-step // self._window) * self._window))

    def _check_resumed(self, last: float, taken: int, first: int) -> None:
        """Raise if the coefficient would jump between the last step that was taken and the first to come."""
        if _close(self._at(first), last):
            return
        if not _close(self._at(taken), last):
            raise ValueError(
                f"the model took {taken} steps, the last with coefficient {last:.6g}, and {self._resolved!r} would go "
                f"on from {self._at(first):.6g}: pass the total_steps of the whole training in the schedule in every "
                "fit, or ShortcutCallback() to go on with the schedule that the model has; or set model.schedule first "
                "and pass ShortcutCallback() if the coefficient is to move"
            )
        warnings.warn(
            f"the model took {taken} steps, and this epoch begins at step {first}: the coefficient moves from "
            f"{last:.6g} to {self._at(first):.6g}. ShortcutCallback() goes on from the model's own step",
            stacklevel=2,
        )


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


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
