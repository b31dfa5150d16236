"""What a module of theirs must be for it to compute what a layer of ours does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_core.specs.neurons import LIFSpec
from sbp_torch.spikingjelly.modules import Place, pair
from sbp_torch.spikingjelly.nodes import neuron_spec


def check(place: Place, module: nn.Module, layer: Any, shape: Shape) -> None:
    """Check that a module does what a layer does.

    Args:
        place: of the module, for messages.
        module: theirs.
        layer: ours.
        shape: of the layer's input.

    Raises:
        ValueError: it is of another class, or an attribute differs; the message names it.
    """
    if type(layer) in _FACTS:
        names, facts = _FACTS[type(layer)]
        if type(module).__name__ not in names:
            raise ValueError(f"{place.path} must be {' or '.join(names)}, got {type(module).__name__}")
        for what, found, wanted in facts(layer, module, shape):
            if found != wanted:
                raise ValueError(f"{place.path}: {what} must be {wanted!r}, got {found!r}")
    if isinstance(layer, kinds.Neuron):
        _check_neuron(place, module, layer.spec)


def _check_neuron(place: Place, module: nn.Module, wanted: LIFSpec) -> None:
    found = neuron_spec(module, place.path)
    if found.learn_decay and place.parts > 1:
        raise ValueError(f"{place.path} learns one decay for {place.parts} paths, which have neurons of their own here")
    if found.learn_decay and wanted.learn_decay:
        # where it starts: what it has learnt is among the weights
        found = found.replace(decay=wanted.decay)
    here, there = found.to_dict(), wanted.to_dict()
    differ = [f"{name}={here[name]!r} instead of {there[name]!r}" for name in here if here[name] != there[name]]
    if differ:
        raise ValueError(f"{place.path} must be as the network's other neurons are, it has {', '.join(differ)}")


_Facts = list[tuple[str, Any, Any]]


def _conv_facts(layer: kinds.Conv, module: Any, shape: Shape) -> _Facts:
    axes = len(module.kernel_size)
    wanted = {"kernel_size": layer.kernel, "stride": layer.stride, "padding": layer.pad, "dilation": 1}
    facts: _Facts = [(name, getattr(module, name), (value,) * axes) for name, value in wanted.items()]
    facts += [("groups", module.groups, layer.groups), ("bias", module.bias is not None, layer.bias)]
    return [*facts, ("padding_mode", module.padding_mode, "zeros")]


def _norm_facts(layer: kinds.BatchNorm, module: Any, shape: Shape) -> _Facts:
    wanted = {"eps": layer.epsilon, "momentum": layer.momentum, "affine": True, "track_running_stats": True}
    return [(name, getattr(module, name), value) for name, value in wanted.items()]


def _pool_facts(layer: kinds.MaxPool, module: Any, shape: Shape) -> _Facts:
    wanted = {"kernel_size": layer.kernel, "stride": layer.step, "padding": layer.padding, "dilation": 1}
    facts: _Facts = [(name, pair(getattr(module, name)), (value, value)) for name, value in wanted.items()]
    return [*facts, ("ceil_mode", module.ceil_mode, False)]


def _flatten_facts(layer: kinds.Flatten, module: Any, shape: Shape) -> _Facts:
    if type(module).__name__ == "Flatten":
        return [("start_dim", module.start_dim, 1), ("end_dim", module.end_dim, -1)]
    # what pools to the size that maps have does nothing
    return [("output_size", pair(module.output_size), shape.space)]


_FACTS: dict[type[LayerSpec], tuple[tuple[str, ...], Callable[[Any, Any, Shape], _Facts]]] = {
    kinds.Conv: (("Conv1d", "Conv2d"), _conv_facts),
    kinds.BatchNorm: (("BatchNorm1d", "BatchNorm2d"), _norm_facts),
    kinds.Linear: (("Linear",), lambda layer, module, shape: [("bias", module.bias is not None, layer.bias)]),
    kinds.MaxPool: (("MaxPool2d",), _pool_facts),
    kinds.GlobalPool: (
        ("AdaptiveAvgPool2d",),
        lambda layer, module, shape: [("output_size", pair(module.output_size), (1, 1))],
    ),
    kinds.Flatten: (("Flatten", "AdaptiveAvgPool2d"), _flatten_facts),
    kinds.Dropout: (("Dropout",), lambda layer, module, shape: [("p", module.p, layer.rate)]),
    kinds.Vote: (("VotingLayer",), lambda layer, module, shape: [("voting_size", module.voting_size, layer.voters)]),
}

#: Kinds that must have a module of theirs: the others are written out in its ``forward``.
NEEDED = {kinds.Conv, kinds.BatchNorm, kinds.Linear, kinds.MaxPool, kinds.Neuron, kinds.Dropout, kinds.Vote}
