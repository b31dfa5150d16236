"""The networks of the command line, as specs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sbp_core import ResNetSpec, resnet18_spec, resnet34_spec, validation


def resnet10_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-10, one block a stage: for a quick trial."""
    return ResNetSpec(**{"depths": (1, 1, 1, 1), "widths": (64, 128, 256, 512)} | fields)


#: Name on the command line to spec.
NETWORKS: dict[str, Callable[..., ResNetSpec]] = {
    "resnet10": resnet10_spec,
    "resnet18": resnet18_spec,
    "resnet34": resnet34_spec,
}


def build(name: str, *, width: int, **fields: Any) -> ResNetSpec:
    """Return the spec of the network ``name`` with ``width`` channels in its first stage, doubled at each later one.

    Raises:
        ValueError: there is no network of that name, or a field is out of range.
        TypeError: a field of the wrong type.

    Example:
        >>> build("resnet18", width=8, in_channels=1).widths
        (8, 16, 32, 64)
    """
    make = NETWORKS[validation.choice("net", name, NETWORKS)]
    validation.count("width", width)
    return make(widths=tuple(width * 2**stage for stage in range(4)), **fields)
