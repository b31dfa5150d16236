"""PyTorch under the contract: eager, one full graph of torch.compile, and mapped by torch.func."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sbp_core.backend import Array, Mode, MomentumSGD, ShortcutNetwork
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate
from sbp_torch.coefficient import CoefficientScheduler
from sbp_torch.losses import ShortcutLoss
from sbp_torch.networks import Network
from sbp_torch.neuron import Implementation, lif
from sbp_torch.shortcut import Shortcut
from sbp_torch.spike import spike
from sbp_torch.weights import export_weights, import_weights

_VJP: Any = torch.func.vjp  # its stub knows only the variant with auxiliary values


class TorchEngine:
    """Tensors on the default device, and autograd.

    Args:
        name: what the table calls it.
        implementation: how its neurons run.
        modes: what it offers.
        dtypes: what it offers.
    """

    versions: Mapping[str, str] = {"torch": torch.__version__}

    def __init__(
        self,
        name: str = "torch",
        implementation: Implementation = "auto",
        modes: Sequence[Mode] = ("eager", "compiled", "vmapped"),
        dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16"),
    ) -> None:
        self.name, self.modes, self.dtypes = name, modes, dtypes
        self._implementation = implementation

    def array(self, values: Array, dtype: str | None) -> Tensor:
        """Return a tensor in the memory layout of ``values``, but for negative strides, which PyTorch lacks."""
        given = values if min(values.strides, default=0) >= 0 else values.copy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(given)
        return tensor.to(torch.get_default_device(), getattr(torch, dtype or "int64"))

    def numpy(self, array: Tensor) -> Array:
        """Return a tensor's values."""
        plain = array.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()

    def vjp(
        self, function: Callable[..., Sequence[Any]], inputs: Sequence[Any], cotangents: Sequence[Any], mode: Mode
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run, and pull back by autograd; each sample by itself where they are mapped."""
        if mode == "vmapped":

            def one(inputs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> tuple[Any, Any]:
                outputs, pull = _VJP(lambda *arrays: tuple(function(*arrays)), *inputs)
                return outputs, pull(cotangents)

            mapped: Callable[..., Any] = torch.func.vmap(one)
            found: tuple[Any, Any] = mapped(tuple(inputs), tuple(cotangents))
            return found
        leaves = [array.detach().requires_grad_() for array in inputs]
        outputs = self.run(function, mode)(*leaves)
        pairs = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
        if not pairs:
            return outputs, [torch.zeros_like(leaf) for leaf in leaves]
        moving, weights = zip(*pairs, strict=True)
        return outputs, torch.autograd.grad(moving, leaves, weights, materialize_grads=True)

    def run(self, function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
        """Return the function, or what compiles it."""
        if mode == "eager":
            return function
        # cases share code objects, and torch.compile gives up on one after a few recompilations
        torch.compiler.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)

    def spike(self, x: Tensor, surrogate: Surrogate, *, inclusive: bool) -> Tensor:
        """Fire."""
        return spike(x, surrogate, inclusive=inclusive)

    def neuron(self, spec: LIFSpec, dtype: str) -> Callable[..., tuple[Tensor, LIFState]]:
        """Return the neuron over time."""

        def run(x: Tensor, state: LIFState | None, decay_logit: Tensor | None) -> tuple[Tensor, LIFState]:
            decay = None if decay_logit is None else torch.sigmoid(decay_logit)
            output, final = lif(x, spec, state, decay=decay, implementation=self._implementation)
            return output, final

        return run

    def loss(self, spec: LossSpec, output: ShortcutOutput, labels: Tensor, coefficient: Tensor) -> Tensor:
        """Compose the loss."""
        composed: Tensor = ShortcutLoss(spec)(output, labels, coefficient)
        return composed

    def network(
        self, network: ShortcutNetwork, weights: Mapping[str, Array], images: Tensor, dtype: str, mode: Mode
    ) -> _Network:
        """Build the network in a Shortcut."""
        model = Shortcut(
            Network(network.spec),
            network.taps,
            network.spec.num_classes,
            combine=network.loss.combine,
            branch=network.branch,
        )
        model.to(images.device, images.dtype)
        import_weights(model, weights)
        return _Network(model, ShortcutLoss(network.loss), lambda forward: self.run(forward, mode))


class _Network:
    """A Shortcut and its loss: :class:`sbp_core.backend.BuiltNetwork`."""

    def __init__(
        self, model: Shortcut, criterion: ShortcutLoss, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            given = model(images)
            output = ShortcutOutput(given, ()) if isinstance(given, Tensor) else given
            return criterion(output, labels, model.coefficient), (output.main, *output.branches)

        self._model, self._forward = model, compiled(forward)

    def differentiate(self, images: Tensor, labels: Tensor, coefficient: float) -> tuple[Tensor, Sequence[Tensor]]:
        self._model.set_coefficient(coefficient)
        loss, logits = self._forward(images, labels)
        loss.backward()
        return loss, logits

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        logits: Tensor = self._model.eval()(images)
        self._model.train()
        return logits

    @torch.no_grad()
    def blocks(self, images: Tensor) -> dict[str, Tensor]:
        net, found = self._model.main, dict[str, Tensor]()
        hooks = [
            net.get_submodule(name).register_forward_hook(
                lambda _, given, output, name=name: found.update({name: output})
            )
            for name in net.spec.tap_channels  # type: ignore[union-attr]
        ]
        net(images)
        for hook in hooks:
            hook.remove()
        return found

    def weights(self) -> dict[str, Array]:
        return export_weights(self._model)

    @torch.no_grad()
    def gradients(self) -> dict[str, Array]:
        # parameters hold their gradients, and are exported by name
        for parameter in self._model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        return self.weights()

    def trainer(
        self, schedule: Schedule, optimizer: MomentumSGD
    ) -> Callable[[Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]]:
        scheduler = CoefficientScheduler(self._model, schedule)
        sgd = torch.optim.SGD(self._model.parameters(), optimizer.learning_rate, optimizer.momentum)

        def train(images: Tensor, labels: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
            sgd.zero_grad()
            loss, logits = self._forward(images, labels)
            loss.backward()
            sgd.step()
            scheduler.step()
            return loss, logits

        return train


def make_engine() -> TorchEngine:
    """Return the engine."""
    return TorchEngine()


def make_fused_engine() -> TorchEngine:
    """Return the engine that runs every neuron by the fused loops, which small inputs do not take by themselves."""
    return TorchEngine("torch-fused", "fused", ("eager",), ("float64", "float32", "bfloat16"))
