"""A spiking residual network: the paper's, as every adapter has it from the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from sbp_core import validation
from sbp_core.specs.layers import BatchNorm, Conv, GlobalPool, LayerSpec, Linear, MaxPool, Neuron, Repeat, TimeMean
from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Residual, Sequence, numbered, sequence
from sbp_core.specs.surrogates import Rectangle

#: Chosen by measurement: see docs/demo.md.
NETWORK_NEURON = LIFSpec(surrogate=Rectangle(width=2.0))


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(NetworkSpec):
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
        batch_norm_epsilon: added to the variance.
        batch_norm_momentum: weight of the new statistics in the running ones.

    Raises:
        ValueError: a field out of range, or depths and widths of different lengths.
        TypeError: a field of the wrong type.

    Example:
        >>> resnet18_spec(num_classes=10).layers
        18
    """

    kind: ClassVar[str] = "resnet"
    depths: tuple[int, ...] = field(kw_only=True)
    widths: tuple[int, ...] = field(kw_only=True)
    stem: Literal["cifar", "imagenet"] = "cifar"
    neuron: LIFSpec = NETWORK_NEURON
    batch_norm_epsilon: float = 1e-5
    batch_norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        self._set("depths", validation.counts("depths", self.depths))
        self._set("widths", validation.counts("widths", self.widths))
        if len(self.depths) != len(self.widths):
            raise ValueError(f"widths must be as many as depths, {len(self.depths)}; got {self.widths!r}")
        validation.choice("stem", self.stem, ("cifar", "imagenet"))
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        self._set("batch_norm_epsilon", validation.positive("batch_norm_epsilon", self.batch_norm_epsilon))
        self._set("batch_norm_momentum", validation.within("batch_norm_momentum", self.batch_norm_momentum, 0.0, 1.0))
        super().__post_init__()

    @property
    def layers(self) -> int:
        """Layers with weights, as the name counts them: stem, two per block, head."""
        return 2 + 2 * sum(self.depths)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the residual stages, ``layer1``, ``layer2``, ..."""
        return tuple(f"layer{index + 1}" for index in range(len(self.depths)))

    @property
    def default_taps(self) -> tuple[str, ...]:
        """Every stage but the last: where branches tap unless told otherwise."""
        return self.stage_names[:-1]

    def build(self) -> Sequence:
        """Return stem, stages and head."""
        large = self.stem == "imagenet"
        stem = {
            "conv": Conv(channels=self.widths[0], kernel=7 if large else 3, stride=2 if large else 1),
            "bn": self._norm(),
            "repeat": Repeat(time_steps=self.time_steps),
            "neuron": Neuron(spec=self.neuron),
        } | ({"pool": MaxPool(kernel=3, stride=2, padding=1)} if large else {})
        parts: dict[str, LayerSpec] = {"stem": sequence(stem)}
        channels = self.widths[0]
        for index, (name, depth, width) in enumerate(zip(self.stage_names, self.depths, self.widths, strict=True)):
            blocks = []
            for position in range(depth):
                blocks.append(self._block(channels, width, 2 if index > 0 and position == 0 else 1))
                channels = width
            parts[name] = numbered(*blocks)
        return sequence(parts, pool=GlobalPool(), head=Linear(features=self.num_classes), mean=TimeMean())

    def _block(self, inputs: int, outputs: int, stride: int) -> Residual:
        projects = stride != 1 or inputs != outputs
        return Residual(
            body=sequence(
                conv1=Conv(channels=outputs, stride=stride),
                bn1=self._norm(),
                neuron1=Neuron(spec=self.neuron),
                conv2=Conv(channels=outputs),
                bn2=self._norm(),
            ),
            shortcut=sequence(conv=Conv(channels=outputs, kernel=1, stride=stride), bn=self._norm())
            if projects
            else None,
            after=sequence(neuron2=Neuron(spec=self.neuron)),
        )

    def _norm(self) -> BatchNorm:
        return BatchNorm(epsilon=self.batch_norm_epsilon, momentum=self.batch_norm_momentum)


def resnet18_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-18: depths (2, 2, 2, 2), widths (64, 128, 256, 512) unless ``fields`` say otherwise."""
    return ResNetSpec(**({"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512)} | fields))


def resnet34_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-34: depths (3, 4, 6, 3), widths (64, 128, 256, 512) unless ``fields`` say otherwise."""
    return ResNetSpec(**({"depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512)} | fields))


def resnet19_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-19 as the field has it (Zheng et al. 2021): depths (3, 3, 2), widths (128, 256, 512)."""
    return ResNetSpec(**({"depths": (3, 3, 2), "widths": (128, 256, 512)} | fields))


def resnet20_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-20 for CIFAR (He et al. 2016): depths (3, 3, 3), widths (16, 32, 64)."""
    return ResNetSpec(**({"depths": (3, 3, 3), "widths": (16, 32, 64)} | fields))


ZOO = {"resnet18": resnet18_spec, "resnet19": resnet19_spec, "resnet20": resnet20_spec, "resnet34": resnet34_spec}
