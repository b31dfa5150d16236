"""The coefficient of a shortcut under a Lightning trainer. Not imported with :mod:`sbp_torch`."""

from __future__ import annotations

import math
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise missing_framework("Lightning", "lightning", error) from error

from sbp_core.specs.schedules import Schedule
from sbp_torch.coefficient import shortcuts_of


class ShortcutCallback(Callback):
    """Sets the coefficient of every :class:`~sbp_torch.Shortcut` in a LightningModule before each training step.

    The k-th optimizer step uses ``schedule(k)`` (Guo et al. 2024, Algorithm 1), ``k = trainer.global_step + 1``; so
    batches whose gradients are accumulated share a coefficient, and ``fit(..., ckpt_path=...)`` goes on where it
    stopped. A schedule without ``total_steps`` takes ``trainer.estimated_stepping_batches``. The coefficient is logged
    as ``coefficient``.

    Args:
        schedule: the coefficient as a function of the step.

    Raises:
        TypeError: not a schedule.
        ValueError: at the start of ``fit``: no Shortcut in the module; the number of steps is unknown (no
            ``max_epochs``, or data without a length) and the schedule needs it.

    Example:
        >>> from sbp_core import Evolutionary
        >>> callback = ShortcutCallback(Evolutionary(initial=0.25))
    """

    def __init__(self, schedule: Schedule) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {schedule!r} of type {type(schedule).__name__}")
        self.schedule = schedule
        self._resolved = schedule

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps of the whole training."""
        shortcuts_of(pl_module)
        total = trainer.estimated_stepping_batches
        per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        counted = {}
        if total > 0 and math.isfinite(total):
            counted["total_steps"] = int(total)
        if math.isfinite(per_epoch):
            counted["steps_per_epoch"] = math.ceil(per_epoch)
        known = {name: getattr(self.schedule, name) or value for name, value in counted.items()}
        self._resolved = self.schedule.replace(**known)
        needed = ["total_steps"] + ["steps_per_epoch"] * (self.schedule.per == "epoch")
        unknown = [name for name in needed if getattr(self._resolved, name) is None]
        if unknown:
            raise ValueError(
                f"the number of steps is unknown, for want of max_epochs or of the data's length: pass "
                f"{' and '.join(unknown)} to the schedule {self.schedule!r}, or max_steps to the Trainer"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the coefficient of the step to come."""
        value = float(self._resolved(trainer.global_step + 1))
        for shortcut in shortcuts_of(pl_module):
            shortcut.set_coefficient(value)
        pl_module.log("coefficient", value)
