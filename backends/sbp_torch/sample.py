"""A network run once, as training will run it, that must not notice that it was run."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sbp_torch import private
from sbp_torch.taps import Recorder


def run_copy(net: nn.Module, taps: Sequence[str], sample: Any) -> tuple[Any, list[list[Any]]]:
    """Run a copy of ``net`` that shares its parameters, so that nothing that a forward pass remembers is left on it.

    It runs in training, since some networks give something else in evaluation; but its batch norms do not, so that one
    sample is enough.

    Args:
        net: the network; it runs without gradient, and not compiled.
        taps: what to record.
        sample: its input; a tuple for several, a mapping for keywords.

    Returns:
        What it gave, and what each tap gave in each of its calls.

    Raises:
        ValueError: the network has parameters without a size.
        TypeError: it cannot be copied.
    """
    found = private.original(net)
    lazy = [name for name, parameter in found.named_parameters() if nn.parameter.is_lazy(parameter)]
    if lazy:
        raise ValueError(f"net must have its sizes, but {lazy[0]!r} has none yet; run it on a batch before wrapping it")
    try:
        twin = twin_of(found)
    except TypeError as error:
        raise TypeError(
            f"sample is run through a copy of net, which cannot be copied ({error.__cause__}); leave sample out: "
            "linear branches take their sizes from the first training batch"
        ) from error.__cause__
    for module in twin.modules():
        if isinstance(module, private.BatchNorm):
            module.eval()
    recorder = Recorder(twin, taps)
    with torch.no_grad(), random_numbers_kept(found):
        recorder.start()
        if isinstance(sample, Mapping):
            result = twin(**sample)
        else:
            result = twin(*sample) if isinstance(sample, tuple) else twin(sample)
    return result, recorder.outputs(twin)


def twin_of(net: nn.Module) -> nn.Module:
    """Return a copy of ``net``, in training, that shares its parameters and nothing else.

    Raises:
        TypeError: it cannot be copied; the cause says why.
    """
    found = private.original(net)
    memo: dict[int, Tensor] = {id(parameter): parameter for parameter in found.parameters()}
    # what a stateful network remembers of an earlier pass may carry that pass's graph, which cannot be copied
    memo |= {id(tensor): tensor.detach() for tensor in _remembered(found) if tensor.grad_fn is not None}
    try:
        return copy.deepcopy(found, memo).train()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise TypeError(f"{type(net).__name__} cannot be copied: {error}") from error


@contextlib.contextmanager
def random_numbers_kept(net: nn.Module) -> Iterator[None]:
    """Leave the generators as they were."""
    devices = {tensor.device for tensor in (*net.parameters(), *net.buffers()) if tensor.device.type == "cuda"}
    pythons, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(sorted({device.index for device in devices})):
            yield
    finally:
        random.setstate(pythons)
        np.random.set_state(numpys)


def _remembered(net: nn.Module) -> Iterator[Tensor]:
    for module in net.modules():
        for value in vars(module).values():
            items = value.values() if isinstance(value, dict) else (value,)
            yield from (item for item in items if isinstance(item, Tensor))
