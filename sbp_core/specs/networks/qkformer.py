"""QKFormer: stages of ever fewer tokens, with attention of linear cost in the first two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sbp_core import validation
from sbp_core.specs.joins import Gate
from sbp_core.specs.layers import (
    BatchNorm,
    Conv,
    GlobalPool,
    HeadSum,
    LayerSpec,
    Linear,
    MaxPool,
    Neuron,
    Repeat,
    TimeMean,
)
from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.networks.spikformer import TRANSFORMER_NEURON, self_attention, token, transformer_block
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Parallel, Residual, Sequence, sequence


@dataclass(frozen=True, kw_only=True)
class QKFormerSpec(NetworkSpec):
    """QKFormer (Zhou et al. 2024): three stages, each behind an embedding that halves the map.

    The first two have Q-K token attention, ``k * neuron(sum of q over a head's channels)``, the last one Spikformer's
    self-attention.

    Attributes:
        dim: channels of the last stage; the others have a quarter and a half.
        depths: blocks of each stage: ``stage1``, ``stage2``, ``stage3``.
        heads: of each stage's attention.
        first_pool: whether the first convolution is followed by a max pool too, as for ImageNet.
        mlp_ratio: hidden channels of the MLP for each channel.
        bias: whether the convolutions outside the attention have one.
        scale: of the last stage's attention.
        num_classes: outputs of the head.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated.
        neuron: every neuron; those behind the sum of queries and the attention have half its threshold.

    Raises:
        ValueError: a field out of range, or sizes that do not fit each other.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "qkformer"
    dim: int = 384
    depths: tuple[int, ...] = (1, 1, 2)
    heads: tuple[int, ...] = (6, 6, 6)
    first_pool: bool = False
    mlp_ratio: float = 4.0
    bias: bool = False
    scale: float = 0.125
    neuron: LIFSpec = TRANSFORMER_NEURON

    def __post_init__(self) -> None:
        self._set("dim", validation.count("dim", self.dim))
        for name in ("depths", "heads"):
            self._set(name, validation.counts(name, getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must have three numbers, one a stage; got {getattr(self, name)!r}")
        if self.dim % 8:
            raise ValueError(f"dim must be a multiple of 8, got {self.dim}")
        validation.flag("first_pool", self.first_pool)
        validation.flag("bias", self.bias)
        for name in ("mlp_ratio", "scale"):
            self._set(name, validation.positive(name, getattr(self, name)))
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        super().__post_init__()

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels in its first convolution, eight times that in the last stage."""
        # as many channels a head as before
        heads = tuple(max(1, 8 * width * each // self.dim) for each in self.heads)
        return self.replace(dim=8 * width, heads=heads)

    @property
    def default_taps(self) -> tuple[str, ...]:
        """The first two stages."""
        return ("stage1", "stage2")

    def build(self) -> Sequence:
        """Return embeddings, stages and head."""
        parts: dict[str, LayerSpec] = {}
        dims = (self.dim // 4, self.dim // 2, self.dim)
        for index, (dim, depth, heads) in enumerate(zip(dims, self.depths, self.heads, strict=True)):
            blocks: dict[str, LayerSpec] = {"embed": self._embedding(dim, first=index == 0)}
            for position in range(1, depth + 1):
                attention = self_attention(dim, heads, self.neuron, self.scale) if index == 2 else self._qk(dim, heads)
                blocks[f"block{position}"] = transformer_block(
                    attention, dim, self.mlp_ratio, self.neuron, bias=self.bias
                )
            parts[f"stage{index + 1}"] = sequence(blocks)
        return sequence(parts, pool=GlobalPool(), head=Linear(features=self.num_classes), mean=TimeMean())

    def _embedding(self, dim: int, *, first: bool) -> LayerSpec:
        body = sequence(conv1=self._convolution(dim, pool=True), conv2=self._convolution(dim))
        projection = sequence(
            conv=Conv(channels=dim, kernel=1, stride=2, bias=self.bias), bn=BatchNorm(), neuron=self._neuron()
        )
        embedding = Residual(body=body, shortcut=projection)
        if not first:
            return embedding
        return sequence(conv=self._convolution(dim // 2, pool=self.first_pool, repeats=True), patch=embedding)

    def _convolution(self, channels: int, *, pool: bool = False, repeats: bool = False) -> Sequence:
        layers: dict[str, LayerSpec] = {"conv": Conv(channels=channels, bias=self.bias), "bn": BatchNorm()}
        if pool:
            layers["pool"] = MaxPool(kernel=3, stride=2, padding=1)
        if repeats:
            layers["repeat"] = Repeat(time_steps=self.time_steps)
        return sequence(layers, neuron=self._neuron())

    def _qk(self, dim: int, heads: int) -> Sequence:
        halved = Neuron(spec=self.neuron.replace(threshold=self.neuron.threshold / 2))
        query = token(dim, self.neuron, sum=HeadSum(heads=heads), gate=halved)
        return sequence(
            qk=Parallel(paths=(("k", token(dim, self.neuron)), ("q", query)), join=Gate()),
            proj=token(dim, self.neuron),
        )

    def _neuron(self) -> Neuron:
        return Neuron(spec=self.neuron)


def qkformer_cifar_spec(**fields: Any) -> QKFormerSpec:
    """Return QKFormer-4-384 for CIFAR: 6.7 million parameters."""
    return QKFormerSpec(**fields)


def qkformer_imagenet_spec(**fields: Any) -> QKFormerSpec:
    """Return QKFormer-10-384 for ImageNet: 16.5 million parameters."""
    given: dict[str, Any] = {"depths": (1, 2, 7), "first_pool": True, "num_classes": 1000}
    return QKFormerSpec(**(given | fields))


NARROW = {
    "qkformer_cifar": {"dim": 64, "depths": (1, 1, 1), "heads": (2, 2, 1), "mlp_ratio": 1.0},
    "qkformer_imagenet": {"dim": 64, "depths": (1, 1, 1), "heads": (1, 2, 2), "mlp_ratio": 1.0},
}
ZOO = {"qkformer_cifar": qkformer_cifar_spec, "qkformer_imagenet": qkformer_imagenet_spec}
