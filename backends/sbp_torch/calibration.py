"""A start from one batch in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sbp_core import signal
from sbp_core.signal import Calibration
from sbp_core.signal.calibration import RATES, Factor, Scaled
from sbp_torch import private
from sbp_torch.diagnosis import learnt
from sbp_torch.networks import Network
from sbp_torch.neurons import LIF
from sbp_torch.sample import twin_of
from sbp_torch.shortcut import Shortcut
from sbp_torch.weights import export_weights, import_weights


def calibrate(
    model: nn.Module,
    images: Any,
    **options: Unpack[signal.StartOptions],
) -> Calibration:
    """Give a fresh network first weights with which every layer fires and blocks begin near the identity.

    See :func:`sbp_core.signal.calibrate`: one pass over one batch. Neurons are the spec's: build the network of
    ``at_identity(spec)``, at which a lone spike passes an identity path. Branches of a :class:`Shortcut` stay as they
    are. Of another module with :class:`LIF` neurons, whose layers nobody states, rates alone are brought into range:
    by the weights of the last convolution, linear layer or batch norm before a neuron, if its input is a multiple of
    what that gave.

    Args:
        model: a :class:`Network`, any module with such neurons, or a :class:`Shortcut` of one; its weights are changed.
        images: a batch as the model takes it; 64 samples tell enough.
        **options: ``residual``, ``mix`` and ``rates`` of :func:`sbp_core.signal.calibrate`.

    Returns:
        What was changed; ``print`` it. ``import_weights(net, export_weights(net) | found.before)`` undoes it.

    Raises:
        ValueError: a number out of range, images that the model does not take, or no neurons.
        TypeError: not a module.

    Example:
        >>> from sbp_core.signal import at_identity
        >>> from sbp_torch import network
        >>> _ = torch.manual_seed(0)
        >>> net = network(at_identity(network("resnet20", widths=(4, 4, 4), time_steps=2).spec))
        >>> found = calibrate(net, torch.rand(8, 3, 8, 8))
        >>> found.layers[0].neuron, len(found.layers), min(layer.after for layer in found.layers) > 0.05
        ('stem.neuron', 19, True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {model!r:.100} of type {type(model).__name__}")
    net = private.original(model.main if isinstance(model, Shortcut) else model)
    if not isinstance(net, Network):
        return _scaled(net, images, options.get("rates", RATES))

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

    held = export_weights(net)
    found = signal.calibrate(net.spec, held, run, **options)
    import_weights(net, held | dict(found.after))
    return found


#: Modules whose output is a multiple of their weights.
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)


def _scaling(path: str, factor: Factor) -> Any:
    def scaled(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = given[0]
        return x * factor(path, _array(x)), *given[1:]

    return scaled


def _scaled(net: nn.Module, images: Any, rates: tuple[float, float]) -> Calibration:
    """Bring rates into range with the weights that turn out to set them."""
    twin, found = twin_of(net), dict[str, Scaled]()
    # the weights that ran last, and what they gave
    last: list[tuple[str, Tensor]] = []
    taken = set[str]()

    def gave(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            start = output.detach().requires_grad_()
            # what is shared, or runs again, is nobody's
            last[:] = [] if name in taken else [(name, start)]
            taken.add(name)
            return start.clone()

        return hook

    def takes(path: str) -> Any:
        def hook(module: LIF, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = given[0]
            layers = tuple(name for name, start in last if _is_multiple(x, start))
            last.clear()
            if module.spec.output != "spikes":
                return given
            found[path] = signal.scaled(path, learnt(module), _array(x.detach()), layers, rates)
            return x * found[path].factor, *given[1:]

        return hook

    for path, module in twin.named_modules():
        if isinstance(module, LIF):
            module.register_forward_pre_hook(takes(path))
        elif isinstance(module, _WEIGHTED):
            module.register_forward_hook(gave(path))
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with torch.enable_grad():
        twin(torch.as_tensor(images).to(_like(twin)))
    if not found:
        raise ValueError("model must have LIF neurons of sbp that fire, and none was run")
    factors = {name: each.factor for each in found.values() for name in each.layers if each.factor != 1.0}
    changed = {name: p for name, p in net.named_parameters() if name.rpartition(".")[0] in factors}
    before = {name: p.detach().cpu().numpy().copy() for name, p in changed.items()}
    with torch.no_grad():
        for name, parameter in changed.items():
            parameter.mul_(factors[name.rpartition(".")[0]])
    after = {name: p.detach().cpu().numpy().copy() for name, p in changed.items()}
    return Calibration(layers=tuple(found.values()), identity=(), before=before, after=after)


def _is_multiple(x: Tensor, start: Tensor) -> bool:
    """Whether ``x`` grows as ``start`` does: by Euler's theorem its derivative along ``start`` is itself."""
    if not x.requires_grad:
        return False
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    (gradient,) = torch.autograd.grad(x, start, direction, allow_unused=True)
    if gradient is None:
        return False
    gap = (direction * x.detach()).sum() - (gradient * start).sum()
    return bool(gap.abs() <= 1e-3 * (direction * x.detach()).norm())


def _array(x: Tensor) -> NDArray[np.floating]:
    found: NDArray[np.floating] = x.double().cpu().numpy()
    return found


def _like(net: nn.Module) -> Tensor:
    return next(net.parameters())
