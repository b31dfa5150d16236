"""7B-Net: seven SEW blocks with a pool behind each, for DVS128 Gesture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from sbp_core import validation
from sbp_core.presets import spikingjelly_lif
from sbp_core.specs.joins import JoinSpec
from sbp_core.specs.layers import BatchNorm, Conv, Flatten, LayerSpec, Linear, MaxPool, Neuron, Repeat, TimeMean
from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.networks.custom import image_size
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Residual, Sequence, sequence


@dataclass(frozen=True, kw_only=True)
class SEWDVSSpec(NetworkSpec):
    """SEW blocks of one width, each with a 2x2 max pool (Fang et al. 2021, Table 4: 7B-Net, 0.13 million parameters).

    Attributes:
        width: channels throughout.
        blocks: how many, ``block1``, ``block2``, ...
        join: "add", "and" or "iand".
        size: height and width of the input, which the pools halve ``blocks`` times.
        num_classes: outputs.
        in_channels: channels of the input, the polarities.
        time_steps: steps of event frames.
        neuron: every neuron.

    Raises:
        ValueError: a field out of range, or an image too small for the pools.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "sew_dvs"
    width: int = 32
    blocks: int = 7
    join: Literal["add", "and", "iand"] = "add"
    size: tuple[int, int] = (128, 128)
    num_classes: int = 11
    in_channels: int = 2
    time_steps: int = 16
    neuron: LIFSpec = spikingjelly_lif(learn_decay=True, detach_reset=True)

    def __post_init__(self) -> None:
        for name in ("width", "blocks"):
            self._set(name, validation.count(name, getattr(self, name)))
        JoinSpec.of(self.join)
        self._set("size", image_size(self.size))
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        super().__post_init__()

    @property
    def image_size(self) -> tuple[int | None, ...]:
        """Height and width of the input."""
        return self.size

    @property
    def default_taps(self) -> tuple[str, ...]:
        """Every second block but the last."""
        return tuple(f"block{index}" for index in range(2, self.blocks, 2)) or ("stem",)

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels throughout."""
        return self.replace(width=width)

    def build(self) -> Sequence:
        """Return the stem, the blocks and the head."""
        parts: dict[str, LayerSpec] = {"stem": self._convolution(repeats=True)}
        for index in range(1, self.blocks + 1):
            block = Residual(body=sequence(first=self._convolution(), second=self._convolution()), join=self.join)
            parts[f"block{index}"] = sequence(sew=block, pool=MaxPool(kernel=2))
        return sequence(parts, flat=Flatten(), head=Linear(features=self.num_classes), mean=TimeMean())

    def _convolution(self, *, repeats: bool = False) -> Sequence:
        layers: dict[str, LayerSpec] = {"conv": Conv(channels=self.width), "bn": BatchNorm()}
        if repeats:
            layers["repeat"] = Repeat(time_steps=self.time_steps)
        return sequence(layers, neuron=Neuron(spec=self.neuron))


def sew_dvs_spec(**fields: Any) -> SEWDVSSpec:
    """Return 7B-Net unless ``fields`` say otherwise."""
    return SEWDVSSpec(**fields)


NARROW = {"sew_dvs": {"width": 4, "blocks": 2, "size": (8, 8)}}
ZOO = {"sew_dvs": sew_dvs_spec}
