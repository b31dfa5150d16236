"""From a SpikingJelly network to a spec of ours, and weights under its names, which every framework's networks take.

Written against SpikingJelly 2.0.0, which need not be installed: modules are known by the names of their classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sbp_core.specs.networks import NetworkSpec
from sbp_core.weights import Array
from sbp_torch.spikingjelly.checks import NEEDED, check
from sbp_torch.spikingjelly.modules import Found, Place, at, of
from sbp_torch.spikingjelly.networks import NETWORKS
from sbp_torch.spikingjelly.nodes import neuron_spec

__all__ = ["Place", "Ported", "from_spikingjelly", "neuron_spec", "places"]


class Ported(NamedTuple):
    """A network of SpikingJelly's as one of ours.

    Attributes:
        spec: the network.
        weights: by canonical name, for ``import_weights`` of any adapter.
    """

    spec: NetworkSpec
    weights: dict[str, Array]


def from_spikingjelly(net: nn.Module, *, time_steps: int | None = None, size: tuple[int, int] | None = None) -> Ported:
    """Return the spec of a SpikingJelly network, and its weights under our names.

    Known are its ``SpikingResNet``, ``SEWResNet``, ``MSResNet``, ``MaxResNet``, ``SpikingVGG``, ``Spikformer``,
    ``QKFormer``, and the networks of the PLIF paper, ``DVSGestureNet`` for one; with ``IFNode``, ``LIFNode`` or
    ``ParametricLIFNode``, the same everywhere, but that the threshold behind an attention is half of the others'. Every
    layer is compared with the spec's, so that what comes out computes what ``net`` does.

    Args:
        net: of SpikingJelly, on any device; it is not changed.
        time_steps: of still images; what ``net`` says, or 4 where it does not.
        size: height and width of the images of a network that flattens its maps; the smallest that fits unless given.

    Returns:
        The spec, and name to array.

    Raises:
        TypeError: not a module.
        ValueError: another network, or a layer that ours has not; the message names it.
    """
    spec, where = _found(net, time_steps, size)
    weights, used = {}, set()
    for placed in spec.outline():
        place = where.get(placed.path)
        if place is None:
            if type(placed.layer) in NEEDED:
                raise ValueError(f"net lacks a module for {placed.path!r} of a {spec.kind}")
            continue
        module = at(net, place.path)
        used.add(place.path)
        check(place, module, placed.layer, placed.inputs[0])
        for name, parameter in placed.parameters().items():
            weights[name] = _array(place, module, name.rpartition(".")[2], parameter.shape)
    _all_used(net, used, spec)
    return Ported(spec, weights)


def places(net: nn.Module) -> dict[str, Place]:
    """Return where each layer of ours is in ``net``, by the layer's path.

    Raises:
        TypeError: not a module.
        ValueError: another network than :func:`from_spikingjelly` knows.
    """
    return _found(net, None, None).places


def _found(net: nn.Module, time_steps: int | None, size: tuple[int, int] | None) -> Found:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch module, got {type(net).__name__}")
    for parent in type(net).__mro__:
        read = NETWORKS.get(parent.__name__)
        if read is None:
            continue
        if type(net).forward is not getattr(parent, "forward", None):
            raise ValueError(f"net is a {parent.__name__} with a forward of its own, {type(net).__name__}'s")
        steps: Any = getattr(net, "T", 4) if time_steps is None else time_steps
        return read(net, steps, size)
    raise ValueError(f"net must be one of SpikingJelly's {', '.join(NETWORKS)}; got {type(net).__name__}")


def _array(place: Place, module: nn.Module, name: str, shape: tuple[int, ...]) -> Array:
    tensor: Tensor = -of(module, "w", place.path) if name == "decay_logit" else of(module, name, place.path)
    tensor = tensor.detach().cpu().chunk(place.parts)[place.part] if place.parts > 1 else tensor.detach().cpu()
    if tensor.ndim == 3 and len(shape) == 4 and tensor.shape[2] == 1:
        # a 1x1 convolution over tokens is one over the map
        tensor = tensor.unsqueeze(3)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{place.path}.{name} must have shape {shape}, got {tuple(tensor.shape)}")
    plain = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    found: Array = plain.numpy().copy()
    return found


def _all_used(net: nn.Module, used: set[str], spec: NetworkSpec) -> None:
    for path, module in net.named_modules():
        within = any(path == name or path.startswith(f"{name}.") for name in used)
        if within or next(module.children(), None) is not None or type(module).__name__ in ("Identity", "Sequential"):
            continue
        if isinstance(getattr(module, "p", None), float) and module.p == 0.0:
            continue
        raise ValueError(f"{path} is a {type(module).__name__}, which a {spec.kind} does not have there")
