"""A network of fully connected layers, for lessons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from sbp_core import validation
from sbp_core.specs.layers import Flatten, LayerSpec, Linear, Neuron, Repeat, TimeMean
from sbp_core.specs.networks.base import NetworkSpec, in_proportion
from sbp_core.specs.networks.custom import image_size
from sbp_core.specs.networks.residual import NETWORK_NEURON
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Sequence, sequence


@dataclass(frozen=True, kw_only=True)
class MLPSpec(NetworkSpec):
    """The image as a vector, hidden layers with a neuron each, and the linear layer, averaged over time.

    Attributes:
        hidden: units of each hidden layer: ``hidden1``, ``hidden2``, ...
        size: height and width of the input.
        num_classes: outputs.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated.
        neuron: every neuron.
        hidden_initial: how the matrices of hidden layers start; with "kaiming" they fire more at first.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.

    Example:
        >>> mlp_spec(size=(8, 8)).parameter_count
        26122
    """

    kind: ClassVar[str] = "mlp"
    hidden: tuple[int, ...] = (128, 128)
    size: tuple[int, int] = (28, 28)
    in_channels: int = 1
    neuron: LIFSpec = NETWORK_NEURON
    hidden_initial: Literal["kaiming", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        self._set("hidden", validation.counts("hidden", self.hidden))
        self._set("size", image_size(self.size))
        if self.size is None:
            raise TypeError("size must be (height, width), got None")
        if not isinstance(self.neuron, LIFSpec):
            raise TypeError(f"neuron must be a LIFSpec, got {type(self.neuron).__name__}")
        super().__post_init__()

    @property
    def image_size(self) -> tuple[int | None, ...]:
        """Height and width of the input."""
        return self.size

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` units in its first hidden layer, the others in proportion."""
        return self.replace(hidden=in_proportion(self.hidden, width, self.hidden[0]))

    def build(self) -> Sequence:
        """Return the layers."""
        parts: dict[str, LayerSpec] = {"flat": Flatten()}
        for index, units in enumerate(self.hidden, start=1):
            repeat = {"repeat": Repeat(time_steps=self.time_steps)} if index == 1 else {}
            parts[f"hidden{index}"] = sequence(
                {"fc": Linear(features=units, initial=self.hidden_initial)}
                | repeat
                | {"neuron": Neuron(spec=self.neuron)}
            )
        return sequence(parts, head=Linear(features=self.num_classes), mean=TimeMean())


def mlp_spec(**fields: Any) -> MLPSpec:
    """Return two hidden layers of 128 units unless ``fields`` say otherwise."""
    return MLPSpec(**fields)


NARROW = {"mlp": {"hidden": (9, 7), "size": (5, 4)}}
ZOO = {"mlp": mlp_spec}
