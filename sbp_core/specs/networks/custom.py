"""A network of layers that are given as they are."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import ClassVar

from sbp_core import validation
from sbp_core.specs.networks.base import NetworkSpec
from sbp_core.specs.structure import Sequence


@dataclass(frozen=True, kw_only=True)
class CustomSpec(NetworkSpec):
    """A network without an architecture of its own.

    Attributes:
        layers: from the input to the logits; their names are those of the weights.
        size: height and width of the input; None for any.
        num_classes: logits, which the layers must end in.
        in_channels: channels of the input.
        time_steps: steps of event frames, and what :class:`~sbp_core.specs.layers.Repeat` repeats.

    Raises:
        ValueError: layers that do not fit each other; the message names the first.
        TypeError: a field of the wrong type.

    Example:
        >>> from sbp_core.specs.layers import Flatten, Linear, Neuron, Repeat, TimeMean
        >>> from sbp_core.specs.structure import sequence
        >>> hidden = sequence(fc=Linear(features=32), repeat=Repeat(time_steps=4), neuron=Neuron())
        >>> net = sequence(flat=Flatten(), hidden=hidden, head=Linear(features=10), mean=TimeMean())
        >>> CustomSpec(layers=net, size=(8, 8), in_channels=1).parameter_count
        2410
    """

    kind: ClassVar[str] = "custom"
    layers: Sequence
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Sequence):
            raise TypeError(f"layers must be a Sequence, got {type(self.layers).__name__}")
        self._set("size", image_size(self.size))
        super().__post_init__()

    @property
    def image_size(self) -> tuple[int | None, ...]:
        """Height and width of the input."""
        return self.size or (None, None)

    def build(self) -> Sequence:
        """Return the layers."""
        return self.layers


def image_size(size: Items[int] | None) -> tuple[int, ...] | None:
    """Return a height and a width, or None, checked.

    Raises:
        ValueError: not two, or not positive.
        TypeError: not integers.
    """
    if size is None:
        return None
    found = validation.counts("size", size)
    if len(found) != 2:
        raise ValueError(f"size must be (height, width), got {size!r}")
    return found
