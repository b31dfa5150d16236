"""The networks of the command line, as specs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sbp_core import NetworkSpec, ResNetSpec, validation
from sbp_core.specs.networks import ZOO, resnet18_spec, resnet34_spec


def resnet10_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-10, one block a stage: for a quick trial."""
    return ResNetSpec(**{"depths": (1, 1, 1, 1), "widths": (64, 128, 256, 512)} | fields)


#: Name on the command line to spec. The stems of ResNets for images of 224 pixels are a 7x7 convolution and a pool.
_OURS: dict[str, Callable[..., NetworkSpec]] = {
    "resnet10": resnet10_spec,
    "resnet18_imagenet": partial(resnet18_spec, stem="imagenet"),
    "resnet34_imagenet": partial(resnet34_spec, stem="imagenet"),
}
NETWORKS = _OURS | ZOO


def build(name: str, *, width: int | None = None, size: tuple[int, int] | None = None, **fields: Any) -> NetworkSpec:
    """Return the spec of the network ``name``.

    Args:
        name: one of :data:`NETWORKS`.
        width: channels of its first stage, the others in proportion; as in the source unless given.
        size: of the images, for a network that has to know.
        **fields: of the spec.

    Raises:
        ValueError: there is no network of that name, a field is out of range, or the images are too small for it.
        TypeError: a field of the wrong type.

    Example:
        >>> build("resnet18", width=8, in_channels=1).tap_channels
        {'stem': 8, 'layer1': 8, 'layer2': 16, 'layer3': 32, 'layer4': 64}
    """
    make = NETWORKS[validation.choice("net", name, NETWORKS)]
    if size is not None and None not in make().image_size:
        fields["size"] = size
    spec = make(**fields)
    if width is not None:
        spec = spec.with_width(validation.count("width", width))
    if size is not None:
        spec.outline(size)
    return spec
