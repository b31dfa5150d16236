"""What networks are made of: each layer says what it does to a shape, and which weights it has."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_core.specs.neurons import LIFSpec

#: How a weight starts: ``N(0, 2 / (k * k * outputs))``; ``N(0, 2 / inputs)``; uniform in ``±1 / sqrt(inputs)``; or a
#: number.
Initial = Literal["kaiming", "kaiming_inputs", "uniform"] | float


class Shape(NamedTuple):
    """Of one sample: channels, axes of space, and whether there is an axis of time.

    Attributes:
        channels: of an image, a map or a vector.
        space: sizes of the axes of space; None is any size.
        timed: whether there is an axis of time.
    """

    channels: int
    space: tuple[int | None, ...] = ()
    timed: bool = True

    @property
    def positions(self) -> int | None:
        """Values of a channel; None where a size is not known."""
        known = [size for size in self.space if size is not None]
        return math.prod(known) if len(known) == len(self.space) else None

    def fits(self, other: Shape) -> bool:
        """Say whether it may be the same: a size that is not known is any."""
        sizes = zip(self.space, other.space, strict=False)
        alike = all(one is None or another is None or one == another for one, another in sizes)
        return alike and (self.channels, len(self.space), self.timed) == (other.channels, len(other.space), other.timed)

    def __str__(self) -> str:
        """Return it as it is written in messages: ``(64, 8, 8)``."""
        return f"({', '.join('any' if size is None else str(size) for size in (self.channels, *self.space))})"


class Parameter(NamedTuple):
    """A weight or a running statistic.

    Attributes:
        shape: kernels are (outputs, inputs, *space).
        initial: how it starts.
    """

    shape: tuple[int, ...]
    initial: Initial


@dataclass(frozen=True, kw_only=True)
class LayerSpec(Spec, abstract=True):
    """A layer. Those that do not look at time say so (``stepwise``): they do the same to every step.

    A layer of another kind needs a class here, its oracle in :mod:`sbp_core.reference.layers`, and an entry in the
    table of each adapter (``layers``).
    """

    stepwise: ClassVar[bool] = True

    @abstractmethod
    def output(self, shape: Shape) -> Shape:
        """Return the shape that it makes of ``shape``.

        Raises:
            ValueError: it does not fit.
        """

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """Return its weights by name, for an input of ``shape``."""
        return {}

    def operations(self, shape: Shape) -> int:
        """Return the multiply-accumulates of one step of one sample, for an input of ``shape`` of known sizes."""
        return 0

    @property
    def fires(self) -> bool:
        """Whether there is a neuron in it."""
        return False


@dataclass(frozen=True, kw_only=True)
class Conv(LayerSpec):
    """A convolution over the axes of space, padded alike on all sides.

    Attributes:
        channels: of the output.
        kernel: its size, along every axis.
        stride: along every axis.
        padding: zeros on each side; None for ``kernel // 2``.
        groups: parts of the channels that are convolved apart.
        bias: whether it has one.
        initial: of the kernel; a bias is uniform.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "conv"
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None
    groups: int = 1
    bias: bool = False
    initial: Literal["kaiming", "uniform"] = "kaiming"

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride", "groups"):
            self._set(name, validation.count(name, getattr(self, name)))
        self._set("padding", _padding(self.padding, self.kernel // 2))
        validation.flag("bias", self.bias)
        validation.choice("initial", self.initial, ("kaiming", "uniform"))
        if self.channels % self.groups:
            raise ValueError(f"channels must be a multiple of groups={self.groups}, got {self.channels}")

    @property
    def pad(self) -> int:
        """Zeros on each side."""
        return self.padding or 0

    def output(self, shape: Shape) -> Shape:
        """Return the shape with other channels, smaller by the stride."""
        if not shape.space:
            raise ValueError(f"a convolution needs axes of space, got {shape}")
        if shape.channels % self.groups:
            raise ValueError(f"channels must be a multiple of groups={self.groups}, got {shape}")
        return Shape(self.channels, _slid(shape, self.kernel, self.stride, self.pad), shape.timed)

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """Return ``weight``, and ``bias`` if it has one."""
        kernel = (self.channels, shape.channels // self.groups, *[self.kernel] * len(shape.space))
        found = {"weight": Parameter(kernel, self.initial)}
        return found | ({"bias": Parameter((self.channels,), "uniform")} if self.bias else {})

    def operations(self, shape: Shape) -> int:
        """Return the products of every output."""
        return math.prod(self.parameters(shape)["weight"].shape) * (self.output(shape).positions or 0)


@dataclass(frozen=True, kw_only=True)
class BatchNorm(LayerSpec):
    """Batch normalisation over time, batch and space, with an unbiased running variance.

    tdBN (Zheng et al. 2021) is one whose ``scale`` starts at alpha times the threshold.

    Attributes:
        epsilon: added to the variance.
        momentum: weight of the new statistics in the running ones.
        scale: what its weight starts at.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "batch_norm"
    epsilon: float = 1e-5
    momentum: float = 0.1
    scale: float = 1.0

    def __post_init__(self) -> None:
        self._set("epsilon", validation.positive("epsilon", self.epsilon))
        self._set("momentum", validation.within("momentum", self.momentum, 0.0, 1.0))
        self._set("scale", validation.finite("scale", self.scale))

    def output(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return shape

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """Return weight, bias and the running statistics."""
        starts = {"weight": self.scale, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        return {name: Parameter((shape.channels,), start) for name, start in starts.items()}


@dataclass(frozen=True, kw_only=True)
class Linear(LayerSpec):
    """A fully connected layer: of a vector at each step.

    Attributes:
        features: of the output.
        bias: whether it has one.
        initial: of the matrix: "uniform" in ``±1 / sqrt(inputs)``, as a bias is too, or "kaiming",
            ``N(0, 2 / inputs)``, 2.4 times as wide: a hidden layer without batch norm may not fire otherwise.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "linear"
    features: int
    bias: bool = True
    initial: Literal["kaiming", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        self._set("features", validation.count("features", self.features))
        validation.flag("bias", self.bias)
        validation.choice("initial", self.initial, ("kaiming", "uniform"))

    def output(self, shape: Shape) -> Shape:
        """Return the vector's new length."""
        _flat(shape, "a linear layer")
        return shape._replace(channels=self.features)

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """Return ``weight``, and ``bias`` if it has one."""
        initial: Initial = "kaiming_inputs" if self.initial == "kaiming" else "uniform"
        found = {"weight": Parameter((self.features, shape.channels), initial)}
        return found | ({"bias": Parameter((self.features,), "uniform")} if self.bias else {})

    def operations(self, shape: Shape) -> int:
        """Return the size of the matrix."""
        return self.features * shape.channels


@dataclass(frozen=True, kw_only=True)
class _Pool(LayerSpec, abstract=True):
    kernel: int = 2
    stride: int | None = None
    padding: int = 0

    def __post_init__(self) -> None:
        self._set("kernel", validation.count("kernel", self.kernel))
        self._set("stride", validation.count("stride", self.kernel if self.stride is None else self.stride))
        self._set("padding", _padding(self.padding, 0))
        if 2 * self.padding > self.kernel:
            raise ValueError(f"padding must be at most half of kernel={self.kernel}, got {self.padding}")

    @property
    def step(self) -> int:
        """Its stride."""
        return self.stride or self.kernel

    def output(self, shape: Shape) -> Shape:
        """Return the shape, smaller by the stride."""
        if not shape.space:
            raise ValueError(f"a pool needs axes of space, got {shape}")
        return shape._replace(space=_slid(shape, self.kernel, self.step, self.padding))


@dataclass(frozen=True, kw_only=True)
class MaxPool(_Pool):
    """The largest of each window; where several are, the first in reading order gets the gradient.

    Attributes:
        kernel: size of the window, along every axis.
        stride: along every axis; None for the window's size.
        padding: on each side, of what is smaller than every number.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "max_pool"


@dataclass(frozen=True, kw_only=True)
class AvgPool(_Pool):
    """The mean of each window; zeros that pad it count.

    Attributes:
        kernel: size of the window, along every axis.
        stride: along every axis; None for the window's size.
        padding: zeros on each side.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "avg_pool"


@dataclass(frozen=True, kw_only=True)
class GlobalPool(LayerSpec):
    """The mean over space: a vector at each step."""

    kind: ClassVar[str] = "global_pool"

    def output(self, shape: Shape) -> Shape:
        """Return the shape without space."""
        return shape._replace(space=())


@dataclass(frozen=True, kw_only=True)
class Flatten(LayerSpec):
    """Channels and space in one axis, channels outermost, in every framework."""

    kind: ClassVar[str] = "flatten"

    def output(self, shape: Shape) -> Shape:
        """Return a vector."""
        if shape.positions is None:
            raise ValueError(f"flattening needs maps of known size, got {shape}")
        return Shape(shape.channels * shape.positions, (), shape.timed)


@dataclass(frozen=True, kw_only=True)
class Relu(LayerSpec):
    """``max(x, 0)``: not of a spiking network, but of a branch."""

    kind: ClassVar[str] = "relu"

    def output(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return shape


@dataclass(frozen=True, kw_only=True)
class Vote(LayerSpec):
    """The mean of every ``voters`` neighbours of a vector: so many outputs vote for a class (Fang et al. 2021).

    Attributes:
        voters: how many.

    Raises:
        ValueError: fewer than 1.
        TypeError: not an integer.
    """

    kind: ClassVar[str] = "vote"
    voters: int = 10

    def __post_init__(self) -> None:
        self._set("voters", validation.count("voters", self.voters))

    def output(self, shape: Shape) -> Shape:
        """Return a vector of as many classes."""
        _flat(shape, "a vote")
        if shape.channels % self.voters:
            raise ValueError(f"channels must be a multiple of voters={self.voters}, got {shape}")
        return shape._replace(channels=shape.channels // self.voters)


@dataclass(frozen=True, kw_only=True)
class HeadSum(LayerSpec):
    """The sum over each head's channels, a channel a head: QKFormer's token attention (Zhou et al. 2024, Eq. 5).

    Attributes:
        heads: how many parts the channels have.

    Raises:
        ValueError: fewer than 1.
        TypeError: not an integer.
    """

    kind: ClassVar[str] = "head_sum"
    heads: int

    def __post_init__(self) -> None:
        self._set("heads", validation.count("heads", self.heads))

    def output(self, shape: Shape) -> Shape:
        """Return the shape with a channel a head."""
        if shape.channels % self.heads:
            raise ValueError(f"channels must be a multiple of heads={self.heads}, got {shape}")
        return shape._replace(channels=self.heads)


@dataclass(frozen=True, kw_only=True)
class Neuron(LayerSpec):
    """A spiking neuron over time.

    Attributes:
        spec: which.

    Raises:
        TypeError: not a LIFSpec.
    """

    kind: ClassVar[str] = "neuron"
    stepwise: ClassVar[bool] = False
    spec: LIFSpec = field(default_factory=LIFSpec)

    def __post_init__(self) -> None:
        if not isinstance(self.spec, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.spec).__name__}")

    @property
    def fires(self) -> bool:
        """It does."""
        return True

    def output(self, shape: Shape) -> Shape:
        """Return the same shape."""
        if not shape.timed:
            raise ValueError(f"a neuron needs time, and {shape} has none: put a Repeat before it")
        return shape

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """Return ``decay_logit`` and ``initial_potential`` where learnt, ``running_potential`` where it follows."""
        found = {}
        if self.spec.learn_decay:
            found["decay_logit"] = Parameter((), math.log(self.spec.decay / (1.0 - self.spec.decay)))
        if self.spec.learn_initial:
            found["initial_potential"] = Parameter((), self.spec.start["potential"])
        if self.spec.initial_follows:
            found["running_potential"] = Parameter((), self.spec.start["potential"])
        return found


@dataclass(frozen=True, kw_only=True)
class Dropout(LayerSpec):
    """Dropout in training; a sample's mask is the same at all of its steps, as is usual in spiking networks.

    Attributes:
        rate: share of what is dropped, in [0, 1).

    Raises:
        ValueError: out of range.
        TypeError: not a number.
    """

    kind: ClassVar[str] = "dropout"
    stepwise: ClassVar[bool] = False
    rate: float = 0.5

    def __post_init__(self) -> None:
        self._set("rate", validation.within("rate", self.rate, 0.0, 1.0))
        if self.rate == 1.0:
            raise ValueError("rate must be less than 1, got 1.0")

    def output(self, shape: Shape) -> Shape:
        """Return the same shape."""
        return shape


@dataclass(frozen=True, kw_only=True)
class Repeat(LayerSpec):
    """Direct encoding: what comes from a still image, the same at every step; event frames pass as they are.

    Attributes:
        time_steps: how often.

    Raises:
        ValueError: fewer than 1.
        TypeError: not an integer.
    """

    kind: ClassVar[str] = "repeat"
    stepwise: ClassVar[bool] = False
    time_steps: int = 4

    def __post_init__(self) -> None:
        self._set("time_steps", validation.count("time_steps", self.time_steps))

    def output(self, shape: Shape) -> Shape:
        """Return the shape with time."""
        return shape._replace(timed=True)


@dataclass(frozen=True, kw_only=True)
class TimeScale(LayerSpec):
    """A learnt factor for each step: behind a batch norm it is TEBN (Duan et al. 2022).

    Attributes:
        time_steps: how many.

    Raises:
        ValueError: fewer than 1.
        TypeError: not an integer.
    """

    kind: ClassVar[str] = "time_scale"
    stepwise: ClassVar[bool] = False
    time_steps: int = 4

    def __post_init__(self) -> None:
        self._set("time_steps", validation.count("time_steps", self.time_steps))

    def output(self, shape: Shape) -> Shape:
        """Return the same shape."""
        if not shape.timed:
            raise ValueError(f"a factor for each step needs time, and {shape} has none: put a Repeat before it")
        return shape

    def parameters(self, shape: Shape) -> dict[str, Parameter]:
        """Return the factors, ``weight``."""
        return {"weight": Parameter((self.time_steps,), 1.0)}


@dataclass(frozen=True, kw_only=True)
class TimeMean(LayerSpec):
    """The mean over time: what most networks end in. With ``per_step`` a network leaves it out."""

    kind: ClassVar[str] = "time_mean"
    stepwise: ClassVar[bool] = False

    def output(self, shape: Shape) -> Shape:
        """Return the shape without time."""
        if not shape.timed:
            raise ValueError(f"a mean over time needs time, and {shape} has none")
        return shape._replace(timed=False)


def _padding(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else validation.count("padding", value, 0)


def _flat(shape: Shape, what: str) -> None:
    if shape.space:
        raise ValueError(f"{what} takes a vector, got {shape}: put a GlobalPool or a Flatten before it")


def _slid(shape: Shape, kernel: int, stride: int, padding: int) -> tuple[int | None, ...]:
    found = tuple(None if size is None else (size + 2 * padding - kernel) // stride + 1 for size in shape.space)
    if any(size is not None and size < 1 for size in found):
        raise ValueError(f"a window of {kernel} with padding {padding} does not fit into maps of {shape}")
    return found
