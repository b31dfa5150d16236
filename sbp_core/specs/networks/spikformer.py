"""Spikformer: spiking self-attention over the positions of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sbp_core import validation
from sbp_core.presets import spikingjelly_lif
from sbp_core.specs.joins import Attention
from sbp_core.specs.layers import BatchNorm, Conv, GlobalPool, LayerSpec, Linear, MaxPool, Neuron, Repeat, TimeMean
from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Parallel, Residual, Sequence, sequence

#: Of Spikformer's authors: tau 2, the input scaled by 1/2, the reset detached.
TRANSFORMER_NEURON = spikingjelly_lif(tau=2.0, detach_reset=True)


@dataclass(frozen=True, kw_only=True)
class SpikformerSpec(NetworkSpec):
    """Spikformer (Zhou et al. 2023): patch splitting by convolutions, then blocks of attention and of an MLP.

    Tokens are the positions of the map, so that linear layers over channels are 1x1 convolutions and images may have
    any size. Attention is ``(q k^T) v * scale`` without a softmax.

    Attributes:
        dim: channels of the tokens.
        depth: blocks, ``block1``, ``block2``, ...
        heads: of the attention.
        patch: 4, for CIFAR, or 16, for ImageNet: how many of the four convolutions are followed by a max pool.
        mlp_ratio: hidden channels of the MLP for each of ``dim``.
        scale: of the attention.
        num_classes: outputs of the head.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated.
        neuron: every neuron; that behind the attention has half its threshold.

    Raises:
        ValueError: a field out of range, or sizes that do not fit each other.
        TypeError: a field of the wrong type.

    Example:
        >>> spikformer_cifar_spec().default_taps
        ('block1', 'block2', 'block3')
    """

    kind: ClassVar[str] = "spikformer"
    dim: int = 384
    depth: int = 4
    heads: int = 12
    patch: int = 4
    mlp_ratio: float = 4.0
    scale: float = 0.125
    neuron: LIFSpec = TRANSFORMER_NEURON

    def __post_init__(self) -> None:
        for name in ("dim", "depth", "heads"):
            self._set(name, validation.count(name, getattr(self, name)))
        if self.patch not in (4, 16):
            raise ValueError(f"patch must be 4 or 16, got {self.patch!r}")
        if self.dim % 8:
            raise ValueError(f"dim must be a multiple of 8, got {self.dim}")
        for name in ("mlp_ratio", "scale"):
            self._set(name, validation.positive(name, getattr(self, name)))
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        super().__post_init__()

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels in its first convolution, eight times as many in tokens."""
        # as many channels a head as before
        return self.replace(dim=8 * width, heads=max(1, 8 * width * self.heads // self.dim))

    @property
    def default_taps(self) -> tuple[str, ...]:
        """Three blocks, evenly spread, or all but the last where there are fewer."""
        count = min(3, self.depth - 1)
        blocks = [self.depth * (index + 1) // (count + 1) for index in range(count)]
        return tuple(f"block{index}" for index in blocks) or ("patch_embed",)

    def build(self) -> Sequence:
        """Return patch splitting, blocks and head."""
        parts: dict[str, LayerSpec] = {"patch_embed": self._patches()}
        for index in range(1, self.depth + 1):
            parts[f"block{index}"] = transformer_block(
                self_attention(self.dim, self.heads, self.neuron, self.scale), self.dim, self.mlp_ratio, self.neuron
            )
        return sequence(parts, pool=GlobalPool(), head=Linear(features=self.num_classes), mean=TimeMean())

    def _patches(self) -> Sequence:
        stages: dict[str, LayerSpec] = {}
        for index in range(4):
            pool = {"pool": MaxPool(kernel=3, stride=2, padding=1)} if self.patch == 16 or index > 1 else {}
            repeat = {"repeat": Repeat(time_steps=self.time_steps)} if index == 0 else {}
            stages[f"stage{index + 1}"] = sequence(
                {"conv": Conv(channels=self.dim // 8 * 2**index), "bn": BatchNorm()}
                | pool
                | repeat
                | {"neuron": Neuron(spec=self.neuron)}
            )
        position = sequence(conv=Conv(channels=self.dim), bn=BatchNorm(), neuron=Neuron(spec=self.neuron))
        return sequence(stages, position=Residual(body=position))


def token(channels: int, neuron: LIFSpec, *, bias: bool = False, **after: LayerSpec) -> Sequence:
    """Return a linear layer over the channels of each token, batch norm and a neuron."""
    layers = {"conv": Conv(channels=channels, kernel=1, bias=bias), "bn": BatchNorm(), "neuron": Neuron(spec=neuron)}
    return sequence(layers | after)


def self_attention(dim: int, heads: int, neuron: LIFSpec, scale: float) -> Sequence:
    """Return spiking self-attention: q, k and v, their product, a neuron of half the threshold, and a projection."""
    halved = neuron.replace(threshold=neuron.threshold / 2)
    paths = tuple((name, token(dim, neuron)) for name in ("q", "k", "v"))
    return sequence(
        qkv=Parallel(paths=paths, join=Attention(heads=heads, scale=scale)),
        neuron=Neuron(spec=halved),
        proj=token(dim, neuron),
    )


def transformer_block(attention: Sequence, dim: int, ratio: float, neuron: LIFSpec, *, bias: bool = False) -> Sequence:
    """Return attention and an MLP, each beside the identity."""
    mlp = sequence(fc1=token(int(dim * ratio), neuron, bias=bias), fc2=token(dim, neuron, bias=bias))
    return sequence(attn=Residual(body=attention), mlp=Residual(body=mlp))


def spikformer_cifar_spec(**fields: Any) -> SpikformerSpec:
    """Return Spikformer-4-384 for CIFAR: 9.3 million parameters."""
    return SpikformerSpec(**fields)


def spikformer_imagenet_spec(**fields: Any) -> SpikformerSpec:
    """Return Spikformer-8-512 for ImageNet: 29.7 million parameters."""
    given: dict[str, Any] = {"dim": 512, "depth": 8, "heads": 8, "patch": 16, "num_classes": 1000}
    return SpikformerSpec(**(given | fields))


NARROW = {
    "spikformer_cifar": {"dim": 16, "depth": 1, "heads": 2, "scale": 0.5},
    "spikformer_imagenet": {"dim": 8, "depth": 2, "heads": 4},
}
ZOO = {"spikformer_cifar": spikformer_cifar_spec, "spikformer_imagenet": spikformer_imagenet_spec}
