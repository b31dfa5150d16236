"""What a tapped block is read out by, as layers: one convention for all frameworks."""

from __future__ import annotations

from typing import Literal, get_args

from sbp_core import validation
from sbp_core.specs.layers import BatchNorm, Conv, GlobalPool, LayerSpec, Linear, Relu

#: A branch by name.
BranchName = Literal["linear", "convolutional"]


def branch_layers(branch: str, channels: int, num_classes: int) -> tuple[tuple[str, LayerSpec], ...]:
    """Return the layers of a branch at each time step, by name; a name that is empty is the branch's own.

    "linear" is "global average pooling and a fully connected layer" (Guo et al. 2024, section 4); "convolutional" puts
    a 3-wide convolution, batch norm and a ReLU before that.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> [name for name, _ in branch_layers("convolutional", 8, 10)]
        ['conv', 'bn', 'relu', 'pool', 'linear']
    """
    validation.choice("branch", branch, get_args(BranchName))
    linear = Linear(features=num_classes)
    if branch == "linear":
        return (("pool", GlobalPool()), ("", linear))
    return (
        ("conv", Conv(channels=channels)),
        ("bn", BatchNorm()),
        ("relu", Relu()),
        ("pool", GlobalPool()),
        ("linear", linear),
    )
