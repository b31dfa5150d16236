"""The spiking ResNet of a :class:`~sbp_core.ResNetSpec` as a module, channels first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sbp_core import validation
from sbp_core.inputs import check_floating, frames_time_axis
from sbp_core.specs.networks import BlockShape, ResNetSpec, resnet18_spec, resnet34_spec
from sbp_core.taps import TimeAxis
from sbp_torch.branches import pool
from sbp_torch.neurons import LIF


class ResNet(nn.Module):
    """A spiking ResNet; conventions and parameter names: :class:`~sbp_core.ResNetSpec`.

    The submodules ``stem``, ``layer1``, ``layer2``, ... give each stage's output, ``(time, batch, channels, height,
    width)``, and can be tapped; ``head`` is the linear layer, from channels to classes.

    Args:
        spec: the network.
        per_step: give the logits of each step, ``(time, batch, num_classes)``, and not their average.

    Attributes:
        time_axis: where time is in each stage's output, for a :class:`Shortcut`.

    Raises:
        TypeError: not a spec, or ``per_step`` not a bool; in a call: integer images.
        ValueError: in a call: images of another rank, with other channels than the spec's, with no time step, or whose
            time is not where it should be.

    Example:
        >>> import torch
        >>> net = resnet18(widths=(4, 4, 8, 8), time_steps=2)
        >>> net(torch.rand(3, 3, 8, 8)).shape
        torch.Size([3, 10])
    """

    time_axis: ClassVar[TimeAxis] = 0

    def __init__(self, spec: ResNetSpec, per_step: bool = False) -> None:
        super().__init__()
        if not isinstance(spec, ResNetSpec):
            raise TypeError(f"spec must be a ResNetSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec = spec
        self.per_step = validation.flag("per_step", per_step)
        self.stem = _Stem(spec)
        for name, blocks in spec.stages():
            self.add_module(name, nn.Sequential(*(_Block(spec, block) for block in blocks)))
        self.head = nn.Linear(spec.widths[-1], spec.num_classes)

    def forward(self, images: Tensor, *, time_axis: Literal[0, 1] | None = None) -> Tensor:
        """Return the logits, ``(batch, num_classes)``, or ``(time, batch, num_classes)`` if they are ``per_step``.

        Args:
            images: still images, ``(batch, channels, height, width)``, each encoded once and repeated
                ``spec.time_steps`` times; or event frames, ``(time, batch, channels, height, width)``, each encoded.
            time_axis: where time is in event frames, 0 or 1; needed where they are batch first, as a DataLoader
                collates them, have another number of steps than the spec, or as many samples as steps.
        """
        x = self.stem(self._checked(images, time_axis))
        for name in self.spec.stage_names:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.head(pool(x.flatten(0, 1))).view(x.shape[0], x.shape[1], -1)
        return logits if self.per_step else logits.mean(0)

    def _checked(self, images: Tensor, time_axis: Literal[0, 1] | None) -> Tensor:
        shape = tuple(images.shape)
        place = frames_time_axis(shape, time_steps=self.spec.time_steps, time_axis=time_axis)
        if place is not None and shape[place] == 0:
            raise ValueError(f"images must have at least one time step, got shape {shape}")
        if shape[-3] != self.spec.in_channels:
            raise ValueError(f"images must have {self.spec.in_channels} channels, got {shape[-3]} in shape {shape}")
        check_floating("images", str(images.dtype))
        return images if place is None else images.movedim(place, 0)


def resnet18(num_classes: int = 10, time_steps: int = 4, per_step: bool = False, **fields: Any) -> ResNet:
    """Return a spiking ResNet-18, stages of 64, 128, 256 and 512 channels unless ``fields`` say otherwise.

    Args:
        num_classes: outputs of the head.
        time_steps: how often a still image is repeated.
        per_step: give the logits of each step, ``(time, batch, num_classes)``.
        **fields: other fields of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range.
        TypeError: an unknown field, or one of the wrong type.
    """
    return ResNet(resnet18_spec(num_classes=num_classes, time_steps=time_steps, **fields), per_step)


def resnet34(num_classes: int = 10, time_steps: int = 4, per_step: bool = False, **fields: Any) -> ResNet:
    """Return a spiking ResNet-34, stages of 64, 128, 256 and 512 channels unless ``fields`` say otherwise.

    Args:
        num_classes: outputs of the head.
        time_steps: how often a still image is repeated.
        per_step: give the logits of each step, ``(time, batch, num_classes)``.
        **fields: other fields of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range.
        TypeError: an unknown field, or one of the wrong type.
    """
    return ResNet(resnet34_spec(num_classes=num_classes, time_steps=time_steps, **fields), per_step)


class _Stem(nn.Module):
    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        small = spec.stem == "cifar"
        self.time_steps = spec.time_steps
        self.conv = _convolution(spec.in_channels, spec.widths[0], 3 if small else 7, 1 if small else 2)
        self.bn = _batch_norm(spec, spec.widths[0])
        self.neuron = LIF(spec.neuron)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            current = self.bn(self.conv(images)).expand(self.time_steps, -1, -1, -1, -1)
        else:
            current = _each_step(lambda x: self.bn(self.conv(x)), images)
        return _each_step(self.pool, self.neuron(current))


class _Block(nn.Module):
    def __init__(self, spec: ResNetSpec, shape: BlockShape) -> None:
        super().__init__()
        self.conv1 = _convolution(shape.inputs, shape.outputs, 3, shape.stride)
        self.bn1 = _batch_norm(spec, shape.outputs)
        self.neuron1 = LIF(spec.neuron)
        self.conv2 = _convolution(shape.outputs, shape.outputs, 3)
        self.bn2 = _batch_norm(spec, shape.outputs)
        self.downsample: nn.Module = nn.Identity()
        if shape.projects:
            self.downsample = nn.Sequential()
            self.downsample.add_module("conv", _convolution(shape.inputs, shape.outputs, 1, shape.stride))
            self.downsample.add_module("bn", _batch_norm(spec, shape.outputs))
        self.neuron2 = LIF(spec.neuron)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.neuron1(_each_step(lambda x: self.bn1(self.conv1(x)), x))
        residual = _each_step(lambda x: self.bn2(self.conv2(x)), hidden)
        spikes: Tensor = self.neuron2(residual + _each_step(self.downsample, x))
        return spikes


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution


def _batch_norm(spec: ResNetSpec, channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, spec.batch_norm_epsilon, spec.batch_norm_momentum)


def _each_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # time and batch merged: one convolution for all steps, and batch norm's statistics over both
    merged = function(x.flatten(0, 1))
    return merged.view(*x.shape[:2], *merged.shape[1:])
