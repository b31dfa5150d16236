"""The coefficient of a shortcut under a Lightning trainer. Not imported with :mod:`sbp_torch`."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise missing_framework("Lightning", "lightning", error) from error

from sbp_core.specs.schedules import Schedule
from sbp_torch.coefficient import changes, described, shortcuts_of


class ShortcutCallback(Callback):
    """Sets the coefficient of every :class:`~sbp_torch.Shortcut` in a LightningModule before each training step.

    The k-th of I steps uses ``schedule(k)`` (Guo et al. 2024, Algorithm 1), so that a whole training ends at
    ``schedule(I)``, and ``fit(..., ckpt_path=...)`` goes on where it stopped. In automatic optimization a step is an
    optimizer step: batches whose gradients are accumulated share a coefficient, by a fixed number or by a
    ``GradientAccumulationScheduler``. In manual optimization, where nobody knows which batches will step how many
    optimizers, a step is a training batch; if ``max_steps``, which counts every optimizer's steps, ends the training
    earlier, its share counts. A schedule without ``total_steps`` gets the trainer's. The coefficient is logged as
    ``coefficient``.

    Args:
        schedule: the coefficient as a function of the step.

    Raises:
        TypeError: not a schedule.
        ValueError: at the start of ``fit``: no Shortcut in the module; the number of steps is unknown (no
            ``max_epochs``, or data without a length) and the schedule needs it.

    Warns:
        UserWarning: at the start of ``fit`` from a checkpoint: its steps were counted under another schedule.

    Example:
        >>> from sbp_core import Evolutionary
        >>> callback = ShortcutCallback(Evolutionary(initial=0.25))
    """

    def __init__(self, schedule: Schedule) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {schedule!r} of type {type(schedule).__name__}")
        self.schedule = schedule
        self._resolved = schedule
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule that the steps were counted under; which step it is, the trainer knows."""
        return {"schedule": described(self._resolved)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the checkpoint's schedule, to be compared with this training's."""
        self._restored = state_dict["schedule"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of the whole training."""
        shortcuts_of(pl_module)
        self._resolved = self._filled_in(_place(trainer, pl_module, self.schedule, 0))
        needed = ["total_steps"] + ["steps_per_epoch"] * (self.schedule.per == "epoch")
        unknown = [name for name in needed if getattr(self._resolved, name) is None]
        if unknown:
            raise ValueError(
                f"the number of steps is unknown, for want of max_epochs or of the data's length: pass "
                f"{' and '.join(unknown)} to the schedule {self.schedule!r}, or max_steps to the Trainer"
            )
        changed = changes(self._restored, self._resolved)
        if changed:
            warnings.warn(
                f"the checkpoint's coefficient went by another schedule, {changed}: it jumps now. Pass total_steps to "
                "the schedule to keep to the plan of then",
                stacklevel=2,
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the coefficient of the step to come."""
        place = _place(trainer, pl_module, self.schedule, batch_idx)
        value = float(self._filled_in(place)(place.step))
        for shortcut in shortcuts_of(pl_module):
            shortcut.set_coefficient(value)
        pl_module.log("coefficient", value)

    def _filled_in(self, place: _Place) -> Schedule:
        counted = {"total_steps": place.total, "steps_per_epoch": place.per_epoch}
        return self.schedule.replace(**{name: getattr(self.schedule, name) or value for name, value in counted.items()})


class _Place(NamedTuple):
    """The number of the step to come, and how many there are in all and in an epoch; None if nobody knows."""

    step: int
    total: int | None
    per_epoch: int | None


def _place(trainer: Trainer, module: LightningModule, schedule: Schedule, batch: int) -> _Place:
    batches = int(trainer.num_training_batches) if math.isfinite(trainer.num_training_batches) else None
    epochs = None if trainer.max_epochs in (None, -1) else trainer.max_epochs
    limit = None if trainer.max_steps == -1 else trainer.max_steps
    if not module.automatic_optimization:
        return _in_batches(trainer, schedule, batches, epochs, limit)
    factors = _accumulation(trainer, epochs)
    if batches is None or epochs is None:
        per_epoch = None if batches is None else math.ceil(batches / factors[0])
        return _Place(trainer.global_step + 1, limit, per_epoch)
    if schedule.per == "epoch" and len(set(factors)) > 1:
        # epochs of different numbers of steps: the last batch of the step counts
        factor = factors[min(trainer.current_epoch, epochs - 1)]
        last = min((batch // factor + 1) * factor, batches)
        return _Place(trainer.current_epoch * batches + last, epochs * batches, batches)
    steps = sum(math.ceil(batches / factor) for factor in factors)
    total = steps if limit is None else min(steps, limit)
    return _Place(trainer.global_step + 1, max(total, 1), math.ceil(batches / factors[0]))


def _in_batches(
    trainer: Trainer, schedule: Schedule, batches: int | None, epochs: int | None, limit: int | None
) -> _Place:
    whole = None if batches is None or epochs is None else max(epochs * batches, 1)
    place = _Place(trainer.fit_loop.total_batch_idx + 1, whole, batches)
    if limit is None or schedule.total_steps is not None:
        return place
    optimizers = max(len(trainer.optimizers), 1)
    limited = _Place(trainer.global_step + optimizers, limit, None if batches is None else batches * optimizers)
    return limited if whole is None or limited.step * whole > place.step * limit else place


def _accumulation(trainer: Trainer, epochs: int | None) -> list[int]:
    """Return how many batches make a step, in each epoch."""
    number = max(epochs or 1, 1)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return [callback.get_accumulate_grad_batches(epoch) for epoch in range(number)]
    return [trainer.accumulate_grad_batches] * number
