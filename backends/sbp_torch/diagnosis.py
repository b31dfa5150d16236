"""What a network's neurons and gradients do on a few batches: where in PyTorch the figures are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sbp_core import signal
from sbp_core.composition import ShortcutOutput
from sbp_core.signal import Diagnosis, Firing, Met, Pass, Watch
from sbp_core.signal.passes import INSIDE
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec
from sbp_torch import private
from sbp_torch.losses import ShortcutLoss
from sbp_torch.neurons import LIF
from sbp_torch.sample import random_numbers_kept, twin_of
from sbp_torch.shortcut import Shortcut
from sbp_torch.spikingjelly.nodes import NODES, neuron_spec

Loss = Callable[[Any, Tensor], Tensor]


def diagnose(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    loss: Loss | None = None,
    **options: Unpack[signal.Options],
) -> Diagnosis:
    """Say why a network does not learn, from a few batches forward and backward.

    Known neurons are sbp's, SpikingJelly's ``IFNode``, ``LIFNode`` and ``ParametricLIFNode``, and snnTorch's. A copy of
    the model runs, in training but without dropout: nothing is left behind on the model itself.

    Args:
        model: a network, a :class:`Shortcut` of one, or any module that has such neurons.
        batches: pairs of images and labels, two or more, as the model takes them; four of 64 tell much.
        loss: of what the model gives and the labels; cross-entropy, of the mean over time where logits have time in
            front, and with a :class:`Shortcut` its composed loss, unless given.
        **options: ``noise``, ``seed`` and ``slopes`` of :func:`sbp_core.signal.diagnose`.

    Returns:
        The figures; ``print`` them, or see ``.findings``.

    Raises:
        ValueError: fewer than two batches, or no neurons that are known.
        TypeError: not a module, or one that cannot be copied.

    Example:
        >>> from sbp_torch import network
        >>> _ = torch.manual_seed(0)
        >>> net = network("resnet20", widths=(4, 4, 4), time_steps=2)
        >>> batches = [(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])) for _ in range(2)]
        >>> found = diagnose(net, batches)
        >>> found.neurons[0].path, len(found.neurons), found.weights[-1].path
        ('stem.neuron', 19, 'head')
    """
    _check(model)
    observe = _Observer(model, loss or _loss_of(model))
    pairs = [(_array(images), np.asarray(_array(labels))) for images, labels in batches]
    return signal.diagnose(observe, pairs, **options)


def watch(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    loss: Loss | None = None,
    noise: float = 0.1,
    seed: int = 0,
    **options: Unpack[signal.WatchOptions],
) -> Watch:
    """Return what takes the figures of :func:`diagnose` while the model trains, and says once what goes wrong.

    The training is not touched: a run with it gives the same weights, bit for bit.

    Args:
        model: as in :func:`diagnose`.
        batches: always the same ones, so that looks can be compared; four quarters of a training batch are enough.
        loss: as in :func:`diagnose`.
        noise: as in :func:`diagnose`.
        seed: as in :func:`diagnose`.
        **options: ``every``, ``folder`` and ``tell`` of :class:`sbp_core.signal.Watch`.

    Returns:
        Call its ``step()`` after each optimizer step; it gives the look, or None between two.

    Raises:
        TypeError: not a module.
        ValueError: ``every`` is less than 1; at the first step what :func:`diagnose` raises.

    Example:
        >>> from sbp_torch import network
        >>> net = network("mlp", size=(4, 4), hidden=(8,), time_steps=2, in_channels=1)
        >>> batches = [(torch.rand(4, 1, 4, 4), torch.arange(4)) for _ in range(2)]
        >>> look = watch(net, batches).step()
        >>> look.step, look.found.neurons[0].path
        (1, 'hidden1.neuron')
    """
    _check(model)
    pairs = list(batches)
    return Watch(lambda: diagnose(model, pairs, loss=loss, noise=noise, seed=seed), **options)


def _check(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {model!r:.100} of type {type(model).__name__}")


class _Seen(NamedTuple):
    """A layer of neurons in one pass: of each call its input, and for a stranger what it held."""

    module: nn.Module
    inputs: list[Tensor]
    potentials: list[Tensor]


class _Observer:
    """Runs a copy of the model forward and backward."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss

    def __call__(self, images: NDArray[Any], labels: NDArray[np.integer]) -> Pass:
        """See :class:`sbp_core.signal.Observe`."""
        twin = self._twin()
        seen: dict[str, _Seen] = {}
        for path, module in twin.named_modules():
            if _kind(module):
                module.register_forward_hook(_recorder(seen, path.removeprefix("_orig_mod.")))
        x, y = self._given(images, labels)
        with torch.enable_grad(), random_numbers_kept(twin):
            loss = self._loss(twin(x), y)
        named = {name: p for name, p in twin.named_parameters() if p.requires_grad}
        inputs = [x for found in seen.values() for x in found.inputs]
        gradients = torch.autograd.grad(loss, [*inputs, *named.values()], materialize_grads=True)
        rest = iter(gradients[: len(inputs)])
        met = (_met(path, found, [next(rest) for _ in found.inputs]) for path, found in seen.items())
        values = zip(named, gradients[len(inputs) :], strict=True)
        return Pass.of(met, {name: _array(value) for name, value in values}, float(loss.detach()))

    def weight(self, name: str) -> NDArray[Any]:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        return _array(private.original(self._model).get_parameter(name))

    @torch.no_grad()
    def moved(self, images: NDArray[Any], labels: NDArray[np.integer], name: str, move: NDArray[Any]) -> float:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        twin = self._twin()
        weight = twin.get_parameter(name)
        x, y = self._given(images, labels)
        other = {name: weight + torch.tensor(move, dtype=weight.dtype, device=weight.device)}
        with random_numbers_kept(twin):
            return float(self._loss(torch.func.functional_call(twin, other, (x,)), y))

    def _twin(self) -> nn.Module:
        """Return a copy in training, without dropout and without a past."""
        twin = twin_of(self._model)
        for module in twin.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
            elif isinstance(module, LIF):
                # a start that follows stays what this pass takes
                module.eval()
            elif _kind(module) in ("spikingjelly", "snntorch"):
                _forget(module)
        return twin

    def _given(self, images: NDArray[Any], labels: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        like = next(self._model.parameters(), torch.zeros(()))
        x = torch.tensor(images, dtype=like.dtype, device=like.device)
        return x, torch.tensor(labels, dtype=torch.int64, device=like.device)


def _recorder(seen: dict[str, _Seen], path: str) -> Callable[[Any, Any, Any], None]:
    def record(module: Any, given: Any, output: Any) -> None:
        found = seen.setdefault(path, _Seen(module, [], []))
        found.inputs.append(given[0])
        if _kind(module) == "snntorch":
            found.potentials.append(module.mem.detach())

    return record


def _met(path: str, found: _Seen, gradients: list[Tensor]) -> Met | Firing:
    """Return what went into the neurons, or what they did."""
    module = found.module
    kind = _kind(module)
    # one that is called with all its steps has time in front already
    whole = kind == "sbp" or (kind == "spikingjelly" and getattr(module, "step_mode", "s") == "m")
    x, gradient = (_array(torch.cat(values) if whole else torch.stack(values)) for values in (found.inputs, gradients))
    if kind == "snntorch":
        return _stranger(path, module, torch.stack(found.potentials), gradient)
    if not isinstance(module, LIF):
        return Met(path, neuron_spec(module, path), x, gradient)
    return Met(path, learnt(module), x, gradient)


def learnt(module: LIF) -> LIFSpec:
    """Return the neuron with the values that it has learnt."""
    first = module.initial_potential if module.running_potential is None else module.running_potential
    values = (module.decay_logit, first)
    return signal.learnt(module.spec, *(None if value is None else value.detach() for value in values))


def _stranger(path: str, module: Any, potential: Tensor, gradient: NDArray[Any]) -> Firing:
    """Return what snnTorch's neurons did, whose surrogate is a function: by its gradient."""
    over = (potential - module.threshold).detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(module.spike_grad(over).sum(), over)
        nought = torch.zeros((), dtype=over.dtype, requires_grad=True)
        (peak,) = torch.autograd.grad(module.spike_grad(nought).sum(), nought)
    return Firing(path, _array(over > 0), _array(slope >= INSIDE * peak), gradient)


def _kind(module: nn.Module) -> str | None:
    """Return whose neuron it is, None where it is none that is known."""
    if isinstance(module, LIF):
        return "sbp"
    home = type(module).__module__.partition(".")[0]
    if home == "spikingjelly" and type(module).__name__ in NODES:
        return "spikingjelly"
    if home == "snntorch" and all(hasattr(module, name) for name in ("mem", "threshold", "spike_grad")):
        return "snntorch"
    return None


def _forget(module: Any) -> None:
    if hasattr(module, "reset_mem"):
        module.reset_mem()
    elif callable(getattr(module, "reset", None)):
        module.reset()


def _loss_of(model: nn.Module) -> Loss:
    def loss(given: Any, labels: Tensor) -> Tensor:
        if isinstance(given, ShortcutOutput) and isinstance(model, Shortcut):
            composed: Tensor = ShortcutLoss(LossSpec(combine="losses"))(given, labels, model.coefficient)
            return composed
        # snnTorch's networks give spikes with potentials
        logits = given[0] if isinstance(given, tuple | list) else given
        return functional.cross_entropy(logits.mean(0) if logits.ndim == 3 else logits, labels)

    return loss


def _array(value: Any) -> NDArray[Any]:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    plain = value.detach().cpu()
    found: NDArray[Any] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return found
