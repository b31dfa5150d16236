"""From a layer's spec to a module: one table, and the containers that know which of their modules look at time.

Activations are ``(time, batch, channels, *space)``, or ``(batch, channels, *space)`` before an image is repeated.
Modules that do the same to every step are PyTorch's own, run on time and batch in one axis: batch norm's statistics are
over both, and what converts or quantises PyTorch's modules meets what it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_core.specs.structure import Named, Parallel, Residual, Sequence, placed_in
from sbp_torch.branches import pool
from sbp_torch.joins import join, split
from sbp_torch.neurons import LIF


class Step(NamedTuple):
    """How a container runs a module of its own.

    Attributes:
        stepwise: whether it does the same to every step, and takes time and batch in one axis.
        space: axes of space of its input.
    """

    stepwise: bool
    space: int


def build(layer: LayerSpec, path: str, shape: Shape) -> nn.Module:
    """Return the module of a layer.

    Args:
        layer: which.
        path: its name, for messages.
        shape: of its input.

    Raises:
        TypeError: a kind of layer that is not in :data:`LAYERS`.
    """
    make = LAYERS.get(type(layer))
    if make is None:
        raise TypeError(f"layer {path!r}: PyTorch has no module for the kind {layer.kind!r}; add one to LAYERS")
    return make(layer, path, shape)


def add_layers(module: nn.Module, steps: dict[str, Step], layers: Named, path: str, shape: Shape) -> Shape:
    """Add the modules of layers in sequence to ``module``, and how each is run to ``steps``; return the last shape."""
    for name, layer in layers:
        inner = f"{path}.{name}" if path else name
        module.add_module(name, build(layer, inner, shape))
        steps[name] = Step(layer.stepwise, len(shape.space))
        shape = _output(layer, inner, shape)
    return shape


def run(module: nn.Module, names: Any, steps: Mapping[str, Step], x: Tensor) -> Tensor:
    """Run modules of ``module`` in sequence, time and batch in one axis where they do not look at time."""
    lead = None
    for name in names:
        # one that a user put in looks at time, for all that is known
        stepwise, space = steps.get(name, (False, 0))
        if stepwise and lead is None and x.ndim == space + 3:
            lead, x = x.shape[:2], x.flatten(0, 1)
        elif not stepwise and lead is not None:
            x, lead = x.view(*lead, *x.shape[1:]), None
        x = getattr(module, name)(x)
    return x if lead is None else x.view(*lead, *x.shape[1:])


class Sequential(nn.Sequential):
    """Modules in sequence, each over time.

    Args:
        layer: what it is made of.
        path: its name, for messages.
        shape: of its input.
    """

    def __init__(self, layer: Sequence, path: str, shape: Shape) -> None:
        super().__init__()
        self._steps: dict[str, Step] = {}
        add_layers(self, self._steps, layer.layers, path, shape)

    def forward(self, input: Tensor) -> Tensor:
        """Run them."""
        return run(self, self._modules, self._steps, input)


class ResidualBlock(nn.Module):
    """Two paths that join: the modules of one stand in the block itself, the other is ``downsample``.

    Args:
        layer: what it is made of.
        path: its name, for messages.
        shape: of its input.
    """

    def __init__(self, layer: Residual, path: str, shape: Shape) -> None:
        super().__init__()
        self._steps: dict[str, Step] = {}
        end = add_layers(self, self._steps, layer.body.layers, path, shape)
        self._body = tuple(self._modules)
        self.downsample: nn.Module = nn.Identity()
        self._steps["downsample"] = Step(False, 0)
        identity = shape
        if layer.shortcut is not None:
            self.downsample = build(layer.shortcut, f"{path}.downsample", shape)
            self._steps["downsample"] = Step(layer.shortcut.stepwise, len(shape.space))
            identity = _output(layer.shortcut, f"{path}.downsample", shape)
        self._join = join(layer.joined)
        self._after: tuple[str, ...] = ()
        if layer.after is not None:
            add_layers(self, self._steps, layer.after.layers, path, layer.joined.output([identity, end]))
            self._after = tuple(name for name, _ in layer.after.layers)

    def forward(self, input: Tensor) -> Tensor:
        """Run both paths, join them, and run what follows."""
        body = run(self, self._body, self._steps, input)
        joined = self._join(run(self, ("downsample",), self._steps, input), body)
        return run(self, self._after, self._steps, joined)


class ParallelPaths(nn.Module):
    """Several paths of one input that join.

    Args:
        layer: what it is made of.
        path: its name, for messages.
        shape: of its input.
    """

    def __init__(self, layer: Parallel, path: str, shape: Shape) -> None:
        super().__init__()
        self._steps: dict[str, Step] = {}
        for name, part in layer.paths:
            add_layers(self, self._steps, ((name, part),), path, shape)
        self._paths = tuple(name for name, _ in layer.paths)
        self._join = join(layer.joined)

    def forward(self, input: Tensor) -> Tensor:
        """Run the paths, and join them."""
        return self._join(*(run(self, (name,), self._steps, input) for name in self._paths))


class GlobalPool(nn.Module):
    """The mean over space of ``(items, channels, *space)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(items, channels)``."""
        return pool(input)


class Repeat(nn.Module):
    """Repeats what comes from a still image over time; frames pass as they are.

    Args:
        time_steps: how often.
        space: axes of space of the input.
    """

    def __init__(self, time_steps: int, space: int) -> None:
        super().__init__()
        self.time_steps, self.space = time_steps, space

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(time, batch, channels, *space)``."""
        return input if input.ndim == self.space + 3 else input.expand(self.time_steps, *input.shape)

    def extra_repr(self) -> str:
        """Return what is printed."""
        return f"time_steps={self.time_steps}"


class TimeMean(nn.Module):
    """The mean over time."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(batch, ...)``."""
        return input.mean(0)


class TimeScale(nn.Module):
    """A learnt factor for each step.

    Args:
        time_steps: how many.

    Raises:
        ValueError: in a call: another number of steps.
    """

    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(time_steps))

    def forward(self, input: Tensor) -> Tensor:
        """Scale every step."""
        if input.shape[0] != self.weight.shape[0]:
            raise ValueError(f"there is a factor for each of {self.weight.shape[0]} steps, got {input.shape[0]} steps")
        return input * self.weight.view(-1, *[1] * (input.ndim - 1))

    def extra_repr(self) -> str:
        """Return what is printed."""
        return f"time_steps={len(self.weight)}"


class Dropout(nn.Dropout):
    """Dropout whose mask is the same at all steps of a sample.

    Args:
        rate: share of what is dropped.
        space: axes of space of the input.
    """

    def __init__(self, rate: float, space: int) -> None:
        super().__init__(rate)
        self.space = space

    def forward(self, input: Tensor) -> Tensor:
        """Drop, in training."""
        if not self.training or self.p == 0.0:
            return input
        one = input[0] if input.ndim == self.space + 3 else input
        return input * functional.dropout(torch.ones_like(one), self.p)


class Vote(nn.Module):
    """The mean of every ``voters`` neighbours.

    Args:
        voters: how many.
    """

    def __init__(self, voters: int) -> None:
        super().__init__()
        self.voters = voters

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(items, classes)``."""
        return split(input, -1, (-1, self.voters)).mean(-1)

    def extra_repr(self) -> str:
        """Return what is printed."""
        return f"voters={self.voters}"


class HeadSum(nn.Module):
    """The sum over each head's channels.

    Args:
        heads: parts of the channels.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, input: Tensor) -> Tensor:
        """Return ``(items, heads, *space)``."""
        return split(input, 1, (self.heads, -1)).sum(2)

    def extra_repr(self) -> str:
        """Return what is printed."""
        return f"heads={self.heads}"


def _convolution(layer: kinds.Conv, path: str, shape: Shape) -> nn.Module:
    make: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape.space) - 1]
    made: nn.Conv2d = make(
        shape.channels, layer.channels, layer.kernel, layer.stride, layer.pad, groups=layer.groups, bias=layer.bias
    )
    if layer.initial == "kaiming":
        nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def _linear(layer: kinds.Linear, path: str, shape: Shape) -> nn.Module:
    made = nn.Linear(shape.channels, layer.features, layer.bias)
    if layer.initial == "kaiming":
        nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return made


def _batch_norm(layer: kinds.BatchNorm, path: str, shape: Shape) -> nn.Module:
    make: Any = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[len(shape.space)]
    made: nn.BatchNorm2d = make(shape.channels, layer.epsilon, layer.momentum)
    nn.init.constant_(made.weight, layer.scale)
    return made


def _pool(layer: kinds.MaxPool | kinds.AvgPool, path: str, shape: Shape) -> nn.Module:
    largest: Any = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    mean: Any = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    make = (largest if isinstance(layer, kinds.MaxPool) else mean)[len(shape.space) - 1]
    made: nn.Module = make(layer.kernel, layer.step, layer.padding)
    return made


def _output(layer: LayerSpec, path: str, shape: Shape) -> Shape:
    for placed in placed_in(layer, path, shape):
        shape = placed.output
    return shape


#: The module of each kind of layer: a function of the layer, its path and the shape of its input.
LAYERS: dict[type[LayerSpec], Callable[[Any, str, Shape], nn.Module]] = {
    Sequence: Sequential,
    Residual: ResidualBlock,
    Parallel: ParallelPaths,
    kinds.Conv: _convolution,
    kinds.BatchNorm: _batch_norm,
    kinds.Linear: _linear,
    kinds.MaxPool: _pool,
    kinds.AvgPool: _pool,
    kinds.GlobalPool: lambda layer, path, shape: GlobalPool(),
    kinds.Flatten: lambda layer, path, shape: nn.Flatten(),
    kinds.Relu: lambda layer, path, shape: nn.ReLU(),
    kinds.Vote: lambda layer, path, shape: Vote(layer.voters),
    kinds.HeadSum: lambda layer, path, shape: HeadSum(layer.heads),
    kinds.Neuron: lambda layer, path, shape: LIF(layer.spec),
    kinds.Dropout: lambda layer, path, shape: Dropout(layer.rate, len(shape.space)),
    kinds.Repeat: lambda layer, path, shape: Repeat(layer.time_steps, len(shape.space)),
    kinds.TimeScale: lambda layer, path, shape: TimeScale(layer.time_steps),
    kinds.TimeMean: lambda layer, path, shape: TimeMean(),
}
