"""Coefficient schedules: plain callables of the iteration, ``coefficient = schedule(i)``.

The k-th training step, k = 1..I, uses ``schedule(k)`` (Guo et al. 2024, Algorithm 1). A step may be a Python number or
an array of any framework, traced or not; it is clamped to ``[0, total_steps]``. Whole steps are counted in integers: no
step is lost beyond 2^24, where float32 has gaps, and a compiler that multiplies by ``1 / n`` does not change a value.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

from sbp_core import validation
from sbp_core.namespace import array_namespace, as_float, is_floating
from sbp_core.specs.base import Spec


@dataclass(frozen=True, kw_only=True)
class Schedule(Spec, abstract=True):
    """Base of the schedules.

    Attributes:
        total_steps: iterations of the whole training, ``I``; None until a trainer that counts them fills it in.
        per: "iteration", or "epoch" to move once an epoch: all of epoch e's steps use the value of its last one.
        steps_per_epoch: iterations of an epoch, for ``per="epoch"``; None until it is filled in.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    total_steps: int | None = None
    per: Literal["iteration", "epoch"] = "iteration"
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.total_steps is not None:
            self._set("total_steps", validation.count("total_steps", self.total_steps))
        validation.choice("per", self.per, ("iteration", "epoch"))
        if self.steps_per_epoch is not None:
            self._set("steps_per_epoch", validation.count("steps_per_epoch", self.steps_per_epoch))

    def resolve(self, *, total_steps: int, steps_per_epoch: int | None = None) -> Self:
        """Return the schedule with whatever it left open filled in; what it states itself stays."""
        return self.replace(
            total_steps=self.total_steps if self.total_steps is not None else total_steps,
            steps_per_epoch=self.steps_per_epoch if self.steps_per_epoch is not None else steps_per_epoch,
        )

    def __call__(self, step: Any) -> Any:
        """Return the coefficient of training step ``step``, a number or an array like it (integers become float32).

        Raises:
            ValueError: ``total_steps`` (or, per epoch, ``steps_per_epoch``) is still None.
            TypeError: ``step`` is neither a number nor an array.
        """
        if self.total_steps is None:
            raise ValueError(f"total_steps of {self!r} is not set; pass it, or let a trainer call resolve()")
        xp: Any = math if isinstance(step, int | float) else array_namespace(step)
        position = _clamp(_counted(step), self.total_steps)
        if self.per == "epoch":
            if self.steps_per_epoch is None:
                raise ValueError(f"steps_per_epoch of {self!r} is not set, and per='epoch' needs it")
            position = _clamp(_epoch_end(position, self.steps_per_epoch, xp), self.total_steps)
        return self._value(position, self.total_steps, xp)

    @abstractmethod
    def _value(self, i: Any, total: int, xp: Any) -> Any:
        """Return the coefficient at iteration ``i`` in [0, total]; whole steps come as integers."""


def _is_whole(step: Any) -> bool:
    return isinstance(step, int) or (not isinstance(step, float) and not is_floating(step))


def _counted(step: Any) -> Any:
    """Return whole steps as integers that hold a training: Flax counts in uint32, which has no negatives."""
    if isinstance(step, int | float) or is_floating(step):
        return step
    name = str(step.dtype)
    if "uint" not in name and ("int32" in name or "int64" in name):
        return step
    xp = array_namespace(step)
    return xp.astype(step, xp.int64 if "uint64" in name else xp.int32)


def _epoch_end(step: Any, steps: int, xp: Any) -> Any:
    """Return the last iteration of the epoch that ``step`` belongs to."""
    if _is_whole(step):
        return -(-step // steps) * steps
    # half a step of room: a compiler multiplies by 1 / steps, which may be a little more
    return as_float(xp.ceil((xp.ceil(step) - 0.5) / steps)) * steps


def _clamp(value: Any, high: int) -> Any:
    if isinstance(value, int | float):
        return min(max(value, 0), high)
    xp = array_namespace(value)
    value = xp.where(value < 0, xp.zeros_like(value), value)
    return xp.where(value > high, xp.zeros_like(value) + high, value)


def _share(part: Any, total: int) -> Any:
    """Return ``part / total`` as a floating-point number."""
    return as_float(part) / total


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """A coefficient that stays: ``lambda(i) = value``. 1 is the paper's plain shortcut, 0 is vanilla training.

    Raises:
        ValueError: a value that is not finite.

    Example:
        >>> Constant(value=1.0)(17)
        1.0
    """

    kind: ClassVar[str] = "constant"
    value: float = 1.0
    total_steps: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("value", validation.finite("value", self.value))

    def _value(self, i: Any, total: int, xp: Any) -> Any:
        return as_float(i) * 0.0 + self.value


@dataclass(frozen=True, kw_only=True)
class Evolutionary(Schedule):
    """The paper's evolutionary coefficient: ``lambda(i) = initial * (1 - i / I)`` (Guo et al. 2024, Eq. 10).

    Raises:
        ValueError: a field out of range.

    Example:
        >>> coefficient = Evolutionary(initial=0.25, total_steps=1000)
        >>> coefficient(0), coefficient(500), coefficient(1000), coefficient(2000)
        (0.25, 0.125, 0.0, 0.0)
    """

    kind: ClassVar[str] = "evolutionary"
    initial: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("initial", validation.finite("initial", self.initial))

    def _value(self, i: Any, total: int, xp: Any) -> Any:
        # not 1 - i / I: a compiler that multiplies by 1 / I would not end at exactly 0
        return self.initial * _share(total - i, total)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine: ``lambda(i) = final + (initial - final) * (1 + cos(pi i / I)) / 2``.

    Raises:
        ValueError: a field out of range.
    """

    kind: ClassVar[str] = "cosine"
    initial: float = 0.25
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("initial", validation.finite("initial", self.initial))
        self._set("final", validation.finite("final", self.final))

    def _value(self, i: Any, total: int, xp: Any) -> Any:
        return self.final + (self.initial - self.final) * 0.5 * (1.0 + xp.cos(_share(i, total) * math.pi))


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """Exponential decay: ``lambda(i) = initial * ratio^(i / I)``; ``ratio`` is what is left at the end.

    Raises:
        ValueError: a field out of range.
    """

    kind: ClassVar[str] = "exponential_schedule"
    initial: float = 0.25
    ratio: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("initial", validation.finite("initial", self.initial))
        self._set("ratio", validation.positive("ratio", self.ratio))

    def _value(self, i: Any, total: int, xp: Any) -> Any:
        return self.initial * xp.exp(_share(i, total) * math.log(self.ratio))


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """Steps: ``lambda(i) = initial * factor^n``, with n the number of ``milestones`` that ``i`` has passed.

    Attributes:
        initial: the coefficient before the first milestone.
        factor: what each milestone multiplies it by.
        milestones: fractions of the training in (0, 1), increasing; the value changes at ``i > milestone * I``.

    Raises:
        ValueError: a field out of range.

    Example:
        >>> coefficient = Step(initial=0.4, factor=0.5, milestones=(0.5,), total_steps=10)
        >>> coefficient(5), coefficient(6)
        (0.4, 0.2)
    """

    kind: ClassVar[str] = "step"
    initial: float = 0.25
    factor: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("initial", validation.finite("initial", self.initial))
        self._set("factor", validation.finite("factor", self.factor))
        self._set("milestones", tuple(validation.within("milestones", m, 0.0, 1.0) for m in self.milestones))
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must increase, got {self.milestones!r}")

    def _value(self, i: Any, total: int, xp: Any) -> Any:
        value = as_float(i) * 0.0 + self.initial
        for milestone in self.milestones:
            passed = i > _last_before(milestone * total) if _is_whole(i) else i > _whole(milestone * total)
            value = _select(passed, value * self.factor, value, xp)
        return value


class Early(Protocol):
    """What a look tells of the gradient in the first blocks."""

    @property
    def early_agreement(self) -> float:
        """Cosine between batches."""

    @property
    def early_share(self) -> float:
        """Norm, as a share of it and the last blocks'."""


@dataclass(frozen=True, kw_only=True)
class Following(Schedule):
    """A coefficient that follows the signal: branches weigh what the main output's gradient lacks in the first blocks.

    ``lambda(i) = initial * fade(i) * clip(1 - s / target, 0, 1)``, with ``fade(i) = 1 - i / I``, the paper's, or 1;
    ``s`` is what ``measure`` names of the main output's own gradient, the network without its branches, smoothed over
    the looks ``k`` that are taken every so many steps: ``s_k = smoothing * s_(k-1) + (1 - smoothing) * max(a_k, 0)``,
    from ``s_1 = max(a_1, 0)`` on. Before the first look ``s`` is 0. A schedule is frozen: :meth:`seeing` gives the one
    that goes on from a look.

    - "agreement": ``a`` is the mean cosine between the gradients of two batches in the first quarter of the layers with
      weights (``Diagnosis.early_agreement``): 0 where the gradient that reaches them is noise.
    - "share": ``a = f / (f + l)``, with ``f`` and ``l`` the mean norms of the gradients in the first and in the last
      quarter of these layers (``Diagnosis.early_share``): 0 where the gradient vanishes on its way, 1/2 where as much
      arrives as there was. It says nothing of whether that is noise.

    Attributes:
        initial: the coefficient where nothing agrees, or arrives.
        target: the measure from which on no branch is needed.
        smoothing: how much of the last looks is kept, in [0, 1).
        every: steps between two looks.
        fade: whether it also falls to 0 by the end, so that the main output is trained alone then.
        signal: ``s`` after the last look; None before the first.
        measure: "agreement" or "share".

    Raises:
        ValueError: a field out of range.

    Example:
        >>> schedule = Following(initial=1.0, target=0.1, total_steps=100)
        >>> schedule(50), schedule.after(0.05)(50), schedule.after(0.05).after(0.2)(50)
        (0.5, 0.25, 0.0)
    """

    kind: ClassVar[str] = "following"
    initial: float = 0.25
    target: float = 0.1
    smoothing: float = 0.5
    every: int = 200
    fade: bool = True
    signal: float | None = None
    measure: Literal["agreement", "share"] = "agreement"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("initial", validation.finite("initial", self.initial))
        self._set("target", validation.positive("target", self.target))
        self._set("smoothing", validation.within("smoothing", self.smoothing, 0.0, 1.0))
        if self.smoothing == 1.0:
            raise ValueError("smoothing must be less than 1, got 1.0: no look would count after the first")
        self._set("every", validation.count("every", self.every))
        validation.flag("fade", self.fade)
        validation.choice("measure", self.measure, ("agreement", "share"))
        if self.signal is not None:
            self._set("signal", validation.within("signal", self.signal, 0.0, 1.0))

    def is_due(self, step: int) -> bool:
        """Return whether there is a look after training step ``step``: after the first, and every so many."""
        return step == 1 or step % self.every == 0

    def seeing(self, found: Early) -> Self:
        """Return the schedule after a look: a :class:`~sbp_core.signal.Diagnosis` of the network without branches."""
        return self.after(found.early_share if self.measure == "share" else found.early_agreement)

    def after(self, measured: float) -> Self:
        """Return the schedule after a look that gave ``measured``; a cosine may be a rounding above 1.

        Raises:
            ValueError: it is not finite.
        """
        now = min(max(validation.finite("measured", measured), 0.0), 1.0)
        last = self.signal
        return self.replace(signal=now if last is None else self.smoothing * last + (1.0 - self.smoothing) * now)

    def _value(self, i: Any, total: int, xp: Any) -> Any:
        lacks = self.initial * min(max(1.0 - (self.signal or 0.0) / self.target, 0.0), 1.0)
        return lacks * _share(total - i, total) if self.fade else as_float(i) * 0.0 + lacks


def _whole(value: float) -> float:
    # 0.57 * 100 is a little less than 57, in float64 but not in float32: every framework is to change at one step
    nearest = round(value)
    return float(nearest) if math.isclose(value, nearest, rel_tol=1e-12) else value


def _last_before(milestone: float) -> int:
    return math.floor(_whole(milestone))


def _select(condition: Any, chosen: Any, other: Any, xp: Any) -> Any:
    if isinstance(condition, bool):
        return chosen if condition else other
    return xp.where(condition, chosen, other)
