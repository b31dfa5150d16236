"""The loss of a shortcut network: how main and branches are composed, and what each of them is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from sbp_core import validation
from sbp_core.inputs import FLOATING
from sbp_core.specs.base import Spec
from sbp_core.specs.shortcut import Combine as Combine

#: Who teaches by distillation: the main output; or the mean of those outputs that say the label's class.
Teacher = Literal["main", "right"]
#: Which time step teaches another: the surest the least sure, the other way round, or those that are right the wrong.
StepTeacher = Literal["strong", "weak", "right"]


@dataclass(frozen=True, kw_only=True)
class LossSpec(Spec):
    """What :func:`sbp_core.composition.compose_loss` computes; the equations are there.

    Attributes:
        combine: "logits", one loss of the summed logits; "losses", a weighted sum of losses, for a network that gives
            its branches' logits apart.
        label_smoothing: epsilon, the share of every label that is spread evenly over all classes.
        per_step: supervise every time step (TET, Deng et al. 2022); the logits then have a time axis.
        level_weight: m, the share of the pull of per-step logits towards ``level``.
        level: phi; the threshold, in the TET paper.
        distillation: alpha, the share of the teacher's softened classes in what a branch learns from.
        teacher: "main", the main output, the deepest; "right", the mean of those of main output and branches that say
            the label's class, from which the main output learns too. A sample that none gets right is left out.
        temperature: tau, that softens the classes of teacher and student.
        detach_teacher: whether what a student learns leaves its teacher alone.
        step_distillation: beta, the weight of what time steps learn from each other; the logits then have a time axis.
        step_teacher: "strong", the step with the surest classes, mean over the batch, teaches the least sure; "weak",
            the other way round; "right", the mean of a sample's steps that say the label's class teaches those that
            do not.

    Raises:
        ValueError: a field out of range, or distillation of logits that have no loss of their own.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "loss"
    combine: Combine = "losses"
    label_smoothing: float = 0.0
    per_step: bool = False
    level_weight: float = 1e-3
    level: float = 1.0
    distillation: float = 0.0
    teacher: Teacher = "main"
    temperature: float = 3.0
    detach_teacher: bool = True
    step_distillation: float = 0.0
    step_teacher: StepTeacher = "strong"

    def __post_init__(self) -> None:
        validation.choice("combine", self.combine, get_args(Combine))
        self._set("label_smoothing", validation.within("label_smoothing", self.label_smoothing, 0.0, 1.0))
        validation.flag("per_step", self.per_step)
        self._set("level_weight", validation.within("level_weight", self.level_weight, 0.0, 1.0))
        self._set("level", validation.finite("level", self.level))
        self._set("distillation", validation.within("distillation", self.distillation, 0.0, 1.0))
        self._set("temperature", validation.positive("temperature", self.temperature))
        validation.flag("detach_teacher", self.detach_teacher)
        validation.choice("teacher", self.teacher, get_args(Teacher))
        self._set("step_distillation", validation.finite("step_distillation", self.step_distillation))
        if self.step_distillation < 0.0:
            raise ValueError(f"step_distillation must be at least 0, got {self.step_distillation!r}")
        validation.choice("step_teacher", self.step_teacher, get_args(StepTeacher))
        if self.distillation and self.combine == "logits":
            raise ValueError(
                f"distillation must be 0 with combine='logits', got {self.distillation!r}: summed branches have no "
                "loss of their own; use combine='losses'"
            )

    @property
    def timed(self) -> bool:
        """Whether it needs the logits of every time step: they have an axis of time."""
        return self.per_step or self.step_distillation > 0.0

    @property
    def needs_classes(self) -> bool:
        """Whether a teacher is one that is right, so that labels must be classes, or have a largest one."""
        of_outputs = self.distillation > 0.0 and self.teacher == "right"
        return of_outputs or (self.step_distillation > 0.0 and self.step_teacher == "right")

    def check_logits(
        self,
        logits: Sequence[int | None],
        labels: Sequence[int | None],
        *,
        labels_dtype: str = "int64",
        batch_axis: int = -2,
    ) -> bool:
        """Return whether the labels are soft; raise unless logits and labels fit this loss and each other.

        Args:
            logits: ``(batch, classes)``, or with an axis of time more where ``timed``; None is a size not known.
            labels: integer classes, ``(batch,)``; or soft ones, floating probabilities, ``(batch, classes)``.
            labels_dtype: name of the labels' dtype, with or without the framework's prefix.
            batch_axis: which axis of the logits the labels have.

        Raises:
            ValueError: another rank, or other sizes.
            TypeError: labels of classes that are not integers, or soft ones that are not floating.

        Example:
            >>> LossSpec(per_step=True).check_logits((2, 10), (2,))
            Traceback (most recent call last):
            ...
            ValueError: logits must have 3 axes, time among them, with per_step=True, got shape (2, 10)
        """
        if len(logits) != (3 if self.timed else 2):
            axes = "3 axes, time among them," if self.timed else "shape (batch, classes)"
            by = f"per_step={self.per_step}"
            if self.step_distillation:
                by = f"step_distillation={self.step_distillation:g}"
            raise ValueError(f"logits must have {axes} with {by}, got shape {tuple(logits)}")
        batch, classes = logits[batch_axis], logits[-1]
        name = labels_dtype.rpartition(".")[2]
        soft = name in FLOATING
        if not soft and not name.startswith(("int", "uint")):
            raise TypeError(f"labels must be integer classes or floating probabilities, got {labels_dtype}")
        if soft and len(labels) == 1:
            raise TypeError(
                f"labels of shape {tuple(labels)} must be integer classes, got {labels_dtype}; soft labels have shape "
                "(batch, classes)"
            )
        if not soft and len(labels) == 2 and labels[1] != 1:
            raise TypeError(f"labels of shape {tuple(labels)} must be floating probabilities, got {labels_dtype}")
        wanted = (batch, classes) if soft else (batch,)
        if len(labels) != len(wanted) or any(
            None not in pair and pair[0] != pair[1] for pair in zip(labels, wanted, strict=True)
        ):
            raise ValueError(f"labels must have shape {wanted}, got {tuple(labels)}")
        return soft


def as_loss(loss: LossSpec | Combine) -> LossSpec:
    """Return a spec for itself, or for the name of a composition: plain cross-entropy, composed that way.

    Raises:
        ValueError: another name.
        TypeError: neither a spec nor a name.

    Example:
        >>> as_loss("logits") == LossSpec(combine="logits")
        True
    """
    if isinstance(loss, LossSpec):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a LossSpec or one of {get_args(Combine)}, got {type(loss).__name__}")
    return LossSpec(combine=loss)
