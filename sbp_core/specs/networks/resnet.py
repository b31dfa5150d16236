"""A spiking ResNet: a neuron after every join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sbp_core import validation
from sbp_core.specs.layers import Conv, GlobalPool, LayerSpec, Linear, Neuron, TimeMean
from sbp_core.specs.networks.residual import NETWORK_NEURON, ResidualNetworkSpec
from sbp_core.specs.structure import Residual, sequence


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(ResidualNetworkSpec):
    """A spiking ResNet of basic blocks. One convention for all frameworks; conformance holds every adapter to it.

    The image is encoded once (stem convolution and batch norm) and repeated ``time_steps`` times into the stem's
    neuron; "imagenet" pools the spikes after it. A block is conv3x3-BN-LIF-conv3x3-BN, plus the identity (or
    conv1x1-BN), then LIF. The head is global average pooling and a linear layer at each step, averaged over time.
    Convolutions have no bias and are padded alike on all sides (3x3: 1, 7x7: 3). Batch norm takes its statistics over
    time, batch and space; its running variance is unbiased.

    Attributes:
        depths: blocks per stage, ``layer1``, ``layer2``, ...; every stage but the first halves the map.
        widths: channels per stage.
        stem: "cifar", a 3x3 convolution of stride 1, or "imagenet", 7x7 of stride 2 and a 3x3 max pool of stride 2.
        num_classes: outputs of the head.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated.
        neuron: the neuron after every batch norm.
        norm: "batch"; "tdbn", whose scale starts at the threshold; "tebn", which also learns a factor for each step.
        batch_norm_epsilon: added to the variance.
        batch_norm_momentum: weight of the new statistics in the running ones.
        hidden: units of a hidden layer in the head; None for none.
        hidden_initial: how its matrix starts; with "uniform", as in the source, it does not fire at first.

    Raises:
        ValueError: a field out of range, or depths and widths of different lengths.
        TypeError: a field of the wrong type.

    Example:
        >>> resnet18_spec(num_classes=10).layers
        18
    """

    kind: ClassVar[str] = "resnet"
    hidden: int | None = None
    hidden_initial: Literal["kaiming", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        if self.hidden is not None:
            self._set("hidden", validation.count("hidden", self.hidden))
        super().__post_init__()

    @property
    def layers(self) -> int:
        """Layers with weights, as the name counts them: stem, two per block, head."""
        return super().layers + (self.hidden is not None)

    def make_block(self, inputs: int, outputs: int, stride: int) -> Residual:
        """Return conv-BN-neuron-conv-BN beside the identity, and a neuron after their sum."""
        return Residual(
            body=sequence(
                conv1=Conv(channels=outputs, stride=stride),
                bn1=self.make_norm(),
                neuron1=Neuron(spec=self.neuron),
                conv2=Conv(channels=outputs),
                bn2=self.make_norm(),
            ),
            shortcut=self.make_projection(inputs, outputs, stride),
            after=sequence(neuron2=Neuron(spec=self.neuron)),
        )

    def make_head(self) -> dict[str, LayerSpec]:
        """Return the pool, the hidden layer if there is one, the linear layer, and the mean over time."""
        if self.hidden is None:
            return super().make_head()
        hidden = sequence(fc=Linear(features=self.hidden, initial=self.hidden_initial), neuron=Neuron(spec=self.neuron))
        return {
            "pool": GlobalPool(),
            "hidden": hidden,
            "head": Linear(features=self.num_classes),
            "mean": TimeMean(),
        }


def resnet18_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-18: depths (2, 2, 2, 2), widths (64, 128, 256, 512) unless ``fields`` say otherwise."""
    return ResNetSpec(**({"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512)} | fields))


def resnet34_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-34: depths (3, 4, 6, 3), widths (64, 128, 256, 512) unless ``fields`` say otherwise."""
    return ResNetSpec(**({"depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512)} | fields))


def resnet19_spec(**fields: Any) -> ResNetSpec:
    """Return the field's wide ResNet-19 (Zheng et al. 2021): depths (3, 3, 2), widths (128, 256, 512), hidden 256."""
    given: dict[str, Any] = {"depths": (3, 3, 2), "widths": (128, 256, 512), "hidden": 256}
    return ResNetSpec(**(given | fields))


def resnet20_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-20 for CIFAR (He et al. 2016): depths (3, 3, 3), widths (16, 32, 64)."""
    return ResNetSpec(**({"depths": (3, 3, 3), "widths": (16, 32, 64)} | fields))


ZOO = {"resnet18": resnet18_spec, "resnet19": resnet19_spec, "resnet20": resnet20_spec, "resnet34": resnet34_spec}
NARROW = {
    "resnet18": {"depths": (2, 1), "widths": (8, 10)},
    "resnet19": {"depths": (1, 1), "widths": (8, 10), "hidden": 5, "norm": "tdbn"},
    "resnet20": {"depths": (1, 1), "widths": (8, 10), "norm": "tebn"},
    "resnet34": {"depths": (1, 1, 1), "widths": (8, 8, 10)},
}

__all__ = [
    "NARROW",
    "NETWORK_NEURON",
    "ZOO",
    "ResNetSpec",
    "resnet18_spec",
    "resnet19_spec",
    "resnet20_spec",
    "resnet34_spec",
]
