"""Moves the coefficient of a shortcut model, step by step."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from sbp_core import validation
from sbp_tf.shortcut import Shortcut


class CoefficientScheduler(tf.Module):
    """Sets ``model.coefficient`` to ``schedule(k)`` for the k-th training step (Guo et al. 2024, Algorithm 1).

    k runs from 1 to I. The first value is set on construction; call :meth:`step` after every optimiser step, eagerly
    or inside ``tf.function``. ``tf.train.Checkpoint(scheduler=scheduler, ...)`` keeps the iteration, a variable.

    Args:
        model: the shortcut model.
        schedule: a schedule, or any function of the step, an int64 tensor.

    Raises:
        TypeError: not a shortcut model, or a schedule that cannot be called.
        ValueError: a schedule without ``total_steps``.

    Example:
        >>> import sbp_tf
        >>> from sbp_core import Evolutionary
        >>> net = sbp_tf.resnet18(widths=(4, 4, 4, 4))
        >>> model = sbp_tf.Shortcut(net, taps=["layer1"], num_classes=10)
        >>> scheduler = CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=2))
        >>> first = float(model.coefficient)
        >>> scheduler.step()
        >>> first, float(model.coefficient)
        (0.125, 0.0)
    """

    def __init__(self, model: Shortcut, schedule: Callable[[Any], Any]) -> None:
        super().__init__()
        if not isinstance(model, Shortcut):
            raise TypeError(f"model must be a Shortcut, got {type(model).__name__}")
        if not callable(schedule):
            raise TypeError(f"schedule must be a function of the step, got {schedule!r}")
        self.schedule = schedule
        self.coefficient = model.coefficient
        self.iteration = tf.Variable(1, dtype=tf.int64, trainable=False, name="iteration")
        self._set()

    def step(self) -> None:
        """Go on to the next training step."""
        self.iteration.assign_add(1)
        self._set()

    def state_dict(self) -> dict[str, int]:
        """Return what :meth:`load_state_dict` takes: the iteration."""
        return {"iteration": int(self.iteration)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to the iteration that :meth:`state_dict` gave, and set its coefficient.

        Raises:
            ValueError: no iteration of at least 1.
            TypeError: an iteration that is not an integer.
        """
        if set(state) != {"iteration"}:
            raise ValueError(f"state must hold 'iteration' alone, got {sorted(state)}")
        self.iteration.assign(validation.count("iteration", state["iteration"]))
        self._set()

    def _set(self) -> None:
        self.coefficient.assign(tf.cast(self.schedule(self.iteration.read_value()), self.coefficient.dtype))
