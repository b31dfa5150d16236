"""Weights under the names and layouts that every framework's networks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from sbp_core import weights as shared
from sbp_core.weights import Array
from sbp_torch.networks import Network
from sbp_torch.shortcut import Shortcut, branch_key


def export_weights(model: nn.Module) -> dict[str, Array]:
    """Return a network's parameters and running statistics by name.

    Args:
        model: a network, whose names are those of ``spec.parameter_shapes()`` or of its own ``state_dict``; or a
            :class:`Shortcut`, with ``main.<name>``, ``branches.<tap>.weight`` of shape (classes, channels) and
            ``branches.<tap>.bias``, or ``branches.<tap>.conv.weight``, ``.bn.weight`` and so on, and
            ``.linear.weight``, or the names that a branch of your own has.

    Returns:
        Name to a copy as an array; bfloat16, which NumPy lacks, comes as float32. Counters and other integers, which
        are bookkeeping of this framework, are left out. :func:`sbp_core.weights.save` writes it to a file.

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
        TypeError: an array that does not hold floating-point numbers.
    """
    slots = dict(_slots(model))
    arrays = shared.checked({name: tuple(tensor.shape) for name, tensor in slots.items()}, weights)
    with torch.no_grad():
        for name, tensor in slots.items():
            tensor.copy_(torch.tensor(arrays[name].astype("float64")))


def save(path: str | PathLike[str], model: nn.Module, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a network to one safetensors file: weights, running statistics, branches if there are any, and its spec.

    Args:
        path: the file; a failure leaves what was there.
        model: a :class:`~sbp_torch.Network`, or a :class:`Shortcut` of one.
        notes: text by name, kept with it.

    Raises:
        TypeError: another network.
        OSError: the file cannot be written.
    """
    net = model.main if isinstance(model, Shortcut) else model
    shared.save_network(path, export_weights(model), getattr(net, "spec", None), notes)


def load(path: str | PathLike[str], per_step: bool = False) -> Network:
    """Build the network that :func:`save` of any adapter wrote, with its weights; branches are left out.

    Args:
        path: the file.
        per_step: give the logits of each step.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of a newer version, or not a network's; the message names the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from sbp_torch.networks import network
        >>> net = network("mlp", size=(8, 8))
        >>> with TemporaryDirectory() as folder:
        ...     save(f"{folder}/net.safetensors", net)
        ...     again = load(f"{folder}/net.safetensors")
        >>> torch.equal(again.head.weight, net.head.weight)
        True
    """
    spec, weights = shared.load_network(path)
    net = Network(spec, per_step)
    import_weights(net, weights)
    return net


def _slots(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(model, Shortcut):
        state = model.state_dict(keep_vars=True)
        yield from ((name, tensor) for name, tensor in state.items() if tensor.is_floating_point())
        return
    for name, tensor in _slots(model.main):
        yield f"main.{name}", tensor
    for tap in model.spec.taps:
        for part, tensor in _slots(model.branches[branch_key(tap)]):
            if isinstance(tensor, nn.parameter.UninitializedParameter):
                raise ValueError(f"the branch at {tap!r} has no size yet; run a batch, or pass sample to the Shortcut")
            yield f"branches.{tap}.{part}", tensor
