"""Weights under the names and layouts that every framework's networks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sbp_torch.shortcut import Shortcut, branch_key


def export_weights(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return a network's parameters and running statistics by name.

    Args:
        model: a network, whose names are those of ``ResNetSpec.parameter_shapes`` or of its own ``state_dict``; or a
            :class:`Shortcut`, with ``main.<name>``, ``branches.<tap>.weight`` of shape (classes, channels) and
            ``branches.<tap>.bias``, or the names that another branch has.

    Returns:
        Name to a copy as an array; bfloat16, which NumPy lacks, comes as float32.

    Raises:
        ValueError: a branch has no size yet, because no batch has been run.

    Example:
        >>> from sbp_torch.networks import resnet18
        >>> export_weights(resnet18(widths=(4, 4, 4, 8)))["head.weight"].shape
        (10, 8)
    """
    found = {}
    for name, tensor in _slots(model):
        plain = tensor.detach().cpu()
        found[name] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy().copy()
    return found


def import_weights(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Write weights that :func:`export_weights` of any adapter gave, cast to the model's dtypes.

    Every name and shape is checked before anything is written.

    Args:
        model: a network or a :class:`Shortcut`.
        weights: name to array.

    Raises:
        ValueError: names missing or unknown, or an array of another shape.
        TypeError: an array that does not hold real numbers.
    """
    slots = dict(_slots(model))
    missing, unknown = sorted(set(slots) - set(weights)), sorted(set(weights) - set(slots))
    if missing or unknown:
        raise ValueError(f"weights must have exactly the model's names; missing: {missing}, unknown: {unknown}")
    arrays = {name: np.asarray(weights[name]) for name in slots}
    for name, tensor in slots.items():
        if not np.can_cast(arrays[name].dtype, np.float64):
            raise TypeError(f"weights[{name!r}] must hold real numbers, got {arrays[name].dtype}")
        if arrays[name].shape != tuple(tensor.shape):
            raise ValueError(f"weights[{name!r}] must have shape {tuple(tensor.shape)}, got {arrays[name].shape}")
    with torch.no_grad():
        for name, tensor in slots.items():
            tensor.copy_(torch.tensor(arrays[name].astype(np.float64)))


def _slots(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(model, Shortcut):
        # a counter of batches is bookkeeping of this framework alone
        state = model.state_dict(keep_vars=True)
        yield from ((name, tensor) for name, tensor in state.items() if not name.endswith("num_batches_tracked"))
        return
    for name, tensor in _slots(model.main):
        yield f"main.{name}", tensor
    for tap in model.spec.taps:
        for part, tensor in _slots(model.branches[branch_key(tap)]):
            if isinstance(tensor, nn.parameter.UninitializedParameter):
                raise ValueError(f"the branch at {tap!r} has no size yet; run a batch, or pass sample to the Shortcut")
            yield f"branches.{tap}.{part}", tensor
