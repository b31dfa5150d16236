"""A network run over a sequence in chunks, the neurons' states going in and coming out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from sbp_core.specs.neurons import LIFState
from sbp_torch.neurons import LIF


def stream(
    net: nn.Module, x: Any, states: Mapping[str, LIFState] | None = None, **keywords: Any
) -> tuple[Any, dict[str, LIFState]]:
    """Run ``net`` on a chunk of a sequence, its neurons going on from ``states``.

    The network remembers nothing: the states are the caller's, to keep, save, or detach between chunks. In evaluation,
    where batch norm has fixed statistics, chunks give what the whole sequence gives.

    Args:
        net: a network whose neurons are sbp's modules, each run once, over the leading axis.
        x: its input, a chunk.
        states: what the chunk before returned; None to start afresh.
        **keywords: of the network, as ``time_axis=0`` of a :class:`ResNet` whose chunks are shorter than
            ``spec.time_steps``.

    Returns:
        The network's output for this chunk, and the states by the neurons' paths.

    Raises:
        ValueError: no neuron in the network; states that are not its neurons', or of another batch.
        TypeError: ``net`` is not a module.
        RuntimeError: a neuron did not run, or ran twice.

    Example:
        >>> import torch
        >>> net, x = nn.Sequential(nn.Linear(2, 3), LIF()).double(), torch.rand(4, 1, 2, dtype=torch.float64)
        >>> first, states = stream(net, x[:3])
        >>> last, states = stream(net, x[3:], states)
        >>> torch.equal(torch.cat((first, last)), net(x))
        True
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    neurons = {name: module for name, module in net.named_modules() if isinstance(module, LIF)}
    if not neurons:
        raise ValueError(f"net must hold sbp_torch neurons, got a {type(net).__name__} without one")
    if states is not None and set(states) != set(neurons):
        raise ValueError(f"states must be those of the network's neurons, {sorted(neurons)}; got {sorted(states)}")
    last: dict[str, LIFState] = {}
    handles = []
    try:
        for name, neuron in neurons.items():
            ends = _Ends(name, None if states is None else states[name], last)
            handles.append(neuron.register_forward_pre_hook(ends.enter, with_kwargs=True))
            handles.append(neuron.register_forward_hook(ends.leave, prepend=True))  # a tap sees the spikes alone
        output = net(x, **keywords)
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in neurons if name not in last]
    if missing:
        raise RuntimeError(f"neuron {missing[0]!r} did not run in this pass, so it has no state to go on from")
    return output, last


class _Ends:
    """What is put around a neuron's call: its state in front, its last state taken off behind."""

    def __init__(self, name: str, state: LIFState | None, last: dict[str, LIFState]) -> None:
        self.name, self.state, self.last = name, state, last

    def enter(self, module: nn.Module, inputs: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.name in self.last:
            raise RuntimeError(f"neuron {self.name!r} ran twice in one pass; give it and keep its state in the network")
        return inputs, keywords | {"state": self.state, "return_state": True}

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        spikes, self.last[self.name] = output
        return spikes
