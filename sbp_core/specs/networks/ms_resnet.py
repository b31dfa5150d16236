"""MS-ResNet and Max-ResNet: the join is of potentials, the neurons stand before the convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from sbp_core import validation
from sbp_core.presets import spikingjelly_lif, spikingjelly_rect
from sbp_core.specs.layers import Conv, LayerSpec, MaxPool, Neuron
from sbp_core.specs.networks.base import in_proportion
from sbp_core.specs.networks.residual import ResidualNetworkSpec
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Residual, Sequence, sequence

#: Of MS-ResNet's authors: decay 0.25, threshold 0.5, a rectangle, the reset detached.
MS_NEURON = spikingjelly_lif(
    tau=4.0 / 3.0, decay_input=False, v_threshold=0.5, detach_reset=True, surrogate=spikingjelly_rect(2.0)
)
#: Of Max-Former's authors.
MAX_NEURON = spikingjelly_lif(tau=2.0, detach_reset=True)


@dataclass(frozen=True, kw_only=True)
class MSResNetSpec(ResidualNetworkSpec):
    """Membrane-shortcut ResNet (Hu et al. 2021), and Max-ResNet (Max-Former's, Fang et al. 2025).

    A block is neuron-conv3x3-BN-neuron-conv3x3-BN beside the identity (or conv1x1-BN); a neuron stands before the head.

    Attributes:
        downsample: "stride", or "max": a 3x3 max pool behind the first convolution halves the map (Max-ResNet).
        scale: what the scale of every batch norm starts at.
        residual_scale: what that of a block's last one starts at; 0 starts the block as the identity.
        stem_channels: of the stem; those of the first stage unless given.
        first_stage_stride: 2 where the first stage halves the map too.
        depths: blocks per stage, ``layer1``, ``layer2``, ...
        widths: channels per stage.
        stem: "cifar", a 3x3 convolution of stride 1, or "imagenet", 7x7 of stride 2.
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

    kind: ClassVar[str] = "ms_resnet"
    neuron: LIFSpec = MS_NEURON
    downsample: Literal["stride", "max"] = "stride"
    scale: float = 0.5
    residual_scale: float = 0.0
    stem_channels: int | None = None
    first_stage_stride: int = 1

    def __post_init__(self) -> None:
        validation.choice("downsample", self.downsample, ("stride", "max"))
        for name in ("scale", "residual_scale"):
            self._set(name, validation.finite(name, getattr(self, name)))
        if self.stem_channels is not None:
            self._set("stem_channels", validation.count("stem_channels", self.stem_channels))
        self._set("first_stage_stride", validation.count("first_stage_stride", self.first_stage_stride))
        super().__post_init__()

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels in its first stage, the others in proportion."""
        narrow = super().with_width(width)
        if self.stem_channels is None:
            return narrow
        return narrow.replace(stem_channels=in_proportion((self.stem_channels,), width, self.widths[0])[0])

    @property
    def stem_width(self) -> int:
        """Channels of the stem."""
        return self.widths[0] if self.stem_channels is None else self.stem_channels

    @property
    def first_stride(self) -> int:
        """Stride of the first stage."""
        return self.first_stage_stride

    def make_stem(self, width: int, *, fires: bool = False) -> Sequence:
        """Return convolution and batch norm, without a neuron or a pool."""
        stem = super().make_stem(width, fires=fires)
        return Sequence(layers=tuple(pair for pair in stem.layers if pair[0] != "pool"))

    def make_norm(self, scale: float | None = None) -> LayerSpec:
        """Return a normalisation."""
        return super().make_norm(self.scale if scale is None else scale)

    def make_block(self, inputs: int, outputs: int, stride: int) -> Residual:
        """Return a neuron before each convolution, and nothing after the sum."""
        pools = self.downsample == "max" and stride != 1
        body: dict[str, LayerSpec] = {
            "neuron1": Neuron(spec=self.neuron),
            "conv1": Conv(channels=outputs, stride=1 if pools else stride),
            "bn1": self.make_norm(),
        }
        if pools:
            body["pool"] = MaxPool(kernel=3, stride=stride, padding=1)
        return Residual(
            body=sequence(
                body,
                neuron2=Neuron(spec=self.neuron),
                conv2=Conv(channels=outputs),
                bn2=self.make_norm(self.residual_scale),
            ),
            shortcut=self.make_projection(inputs, outputs, stride),
        )

    def make_head(self) -> dict[str, LayerSpec]:
        """Return a neuron before the pool."""
        return {"last": sequence(neuron=Neuron(spec=self.neuron))} | super().make_head()


def ms_resnet18_spec(**fields: Any) -> MSResNetSpec:
    """Return MS-ResNet-18 with the stem for ImageNet: stage 1 halves the map, in place of the stem's pool."""
    return _imagenet((2, 2, 2, 2), fields)


def ms_resnet34_spec(**fields: Any) -> MSResNetSpec:
    """Return MS-ResNet-34 with the stem for ImageNet: stage 1 halves the map, in place of the stem's pool."""
    return _imagenet((3, 4, 6, 3), fields)


def max_resnet18_spec(**fields: Any) -> MSResNetSpec:
    """Return Max-Former's Max-ResNet-18 for CIFAR: depths (3, 3, 2), widths (128, 256, 512), a stem of 64."""
    given: dict[str, Any] = {
        "depths": (3, 3, 2),
        "widths": (128, 256, 512),
        "stem_channels": 64,
        "neuron": MAX_NEURON,
        "downsample": "max",
        "scale": 1.0,
        "residual_scale": 1.0,
    }
    return MSResNetSpec(**(given | fields))


def _imagenet(depths: tuple[int, ...], fields: dict[str, Any]) -> MSResNetSpec:
    given: dict[str, Any] = {
        "depths": depths,
        "widths": (64, 128, 256, 512),
        "stem": "imagenet",
        "first_stage_stride": 2,
    }
    return MSResNetSpec(**(given | fields))


NARROW = {
    "ms_resnet18": {"depths": (1, 1), "widths": (8, 10), "residual_scale": 0.5},
    "ms_resnet34": {"depths": (2, 1), "widths": (8, 10)},
    "max_resnet18": {"depths": (2, 1), "widths": (8, 10), "stem_channels": 8},
}
ZOO = {"ms_resnet18": ms_resnet18_spec, "ms_resnet34": ms_resnet34_spec, "max_resnet18": max_resnet18_spec}
