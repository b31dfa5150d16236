"""Networks of a :class:`~sbp_core.NetworkSpec` as modules, channels first."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sbp_core import validation
from sbp_core.inputs import network_time_axis
from sbp_core.specs.networks import NetworkSpec, network_spec, resnet18_spec, resnet34_spec
from sbp_core.taps import TimeAxis
from sbp_torch.layers import Step, add_layers, run


class Network(nn.Module):
    """A spiking network: nested modules, named as the layers of its spec.

    Its parts, the submodules ``stem``, ``layer1``, ... of a ResNet say, give ``(time, batch, channels, *space)``, and
    can be tapped.

    Args:
        spec: the network.
        per_step: give the logits of each step, ``(time, batch, num_classes)``, and not their average.

    Attributes:
        time_axis: where time is in each part's output, for a :class:`Shortcut`.

    Raises:
        TypeError: not a spec, or ``per_step`` not a bool; in a call: integer images.
        ValueError: ``per_step`` of a network that does not end in a mean over time; in a call: images of another rank,
            with other channels than the spec's or too small, with no time step, or whose time is not where it should
            be.

    Example:
        >>> import torch
        >>> net = resnet18(widths=(4, 4, 8, 8), time_steps=2)
        >>> net(torch.rand(3, 3, 8, 8)).shape
        torch.Size([3, 10])
    """

    time_axis: ClassVar[TimeAxis] = 0

    def __init__(self, spec: NetworkSpec, per_step: bool = False) -> None:
        super().__init__()
        if not isinstance(spec, NetworkSpec):
            raise TypeError(f"spec must be a NetworkSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec = spec
        self.per_step = validation.flag("per_step", per_step)
        self._steps: dict[str, Step] = {}
        add_layers(self, self._steps, spec.layers_of(per_step=per_step), "", spec.input_shape(timed=not spec.repeats))

    def forward(self, images: Tensor, *, time_axis: Literal[0, 1] | None = None) -> Tensor:
        """Return the logits, ``(batch, num_classes)``, or ``(time, batch, num_classes)`` if they are ``per_step``.

        Args:
            images: still images, ``(batch, channels, height, width)``, each encoded once and repeated
                ``spec.time_steps`` times; or event frames, ``(time, batch, channels, height, width)``, each encoded.
            time_axis: where time is in event frames, 0 or 1; needed where they are batch first, as a DataLoader
                collates them, have another number of steps than the spec, or as many samples as steps.
        """
        place = network_time_axis(
            self.spec,
            tuple(images.shape),
            str(images.dtype),
            channels="first",
            time_axis=time_axis,
            sizes=not torch.compiler.is_compiling(),
        )
        x = images if place is None else images.movedim(place, 0)
        return run(self, self._modules, self._steps, x)


#: A :class:`Network` of a :class:`~sbp_core.ResNetSpec`, under the name that it had first.
ResNet = Network


def network(name: str | NetworkSpec, per_step: bool = False, **fields: Any) -> Network:
    """Return a network of the zoo by its name, or of a spec.

    Args:
        name: one of :data:`sbp_core.specs.networks.ZOO`'s, or a spec.
        per_step: give the logits of each step.
        **fields: of the spec, what is to be otherwise.

    Raises:
        ValueError: an unknown name, or a field out of range.
        TypeError: an unknown field, or one of the wrong type.

    Example:
        >>> network("resnet20", num_classes=100).spec.parameter_count
        278324
    """
    spec = name.replace(**fields) if isinstance(name, NetworkSpec) else network_spec(name, **fields)
    return Network(spec, per_step)


def resnet18(num_classes: int = 10, time_steps: int = 4, per_step: bool = False, **fields: Any) -> Network:
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
    return Network(resnet18_spec(num_classes=num_classes, time_steps=time_steps, **fields), per_step)


def resnet34(num_classes: int = 10, time_steps: int = 4, per_step: bool = False, **fields: Any) -> Network:
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
    return Network(resnet34_spec(num_classes=num_classes, time_steps=time_steps, **fields), per_step)
