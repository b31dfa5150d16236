"""A spiking residual network as a spec: every adapter builds the same one, parameter for parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.surrogates import Rectangle

#: Chosen by measurement: see docs/demo.md.
NETWORK_NEURON = LIFSpec(surrogate=Rectangle(width=2.0))


class BlockShape(NamedTuple):
    """A residual block: channels in and out, and the stride of its first convolution."""

    inputs: int
    outputs: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the identity path needs a 1x1 convolution and batch norm to match the block's output."""
        return self.stride != 1 or self.inputs != self.outputs


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(Spec):
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
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: Literal["cifar", "imagenet"] = "cifar"
    num_classes: int = 10
    in_channels: int = 3
    time_steps: int = 4
    neuron: LIFSpec = NETWORK_NEURON
    batch_norm_epsilon: float = 1e-5
    batch_norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        self._set("depths", validation.counts("depths", self.depths))
        self._set("widths", validation.counts("widths", self.widths))
        if len(self.depths) != len(self.widths):
            raise ValueError(f"widths must be as many as depths, {len(self.depths)}; got {self.widths!r}")
        validation.choice("stem", self.stem, ("cifar", "imagenet"))
        for name in ("num_classes", "in_channels", "time_steps"):
            self._set(name, validation.count(name, getattr(self, name)))
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        self._set("batch_norm_epsilon", validation.positive("batch_norm_epsilon", self.batch_norm_epsilon))
        self._set("batch_norm_momentum", validation.within("batch_norm_momentum", self.batch_norm_momentum, 0.0, 1.0))

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

    @property
    def tap_channels(self) -> dict[str, int]:
        """Channels of each block that can be tapped."""
        return {"stem": self.widths[0]} | dict(zip(self.stage_names, self.widths, strict=True))

    def stages(self) -> list[tuple[str, list[BlockShape]]]:
        """Return each stage's name and blocks, in order."""
        stages: list[tuple[str, list[BlockShape]]] = []
        channels = self.widths[0]
        for index, (name, depth, width) in enumerate(zip(self.stage_names, self.depths, self.widths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(BlockShape(channels, width, stride))
                channels = width
            stages.append((name, blocks))
        return stages

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the canonical name and shape of every parameter and running statistic, in order.

        Convolutions are OIHW, the head is (classes, channels). Adapters read and write these names whatever their own
        layout is: ``stem.conv.weight``, ``stem.bn.weight`` / ``.bias`` / ``.running_mean`` / ``.running_var``,
        ``layer1.0.conv1.weight``, ``layer1.0.bn1.*``, ``layer1.0.conv2.weight``, ``layer1.0.bn2.*``,
        ``layer2.0.downsample.conv.weight``, ``layer2.0.downsample.bn.*``, ``head.weight``, ``head.bias``. A learnt
        decay adds a scalar: ``stem.neuron.decay_logit``, ``layer1.0.neuron1.decay_logit``,
        ``layer1.0.neuron2.decay_logit``.
        """
        kernel = 3 if self.stem == "cifar" else 7
        shapes: dict[str, tuple[int, ...]] = {}

        def convolution(name: str, outputs: int, inputs: int, size: int) -> None:
            shapes[f"{name}.weight"] = (outputs, inputs, size, size)

        def batch_norm(name: str, channels: int) -> None:
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{name}.{part}"] = (channels,)

        def neuron(name: str) -> None:
            if self.neuron.learn_decay:
                shapes[f"{name}.decay_logit"] = ()

        convolution("stem.conv", self.widths[0], self.in_channels, kernel)
        batch_norm("stem.bn", self.widths[0])
        neuron("stem.neuron")
        for stage, blocks in self.stages():
            for index, block in enumerate(blocks):
                prefix = f"{stage}.{index}"
                convolution(f"{prefix}.conv1", block.outputs, block.inputs, 3)
                batch_norm(f"{prefix}.bn1", block.outputs)
                neuron(f"{prefix}.neuron1")
                convolution(f"{prefix}.conv2", block.outputs, block.outputs, 3)
                batch_norm(f"{prefix}.bn2", block.outputs)
                if block.projects:
                    convolution(f"{prefix}.downsample.conv", block.outputs, block.inputs, 1)
                    batch_norm(f"{prefix}.downsample.bn", block.outputs)
                neuron(f"{prefix}.neuron2")
        shapes["head.weight"] = (self.num_classes, self.widths[-1])
        shapes["head.bias"] = (self.num_classes,)
        return shapes


def resnet18_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-18: depths (2, 2, 2, 2), widths (64, 128, 256, 512) unless ``fields`` say otherwise."""
    return ResNetSpec(**({"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512)} | fields))


def resnet34_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-34: depths (3, 4, 6, 3), widths (64, 128, 256, 512) unless ``fields`` say otherwise."""
    return ResNetSpec(**({"depths": (3, 4, 6, 3), "widths": (64, 128, 256, 512)} | fields))
