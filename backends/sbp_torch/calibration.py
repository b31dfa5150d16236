"""A start from one batch in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sbp_core import signal
from sbp_core.signal import Calibration
from sbp_core.signal.calibration import RATES, Factor
from sbp_core.signal.identity import MIX, RESIDUAL
from sbp_torch.networks import Network
from sbp_torch.neurons import LIF
from sbp_torch.sample import twin_of
from sbp_torch.shortcut import Shortcut
from sbp_torch.weights import export_weights, import_weights


def calibrate(
    model: nn.Module,
    images: Any,
    *,
    residual: float | None = RESIDUAL,
    mix: float | None = MIX,
    rates: tuple[float, float] = RATES,
) -> Calibration:
    """Give a fresh network first weights with which every layer fires and blocks begin near the identity.

    See :func:`sbp_core.signal.calibrate`: one pass over one batch. Neurons are the spec's: build the network of
    ``at_identity(spec)``, at which a lone spike passes an identity path. Branches of a :class:`Shortcut` stay as they
    are.

    Args:
        model: a :class:`Network`, or a :class:`Shortcut` of one; its weights are changed.
        images: a batch as the model takes it; 64 samples tell enough.
        residual: scale of the last batch norm of a residual path; None leaves it.
        mix: how much of its random kernel a plain layer keeps beside the identity; None leaves it as it is.
        rates: least and most spikes per neuron and step.

    Returns:
        What was changed; ``print`` it. ``import_weights(net, export_weights(net) | found.before)`` undoes it.

    Raises:
        ValueError: a number out of range, or images that the model does not take.
        TypeError: another model.

    Example:
        >>> from sbp_core.signal import at_identity
        >>> from sbp_torch import network
        >>> _ = torch.manual_seed(0)
        >>> net = network(at_identity(network("resnet20", widths=(4, 4, 4), time_steps=2).spec))
        >>> found = calibrate(net, torch.rand(8, 3, 8, 8))
        >>> found.layers[0].neuron, len(found.layers), min(layer.after for layer in found.layers) > 0.05
        ('stem.neuron', 19, True)
    """
    net = model.main if isinstance(model, Shortcut) else model
    if not isinstance(net, Network):
        raise TypeError(f"model must be a Network or a Shortcut of one, got {type(net).__name__}")

    def run(weights: Mapping[str, NDArray[Any]], factor: Factor) -> None:
        twin = twin_of(net)
        # its parameters are the model's own
        values = {name: torch.tensor(value).to(_like(twin)) for name, value in weights.items()}
        for path, module in twin.named_modules():
            if isinstance(module, LIF):
                module.register_forward_pre_hook(_scaling(path, factor))
            elif isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        with torch.no_grad():
            torch.func.functional_call(twin, values, (torch.as_tensor(images).to(_like(twin)),))

    found = signal.calibrate(net.spec, export_weights(net), run, residual=residual, mix=mix, rates=rates)
    import_weights(net, export_weights(net) | dict(found.after))
    return found


def _scaling(path: str, factor: Factor) -> Any:
    def scaled(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = given[0]
        return x * factor(path, _array(x)), *given[1:]

    return scaled


def _array(x: Tensor) -> NDArray[np.floating]:
    found: NDArray[np.floating] = x.double().cpu().numpy()
    return found


def _like(net: nn.Module) -> Tensor:
    return next(net.parameters())
