"""A shortcut's coefficient, and the doctor's figures, under a Lightning trainer. Not imported with :mod:`sbp_torch`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ModuleNotFoundError as error:
    from sbp_core.registry import missing_framework

    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise missing_framework("Lightning", "lightning", error) from error

from sbp_core.signal import EVERY
from sbp_core.specs.schedules import Following, Schedule
from sbp_torch.coefficient import after, changes, described, followed, shortcuts_of
from sbp_torch.diagnosis import Loss, watch
from sbp_torch.shortcut import Shortcut


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
        batches: for a :class:`~sbp_core.Following`, as in :class:`~sbp_torch.CoefficientScheduler`.

    Raises:
        TypeError: not a schedule.
        ValueError: a Following without batches; at the start of ``fit``: no Shortcut in the module; the number of steps
            is unknown (no ``max_epochs``, or data without a length) and the schedule needs it.

    Warns:
        UserWarning: at the start of ``fit`` from a checkpoint: its steps were counted under another schedule.

    Example:
        >>> from sbp_core import Evolutionary
        >>> callback = ShortcutCallback(Evolutionary(initial=0.25))
    """

    def __init__(self, schedule: Schedule, *, batches: Iterable[tuple[Any, Any]] = ()) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {schedule!r} of type {type(schedule).__name__}")
        self.schedule = schedule
        self._batches = followed(schedule, batches)
        self._looked = 0
        self._resolved = schedule
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule that the steps were counted under; which step it is, the trainer knows."""
        return {"schedule": described(self._resolved)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the checkpoint's schedule, to be compared with this training's."""
        self._restored = state_dict["schedule"]
        if isinstance(self.schedule, Following) and self._restored is not None:
            self.schedule = self.schedule.replace(signal=self._restored.get("signal"))

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
        if place.step - 1 > self._looked:
            self._looked = place.step - 1
            self.schedule = after(self.schedule, self._looked, shortcuts_of(pl_module)[0], self._batches)
        self._resolved = self._filled_in(place)
        value = float(self._resolved(place.step))
        for shortcut in shortcuts_of(pl_module):
            shortcut.set_coefficient(value)
        pl_module.log("coefficient", value)

    def _filled_in(self, place: _Place) -> Schedule:
        counted = {"total_steps": place.total, "steps_per_epoch": place.per_epoch}
        return self.schedule.replace(**{name: getattr(self.schedule, name) or value for name, value in counted.items()})


class WatchCallback(Callback):
    """Takes the figures of :func:`sbp_torch.diagnose` every so many optimizer steps: see :func:`sbp_torch.watch`.

    The module's first :class:`~sbp_torch.Shortcut` is measured, or the whole module where it has none. The trainer's
    loggers get the figures, ``rate/layer1.0.neuron1`` and the like.

    Args:
        batches: always the same ones; four quarters of a training batch are enough.
        every: steps between two looks.
        folder: for ``signal/``; None: the loggers alone.
        tell: gets each sentence; a warning unless given.
        loss: as in :func:`sbp_torch.diagnose`.

    Raises:
        ValueError: ``every`` is less than 1; after the first step what :func:`sbp_torch.diagnose` raises.

    Example:
        >>> import torch
        >>> callback = WatchCallback([(torch.rand(4, 1, 8, 8), torch.arange(4)) for _ in range(2)], every=100)
    """

    def __init__(
        self,
        batches: Iterable[tuple[Any, Any]],
        *,
        every: int = EVERY,
        folder: str | Path | None = None,
        tell: Callable[[str], object] | None = None,
        loss: Loss | None = None,
    ) -> None:
        self._given: dict[str, Any] = {"every": every, "folder": folder, "tell": tell, "loss": loss}
        self._batches = list(batches)
        self._watch = watch(nn.Identity(), (), every=every)
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what was said, and when."""
        return self._watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._watch.load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what is measured."""
        model = next((module for module in pl_module.modules() if isinstance(module, Shortcut)), pl_module)
        restored, self._taken = self._watch.state_dict(), trainer.global_step
        self._watch = watch(model, self._batches, **self._given)
        self._watch.load_state_dict(restored)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, if the optimizer stepped and it is time."""
        if trainer.global_step == self._taken:
            return
        self._taken = trainer.global_step
        look = self._watch.at(self._taken)
        if look is not None:
            for logger in trainer.loggers:
                logger.log_metrics(look.scalars(), step=look.step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files."""
        self._watch.close()


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
