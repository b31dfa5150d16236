"""Plain convolutional networks: VGG, VGGSNN for event data, a small one for lessons, DVS128 Gesture's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from sbp_core import validation
from sbp_core.presets import spikingjelly_lif
from sbp_core.specs.layers import (
    AvgPool,
    Conv,
    Dropout,
    Flatten,
    GlobalPool,
    LayerSpec,
    Linear,
    MaxPool,
    Neuron,
    Repeat,
    TimeMean,
    Vote,
)
from sbp_core.specs.networks.base import NetworkSpec, in_proportion
from sbp_core.specs.networks.custom import image_size
from sbp_core.specs.networks.norm import NORMS, Norm, normalisation
from sbp_core.specs.networks.residual import NETWORK_NEURON
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Sequence, sequence


@dataclass(frozen=True, kw_only=True)
class VGGSpec(NetworkSpec):
    """Stages of conv3x3-BN-neuron, each ended by a pool; then hidden layers and the linear layer, averaged over time.

    A still image is encoded once (first convolution and batch norm), and repeated before the first neuron.

    Attributes:
        stages: channels of each convolution, stage by stage: ``stage1``, ``stage2``, ...
        hidden: units of each hidden layer of the head, each with a neuron and dropout.
        size: height and width of the input; None for any, with the mean over space before the head.
        pool: of each stage: "max" or "avg", 2x2.
        dropout: rate behind each hidden layer.
        drop_features: whether what goes into the first of them is dropped too, at the same rate.
        bias: whether convolutions have one.
        voters: outputs that vote for a class, each with a neuron; None for plain logits.
        hidden_initial: how the matrices of hidden layers and of voters start; with "uniform", as in the source, those
            of DVS128 Gesture's do not fire at first.
        num_classes: outputs.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated.
        neuron: every neuron.
        norm: "batch", "tdbn" or "tebn".

    Raises:
        ValueError: a field out of range, or an image too small for the pools.
        TypeError: a field of the wrong type.

    Example:
        >>> vgg11_spec(num_classes=10).tap_channels["stage5"]
        512
    """

    kind: ClassVar[str] = "vgg"
    stages: tuple[tuple[int, ...], ...] = field(kw_only=True)
    hidden: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    pool: Literal["max", "avg"] = "max"
    dropout: float = 0.0
    drop_features: bool = False
    bias: bool = False
    voters: int | None = None
    hidden_initial: Literal["kaiming", "uniform"] = "uniform"
    neuron: LIFSpec = NETWORK_NEURON
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        if isinstance(self.stages, str) or not isinstance(self.stages, tuple | list) or not self.stages:
            raise TypeError(f"stages must be tuples of channels, a tuple a stage; got {self.stages!r}")
        stages = tuple(validation.counts(f"stages[{index}]", stage) for index, stage in enumerate(self.stages))
        self._set("stages", stages)
        self._set("hidden", validation.counts("hidden", self.hidden) if self.hidden else ())
        self._set("size", image_size(self.size))
        validation.choice("pool", self.pool, ("max", "avg"))
        validation.choice("norm", self.norm, NORMS)
        for name in ("bias", "drop_features"):
            validation.flag(name, getattr(self, name))
        if self.voters is not None:
            self._set("voters", validation.count("voters", self.voters))
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        self._set("dropout", Dropout(rate=self.dropout).rate)
        super().__post_init__()

    @property
    def image_size(self) -> tuple[int | None, ...]:
        """Height and width of the input."""
        return self.size or (None, None)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(f"stage{index + 1}" for index in range(len(self.stages)))

    @property
    def default_taps(self) -> tuple[str, ...]:
        """Every stage but the last."""
        return self.stage_names[:-1] or self.stage_names

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels in its first convolution, all others in proportion."""
        first = self.stages[0][0]
        stages = tuple(in_proportion(stage, width, first) for stage in self.stages)
        return self.replace(stages=stages, hidden=in_proportion(self.hidden, width, first))

    def build(self) -> Sequence:
        """Return stages and head."""
        parts: dict[str, LayerSpec] = {}
        for name, widths in zip(self.stage_names, self.stages, strict=True):
            parts[name] = self._stage(widths, first=not parts)
        parts["flat"] = GlobalPool() if self.size is None else Flatten()
        dropout = {"drop": Dropout(rate=self.dropout)} if self.dropout else {}
        if self.drop_features:
            parts |= dropout
        for index, units in enumerate(self.hidden, start=1):
            parts[f"hidden{index}"] = sequence({"fc": self._linear(units), "neuron": self._neuron()} | dropout)
        if self.voters is None:
            parts["head"] = Linear(features=self.num_classes)
        else:
            voters = self._linear(self.num_classes * self.voters)
            parts["head"] = sequence(fc=voters, neuron=self._neuron(), vote=Vote(voters=self.voters))
        return sequence(parts, mean=TimeMean())

    def _stage(self, widths: tuple[int, ...], *, first: bool) -> Sequence:
        layers: dict[str, LayerSpec] = {}
        for index, width in enumerate(widths, start=1):
            repeat = {"repeat": Repeat(time_steps=self.time_steps)} if first and index == 1 else {}
            norm = {f"bn{index}": normalisation(self.norm, self.neuron, self.time_steps)}
            layers[f"conv{index}"] = Conv(channels=width, bias=self.bias)
            # TEBN's factors are of steps
            layers |= repeat | norm if self.norm == "tebn" else norm | repeat
            layers[f"neuron{index}"] = self._neuron()
        layers["pool"] = MaxPool(kernel=2) if self.pool == "max" else AvgPool(kernel=2)
        return sequence(layers)

    def _linear(self, units: int) -> Linear:
        return Linear(features=units, initial=self.hidden_initial)

    def _neuron(self) -> Neuron:
        return Neuron(spec=self.neuron)


_DEEP = ((512, 512), (512, 512))


def vgg11_spec(**fields: Any) -> VGGSpec:
    """Return VGG-11: 8 convolutions, and the linear layer behind the mean over space, as is usual for CIFAR."""
    return VGGSpec(**({"stages": ((64,), (128,), (256, 256), *_DEEP)} | fields))


def vgg13_spec(**fields: Any) -> VGGSpec:
    """Return VGG-13: 10 convolutions, and the linear layer behind the mean over space, as is usual for CIFAR."""
    return VGGSpec(**({"stages": ((64, 64), (128, 128), (256, 256), *_DEEP)} | fields))


def vgg16_spec(**fields: Any) -> VGGSpec:
    """Return VGG-16: 13 convolutions, and the linear layer behind the mean over space, as is usual for CIFAR."""
    deep = ((512, 512, 512), (512, 512, 512))
    return VGGSpec(**({"stages": ((64, 64), (128, 128), (256, 256, 256), *deep)} | fields))


def vggsnn_spec(**fields: Any) -> VGGSpec:
    """Return VGGSNN for event data (Deng et al. 2022): 48x48 frames of two polarities, average pools, 10 steps."""
    given: dict[str, Any] = {
        "stages": ((64, 128), (256, 256), (512, 512), (512, 512)),
        "size": (48, 48),
        "pool": "avg",
        "bias": True,
        "in_channels": 2,
        "time_steps": 10,
    }
    return VGGSpec(**(given | fields))


def dvs_gesture_spec(**fields: Any) -> VGGSpec:
    """Return the network for DVS128 Gesture (Fang et al. 2021, PLIF): five stages, ten voters a class."""
    given: dict[str, Any] = {
        "stages": ((128,),) * 5,
        "hidden": (512,),
        "size": (128, 128),
        "dropout": 0.5,
        "drop_features": True,
        "voters": 10,
        "num_classes": 11,
        "in_channels": 2,
        "time_steps": 16,
        "neuron": spikingjelly_lif(learn_decay=True),
    }
    return VGGSpec(**(given | fields))


def convnet_spec(**fields: Any) -> VGGSpec:
    """Return a small network for lessons: two convolutions of 16 and 32 channels."""
    return VGGSpec(**({"stages": ((16,), (32,))} | fields))


_NARROW_STAGES = ((4,), (6, 5))
NARROW = {
    "vgg11": {"stages": _NARROW_STAGES},
    "vgg13": {"stages": _NARROW_STAGES, "norm": "tebn", "hidden": (7,)},
    "vgg16": {"stages": _NARROW_STAGES, "norm": "tdbn", "bias": True},
    "vggsnn": {"stages": _NARROW_STAGES, "size": (8, 6)},
    "dvs_gesture": {"stages": _NARROW_STAGES, "size": (8, 8), "hidden": (7,), "voters": 3, "dropout": 0.0},
    "convnet": {"stages": ((4,), (6,))},
}
ZOO = {
    "vgg11": vgg11_spec,
    "vgg13": vgg13_spec,
    "vgg16": vgg16_spec,
    "vggsnn": vggsnn_spec,
    "dvs_gesture": dvs_gesture_spec,
    "convnet": convnet_spec,
}
