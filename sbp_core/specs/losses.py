"""The loss of a shortcut network: how main and branches are composed, and what each of them is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sbp_core import validation
from sbp_core.specs.base import Spec


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """What :func:`sbp_core.composition.compose_loss` computes; the equations are there.

    Attributes:
        combine: "logits", one loss of the summed logits; "losses", a weighted sum of losses.
        per_step: supervise every time step (TET, Deng et al. 2022); the logits then have a time axis.
        level_weight: m, the share of the pull of per-step logits towards ``level``.
        level: phi; the threshold, in the TET paper.
        distillation: alpha, the share of the main output's softened classes in what a branch learns from.
        temperature: tau, that softens them.
        detach_teacher: whether distillation leaves the main output alone.

    Raises:
        ValueError: a field out of range, or distillation of logits that have no loss of their own.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "loss"
    combine: Literal["logits", "losses"] = "losses"
    per_step: bool = False
    level_weight: float = 1e-3
    level: float = 1.0
    distillation: float = 0.0
    temperature: float = 3.0
    detach_teacher: bool = True

    def __post_init__(self) -> None:
        validation.choice("combine", self.combine, ("logits", "losses"))
        validation.flag("per_step", self.per_step)
        self._set("level_weight", validation.within("level_weight", self.level_weight, 0.0, 1.0))
        self._set("level", validation.finite("level", self.level))
        self._set("distillation", validation.within("distillation", self.distillation, 0.0, 1.0))
        self._set("temperature", validation.positive("temperature", self.temperature))
        validation.flag("detach_teacher", self.detach_teacher)
        if self.distillation and self.combine == "logits":
            raise ValueError(
                f"distillation must be 0 with combine='logits', got {self.distillation!r}: summed branches have no "
                "loss of their own; use combine='losses'"
            )
