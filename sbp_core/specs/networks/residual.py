"""What residual networks share: a stem, stages of blocks, a head."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal, Self

from sbp_core import validation
from sbp_core.specs.layers import Conv, GlobalPool, LayerSpec, Linear, MaxPool, Neuron, Repeat, TimeMean
from sbp_core.specs.networks.base import NetworkSpec, in_proportion
from sbp_core.specs.networks.norm import NORMS, Norm, normalisation
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Residual, Sequence, numbered, sequence
from sbp_core.specs.surrogates import Rectangle

#: Chosen by measurement: see docs/demo.md.
NETWORK_NEURON = LIFSpec(surrogate=Rectangle(width=2.0))


@dataclass(frozen=True, kw_only=True)
class ResidualNetworkSpec(NetworkSpec, abstract=True):
    """A residual network of basic blocks: two 3x3 convolutions each.

    Attributes:
        depths: blocks per stage, ``layer1``, ``layer2``, ...; every stage but the first halves the map.
        widths: channels per stage.
        stem: "cifar", a 3x3 convolution of stride 1, or "imagenet", 7x7 of stride 2 and a 3x3 max pool of stride 2.
        neuron: every neuron.
        norm: every normalisation: "batch", "tdbn" or "tebn".
        batch_norm_epsilon: added to the variance.
        batch_norm_momentum: weight of the new statistics in the running ones.
    """

    depths: tuple[int, ...] = field(kw_only=True)
    widths: tuple[int, ...] = field(kw_only=True)
    stem: Literal["cifar", "imagenet"] = "cifar"
    neuron: LIFSpec = NETWORK_NEURON
    norm: Norm = "batch"
    batch_norm_epsilon: float = 1e-5
    batch_norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        self._set("depths", validation.counts("depths", self.depths))
        self._set("widths", validation.counts("widths", self.widths))
        if len(self.depths) != len(self.widths):
            raise ValueError(f"widths must be as many as depths, {len(self.depths)}; got {self.widths!r}")
        validation.choice("stem", self.stem, ("cifar", "imagenet"))
        validation.choice("norm", self.norm, NORMS)
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

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels in its first stage, the others in proportion."""
        return self.replace(widths=in_proportion(self.widths, width, self.widths[0]))

    def build(self) -> Sequence:
        """Return stem, stages and head."""
        parts: dict[str, LayerSpec] = {"stem": self.make_stem(self.stem_width)}
        channels = self.stem_width
        for index, (name, depth, width) in enumerate(zip(self.stage_names, self.depths, self.widths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = (self.first_stride if index == 0 else 2) if position == 0 else 1
                blocks.append(self.make_block(channels, width, stride))
                channels = width
            parts[name] = numbered(*blocks)
        return sequence(parts | self.make_head())

    @property
    def stem_width(self) -> int:
        """Channels of the stem."""
        return self.widths[0]

    @property
    def first_stride(self) -> int:
        """Stride of the first stage."""
        return 1

    def make_stem(self, width: int, *, fires: bool = True) -> Sequence:
        """Return the encoder: of a still image it runs once, up to its neuron."""
        large = self.stem == "imagenet"
        repeat = {"repeat": Repeat(time_steps=self.time_steps)}
        layers: dict[str, LayerSpec] = {
            "conv": Conv(channels=width, kernel=7 if large else 3, stride=2 if large else 1)
        }
        # TEBN's factors are of steps
        layers |= (repeat | {"bn": self.make_norm()}) if self.norm == "tebn" else ({"bn": self.make_norm()} | repeat)
        if fires:
            layers["neuron"] = Neuron(spec=self.neuron)
        return sequence(layers | ({"pool": MaxPool(kernel=3, stride=2, padding=1)} if large else {}))

    @abstractmethod
    def make_block(self, inputs: int, outputs: int, stride: int) -> Residual:
        """Return a block."""

    def make_head(self) -> dict[str, LayerSpec]:
        """Return what follows the stages."""
        return {"pool": GlobalPool(), "head": Linear(features=self.num_classes), "mean": TimeMean()}

    def make_norm(self, scale: float = 1.0) -> LayerSpec:
        """Return a normalisation, whose scale starts at ``scale``."""
        return normalisation(
            self.norm,
            self.neuron,
            self.time_steps,
            scale=scale,
            epsilon=self.batch_norm_epsilon,
            momentum=self.batch_norm_momentum,
        )

    def make_projection(self, inputs: int, outputs: int, stride: int, **after: LayerSpec) -> Sequence | None:
        """Return the 1x1 convolution of the identity path, where a block changes the map or its channels."""
        if stride == 1 and inputs == outputs:
            return None
        path: dict[str, LayerSpec] = {"conv": Conv(channels=outputs, kernel=1, stride=stride), "bn": self.make_norm()}
        return sequence(path | after)
