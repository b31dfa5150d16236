"""SEW-ResNet: the join is of spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sbp_core import validation
from sbp_core.specs.layers import Conv, Neuron
from sbp_core.specs.networks.residual import ResidualNetworkSpec
from sbp_core.specs.structure import Residual, sequence


@dataclass(frozen=True, kw_only=True)
class SEWResNetSpec(ResidualNetworkSpec):
    """Spike-element-wise ResNet (Fang et al. 2021): ``g(x, neuron(body(x)))``, g the join.

    A block is conv3x3-BN-neuron-conv3x3-BN-neuron beside the identity (or conv1x1-BN-neuron).

    Attributes:
        join: "add", "and" or "iand", ``x * (1 - body(x))``. With "add" what comes out is no longer 0 or 1.
        depths: blocks per stage, ``layer1``, ``layer2``, ...; every stage but the first halves the map.
        widths: channels per stage.
        stem: "cifar", a 3x3 convolution of stride 1, or "imagenet", 7x7 of stride 2 and a 3x3 max pool of stride 2.
        num_classes: outputs of the head.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated.
        neuron: every neuron.
        norm: every normalisation: "batch", "tdbn" or "tebn".
        batch_norm_epsilon: added to the variance.
        batch_norm_momentum: weight of the new statistics in the running ones.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "sew_resnet"
    join: Literal["add", "and", "iand"] = "add"

    def __post_init__(self) -> None:
        validation.choice("join", self.join, ("add", "and", "iand"))
        super().__post_init__()

    def make_block(self, inputs: int, outputs: int, stride: int) -> Residual:
        """Return both paths, each with a neuron at its end."""
        neuron = Neuron(spec=self.neuron)
        return Residual(
            body=sequence(
                conv1=Conv(channels=outputs, stride=stride),
                bn1=self.make_norm(),
                neuron1=neuron,
                conv2=Conv(channels=outputs),
                bn2=self.make_norm(),
                neuron2=neuron,
            ),
            shortcut=self.make_projection(inputs, outputs, stride, neuron=neuron),
            join=self.join,
        )


def sew_resnet18_spec(**fields: Any) -> SEWResNetSpec:
    """Return SEW-ResNet-18 with the stem for ImageNet: 11.7 million parameters with 1,000 classes."""
    return SEWResNetSpec(**({"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512), "stem": "imagenet"} | fields))


def sew_resnet34_spec(**fields: Any) -> SEWResNetSpec:
    """Return SEW-ResNet-34 with the stem for ImageNet: 21.8 million parameters with 1,000 classes."""
    return SEWResNetSpec(**({"depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512), "stem": "imagenet"} | fields))


NARROW = {
    "sew_resnet18": {"depths": (1, 1), "widths": (8, 10), "join": "iand", "stem": "cifar"},
    "sew_resnet34": {"depths": (2, 1), "widths": (8, 10)},
}
ZOO = {"sew_resnet18": sew_resnet18_spec, "sew_resnet34": sew_resnet34_spec}
