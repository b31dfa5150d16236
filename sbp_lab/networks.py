"""The networks of the command line, as specs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sbp_core import LIFSpec, NetworkSpec, ResNetSpec, validation
from sbp_core.specs.networks import ZOO, resnet18_spec, resnet34_spec
from sbp_core.specs.networks.blocks import Blocks, with_blocks


def resnet10_spec(**fields: Any) -> ResNetSpec:
    """Return ResNet-10, one block a stage: for a quick trial."""
    return ResNetSpec(**{"depths": (1, 1, 1, 1), "widths": (64, 128, 256, 512)} | fields)


#: Name on the command line to spec. The stems of ResNets for images of 224 pixels are a 7x7 convolution and a pool.
#: ResNet-68 has twice the blocks of ResNet-34, and one more in its last stage: for trials of depth.
_OURS: dict[str, Callable[..., NetworkSpec]] = {
    "resnet10": resnet10_spec,
    "resnet68": partial(resnet34_spec, depths=(6, 8, 12, 7)),
    "resnet18_imagenet": partial(resnet18_spec, stem="imagenet"),
    "resnet34_imagenet": partial(resnet34_spec, stem="imagenet"),
}
NETWORKS = _OURS | ZOO


def neuron_of(name: str) -> LIFSpec:
    """Return the neuron of a network as published; the family's default where it has none.

    Example:
        >>> neuron_of("ms_resnet18").threshold
        0.5
    """
    make = NETWORKS.get(name)
    neuron: LIFSpec = getattr(make(), "neuron", LIFSpec()) if make is not None else LIFSpec()
    return neuron


def build(
    name: str,
    *,
    width: int | None = None,
    size: tuple[int, int] | None = None,
    blocks: Blocks | None = None,
    **fields: Any,
) -> NetworkSpec:
    """Return the spec of the network ``name``.

    Args:
        name: one of :data:`NETWORKS`.
        width: channels of its first stage, the others in proportion; as in the source unless given.
        size: of the images, for a network that has to know.
        blocks: of a residual network, in place of its own.
        **fields: of the spec.

    Raises:
        ValueError: there is no network of that name, it has no such field or no blocks, a field is out of range, or
            the images are too small for it.
        TypeError: a field of the wrong type.

    Example:
        >>> build("resnet18", width=8, in_channels=1).tap_channels
        {'stem': 8, 'layer1': 8, 'layer2': 16, 'layer3': 32, 'layer4': 64}
    """
    make = NETWORKS[validation.choice("net", name, NETWORKS)]
    if size is not None and None not in make().image_size:
        fields["size"] = size
    for field in ("neuron", "norm"):
        if field in fields and not hasattr(make(), field):
            raise ValueError(f"{field} must be left out with net={name!r}, which has none; got {fields[field]!r}")
    spec = make(**fields)
    if blocks is not None:
        spec = with_blocks(spec, blocks)
    if width is not None:
        spec = spec.with_width(validation.count("width", width))
    if size is not None:
        spec.outline(size)
    return spec
