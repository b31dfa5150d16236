"""Networks that are compiled already, and networks that must not notice that they were run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from sbp_torch.taps import Recorder


def call(net: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """Return what ``net`` gives, its hooks called even if it was compiled before they were put on.

    torch.compile does not look for new hooks on what it has compiled; so the network is compiled behind another frame,
    with the options it was compiled with. Inside a larger compilation it is traced afresh anyway.
    """
    if isinstance(net, OptimizedModule) and not torch.compiler.is_compiling():
        return net.dynamo_ctx(_Fresh(net._orig_mod).run)(*inputs, **keywords)
    return net(*inputs, **keywords)


class _Fresh:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def run(self, *inputs: Any, **keywords: Any) -> Any:
        return self.net(*inputs, **keywords)


def run_copy(net: nn.Module, taps: Sequence[str], sample: Any) -> tuple[Any, list[list[Any]]]:
    """Run a copy of ``net`` that shares its parameters, so that nothing that a forward pass remembers is left on it.

    Args:
        net: the network; it runs in evaluation, without gradient, and not compiled.
        taps: what to record.
        sample: its input; a tuple for several, a mapping for keywords.

    Returns:
        What it gave, and what each tap gave in each of its calls.

    """
    original = net._orig_mod if isinstance(net, OptimizedModule) else net
    memo: dict[int, Tensor] = {id(parameter): parameter for parameter in original.parameters()}
    # what a stateful network remembers of an earlier pass may carry that pass's graph, which cannot be copied
    memo |= {id(tensor): tensor.detach() for tensor in _remembered(original) if tensor.grad_fn is not None}
    twin = copy.deepcopy(original, memo)
    recorder = Recorder(twin.eval(), taps)
    with torch.no_grad():
        recorder.start()
        if isinstance(sample, Mapping):
            result = twin(**sample)
        else:
            result = twin(*sample) if isinstance(sample, tuple) else twin(sample)
    return result, recorder.outputs(twin)


def _remembered(net: nn.Module) -> Iterator[Tensor]:
    for module in net.modules():
        for value in vars(module).values():
            items = value.values() if isinstance(value, dict) else (value,)
            yield from (item for item in items if isinstance(item, Tensor))
