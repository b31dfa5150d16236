"""What a step makes of a gradient, and how large a step is: the same formulas in every framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from sbp_core import Constant, Cosine, Schedule, Step, validation
from sbp_core.namespace import array_namespace, as_float
from sbp_core.specs.base import Spec

#: How the learning rate falls after the warm-up.
Decay = Literal["cosine", "constant", "step"]


@dataclass(frozen=True, kw_only=True)
class Optimizer(Spec, abstract=True):
    """Base of the optimisers. ``w`` is a weight, ``g`` its gradient, ``r`` the learning rate, ``k`` the step from 1.

    Attributes:
        weight_decay: of every parameter, biases and batch norm among them.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    weight_decay: float

    def __post_init__(self) -> None:
        self._set("weight_decay", validation.within("weight_decay", self.weight_decay, 0.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019), the paper's.

    .. code-block:: text

        w = w - r * weight_decay * w
        m = beta1 * m + (1 - beta1) * g              v = beta2 * v + (1 - beta2) * g^2
        w = w - r * (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + epsilon)

    Attributes:
        weight_decay: decoupled, 0 to 1.
        beta1: of the gradient's running mean, 0 to 1.
        beta2: of its square's.
        epsilon: beside the root, greater than 0.

    Example:
        >>> AdamW(beta1=1.5)
        Traceback (most recent call last):
        ...
        ValueError: beta1 must lie in [0, 1], got 1.5
    """

    kind: ClassVar[str] = "adamw"
    weight_decay: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            self._set(name, validation.within(name, getattr(self, name), 0.0, 1.0))
            if getattr(self, name) == 1.0:
                raise ValueError(f"{name} must be less than 1, got 1.0: nothing would ever be learnt")
        self._set("epsilon", validation.positive("epsilon", self.epsilon))


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as PyTorch has it.

    .. code-block:: text

        g = g + weight_decay * w
        b = momentum * b + g                         (b = g in the first step)
        w = w - r * b                                nesterov: w = w - r * (g + momentum * b)

    Attributes:
        weight_decay: added to the gradient, 0 to 1.
        momentum: 0 to 1.
        nesterov: look ahead.

    Example:
        >>> SGD().momentum
        0.9
    """

    kind: ClassVar[str] = "sgd"
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("momentum", validation.within("momentum", self.momentum, 0.0, 1.0))
        validation.flag("nesterov", self.nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov must be False where momentum is 0, got True")


@dataclass(frozen=True, kw_only=True)
class LearningRate(Spec):
    """The learning rate of a step, counted from 0: a linear warm-up, then a decay over what is left.

    .. code-block:: text

        ramp(s)  = min(1, (s + 1) / warm_up_steps)
        share(s) = max(0, s - warm_up_steps) / (total_steps - warm_up_steps)
        rate(s)  = initial * ramp(s) * { cosine: (1 + cos(pi * share)) / 2;  constant: 1;  step: 0.1 ^ passed }

    Attributes:
        initial: the learning rate after the warm-up.
        total_steps: of the whole training.
        warm_up_steps: fewer than ``total_steps``.
        decay: "cosine" to 0, "constant", or "step": to a tenth at every milestone.
        milestones: for "step": shares of what follows the warm-up, in (0, 1), increasing.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.

    Example:
        >>> rate = LearningRate(initial=0.1, total_steps=12, warm_up_steps=2)
        >>> [round(rate(step), 4) for step in (0, 1, 2, 7, 12)]
        [0.05, 0.1, 0.1, 0.05, 0.0]
    """

    kind: ClassVar[str] = "learning_rate"
    initial: float
    total_steps: int
    warm_up_steps: int = 0
    decay: Decay = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self) -> None:
        self._set("initial", validation.positive("initial", self.initial))
        self._set("total_steps", validation.count("total_steps", self.total_steps))
        self._set("warm_up_steps", validation.count("warm_up_steps", self.warm_up_steps, 0))
        if self.warm_up_steps >= self.total_steps:
            raise ValueError(
                f"warm_up_steps must be less than total_steps={self.total_steps}, got {self.warm_up_steps}"
            )
        validation.choice("decay", self.decay, get_args(Decay))
        self._set("milestones", milestones_of(self.milestones))

    def __call__(self, step: Any) -> Any:
        """Return the rate of step ``step``, a number or an array like it (integers become float32)."""
        warm = self.warm_up_steps
        if isinstance(step, int | float):
            return self._after(max(step - warm, 0)) * (min(1.0, (step + 1) / warm) if warm else 1.0)
        xp = array_namespace(step)
        # not a subtraction alone: a count may be unsigned
        rate = self._after(xp.where(step > warm, step - warm, xp.zeros_like(step)))
        if not warm:
            return rate
        ramp = (as_float(step) + 1.0) / warm
        return rate * xp.where(ramp < 1.0, ramp, xp.ones_like(ramp))

    @property
    def _after(self) -> Schedule:
        total = self.total_steps - self.warm_up_steps
        if self.decay == "cosine":
            return Cosine(initial=self.initial, final=0.0, total_steps=total)
        if self.decay == "constant":
            return Constant(value=self.initial, total_steps=total)
        return Step(initial=self.initial, factor=0.1, milestones=self.milestones, total_steps=total)


def milestones_of(values: Any) -> tuple[float, ...]:
    """Return milestones of a learning rate as a tuple.

    Raises:
        ValueError: they do not increase, or lie outside 0 to 1.
        TypeError: they are not numbers.

    Example:
        >>> milestones_of([0.5, 0.75])
        (0.5, 0.75)
    """
    if not isinstance(values, tuple | list):
        raise TypeError(f"milestones must be numbers between 0 and 1, got {values!r}")
    return Step(milestones=tuple(values)).milestones
