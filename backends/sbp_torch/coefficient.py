"""Moves the weight of the branches, once per training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_core.specs.schedules import Following
from sbp_torch.diagnosis import diagnose
from sbp_torch.shortcut import Shortcut


class CoefficientScheduler:
    """Sets a model's shortcut coefficient from a schedule, as PyTorch's learning-rate schedulers do.

    The k-th training step uses ``schedule(k)``, k = 1..I (Guo et al. 2024, Algorithm 1): construction sets
    ``schedule(1)``, each :meth:`step` moves on to the next. Past its end a schedule keeps its last value.

    Args:
        model: a :class:`Shortcut`, or a module that holds one (compiled, distributed, part of a larger model).
        schedule: a resolved :class:`~sbp_core.Schedule`, or any function of the step's number.
        batches: for a :class:`~sbp_core.Following`: pairs of images and labels, always the same ones, on which the
            main network's gradient is measured; the training is not touched by that.

    Raises:
        ValueError: the schedule lacks its ``total_steps`` (or ``steps_per_epoch``), or gives a value that is not
            finite; no Shortcut in the model; a Following without batches.
        TypeError: not a module, or not a function.

    Example:
        >>> from sbp_core import Evolutionary
        >>> from sbp_torch.networks import resnet18
        >>> model = Shortcut(resnet18(widths=(4, 4, 4, 4)), taps=["layer1"], num_classes=10)
        >>> scheduler = CoefficientScheduler(model, Evolutionary(initial=0.25, total_steps=10))
        >>> scheduler.step()
        >>> round(model.coefficient.item(), 6)
        0.2
    """

    def __init__(
        self, model: nn.Module, schedule: Callable[[int], float], *, batches: Iterable[tuple[Any, Any]] = ()
    ) -> None:
        self._shortcuts = shortcuts_of(model)
        if not callable(schedule):
            raise TypeError(f"schedule must be a Schedule or a function of the step, got {schedule!r}")
        self.schedule = schedule
        self._batches = followed(schedule, batches)
        self._set(1)

    @property
    def last_value(self) -> float:
        """The coefficient that the training step to come uses."""
        return self._value

    def step(self) -> None:
        """Move on to the next training step's coefficient. Call it after each optimizer step."""
        self.schedule = after(self.schedule, self._step, self._shortcuts[0], self._batches)
        self._set(self._step + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`load_state_dict` needs to go on from here, as plain values."""
        return {"step": self._step, "schedule": described(self.schedule)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken, and set the coefficient accordingly.

        Raises:
            ValueError: the state is of something else, or was saved under another schedule, by which the coefficient
                would jump; ``{"step": n}`` alone moves to a step of whatever schedule this is.
            TypeError: its step is not an integer.
        """
        if "step" not in state or not set(state) <= {"step", "schedule"}:
            raise ValueError(f"state must be that of a CoefficientScheduler, {{'step': ...}}; got {dict(state)!r}")
        changed = changes(state.get("schedule"), self.schedule)
        if changed:
            raise ValueError(
                f"state was saved under another schedule, {changed}: the coefficient would jump. Make the scheduler "
                f"with the schedule of then, or go on under this one with load_state_dict({{'step': {state['step']}}})"
            )
        if isinstance(self.schedule, Following) and state.get("schedule") is not None:
            self.schedule = self.schedule.replace(signal=state["schedule"]["signal"])
        self._set(validation.count("step", state["step"]))

    def _set(self, step: int) -> None:
        value = validation.finite("schedule(step)", float(self.schedule(step)))
        for shortcut in self._shortcuts:
            shortcut.set_coefficient(value)
        self._step, self._value = step, value


def followed(schedule: object, batches: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return what a Following measures on.

    Raises:
        ValueError: it has nothing.
    """
    found = list(batches)
    if isinstance(schedule, Following) and not found:
        raise ValueError("batches must be given with a Following schedule, which measures on them")
    return found


def after(schedule: Any, step: int, model: Shortcut, batches: list[tuple[Any, Any]]) -> Any:
    """Return the schedule after a training step: a Following looks at the main network, if it is time."""
    if not isinstance(schedule, Following) or not schedule.is_due(step):
        return schedule
    return schedule.seeing(diagnose(model.main, batches))


def described(schedule: object) -> dict[str, Any] | None:
    """Return a schedule as plain values; None of a function, which has no description."""
    return schedule.to_dict() if isinstance(schedule, Spec) else None


def changes(then: Mapping[str, Any] | None, now: object) -> str:
    """Return in words where a schedule that was described once differs from that of now; empty if it does not."""
    if then is None or not isinstance(now, Spec):
        return ""
    # a field that is newer than the description was at its default then
    before = {field.name: field.default for field in fields(now)} | dict(then)
    current = now.to_dict()
    # what a Following measured moves by itself
    names = [
        name
        for name in {**before, **current}
        if name != "signal" and _plain(before.get(name)) != _plain(current.get(name))
    ]
    return ", ".join(f"{name}={before.get(name)!r} and not {current.get(name)!r}" for name in names)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def shortcuts_of(model: nn.Module) -> list[Shortcut]:
    """Return every :class:`Shortcut` that ``model`` is or holds.

    Raises:
        TypeError: not a module.
        ValueError: there is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    shortcuts = [module for module in model.modules() if isinstance(module, Shortcut)]
    if not shortcuts:
        raise ValueError(f"model must be or hold a Shortcut, got a {type(model).__name__} without one")
    return shortcuts
