"""PyTorch under the contract of the conformance suite: NumPy in and out, the public functions in between."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sbp_core.backend import (
    Array,
    Batch,
    LossResult,
    Mode,
    MomentumSGD,
    NetworkResult,
    NeuronResult,
    ShortcutNetwork,
    SpikeResult,
    TrainingResult,
)
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate
from sbp_torch.coefficient import CoefficientScheduler
from sbp_torch.functional import Implementation, lif, spike
from sbp_torch.losses import ShortcutLoss
from sbp_torch.networks import ResNet
from sbp_torch.shortcut import Shortcut
from sbp_torch.weights import export_weights, import_weights

_VJP: Any = torch.func.vjp  # its stub knows only the variant with auxiliary values


class TorchBackend:
    """Eager, or one full graph of torch.compile."""

    name: str = "torch"
    versions: Mapping[str, str] = {"torch": torch.__version__}
    modes: Sequence[Mode] = ("eager", "compiled", "vmapped")
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")
    implementation: Implementation = "auto"

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire where ``x > 0`` (``>=`` if inclusive) and differentiate with the surrogate."""
        if mode == "vmapped":
            return _mapped_spike(_tensor(x, dtype), surrogate, _tensor(cotangent, dtype), inclusive=inclusive)
        given = _tensor(x, dtype).requires_grad_()
        spikes = _run(lambda x: spike(x, surrogate, inclusive=inclusive), mode)(given)
        (gradient,) = _gradients([spikes], [given], [_tensor(cotangent, dtype)])
        return SpikeResult(_array(spikes), _array(gradient), _name(spikes))

    def neuron(
        self,
        spec: LIFSpec,
        x: Array,
        state: LIFState | None,
        output_cotangent: Array,
        state_cotangent: LIFState,
        *,
        decay_logit: float | None,
        dtype: str,
        mode: Mode,
    ) -> NeuronResult:
        """Run ``spec`` over ``x`` from ``state`` and differentiate."""
        given = _tensor(x, dtype).requires_grad_()
        start = None if state is None else _each(state, lambda part: _tensor(part, dtype).requires_grad_())
        logit = None if decay_logit is None else _tensor(np.asarray(decay_logit), dtype).requires_grad_()

        def run(x: Tensor, state: LIFState | None, logit: Tensor | None) -> tuple[Tensor, LIFState]:
            decay = None if logit is None else torch.sigmoid(logit)
            return lif(x, spec, state, decay=decay, implementation=self.implementation)

        if mode == "vmapped":
            cotangents = _tensor(output_cotangent, dtype), _each(state_cotangent, lambda part: _tensor(part, dtype))
            return _mapped_neuron(run, given.detach(), start, logit, cotangents)
        output, final = _run(run, mode)(given, start, logit)
        parts = {} if start is None else {name: part for name, part in start._asdict().items() if part is not None}
        inputs = [given, *parts.values(), *([] if logit is None else [logit])]
        weights = _each(state_cotangent, lambda part: _tensor(part, dtype))
        pairs = [(part, weight) for part, weight in zip(final, weights, strict=True) if part is not None]
        gradients = _gradients(
            [output, *(part for part, _ in pairs)],
            inputs,
            [_tensor(output_cotangent, dtype), *(weight for _, weight in pairs)],
        )
        grad_parts = dict(zip(parts, map(_array, gradients[1 : 1 + len(parts)]), strict=True))
        return NeuronResult(
            _array(output),
            _each(final, _array),
            _array(gradients[0]),
            LIFState(grad_parts.pop("potential", None), **grad_parts),
            None if logit is None else float(gradients[-1]),
            _name(output),
        )

    def loss(
        self,
        main: Array,
        branches: Sequence[Array],
        labels: Array,
        coefficient: float,
        *,
        spec: LossSpec,
        dtype: str,
        mode: Mode,
    ) -> LossResult:
        """Compose main and branch logits into a mean cross-entropy and differentiate."""
        logits = [_tensor(array, dtype).requires_grad_() for array in (main, *branches)]
        compose = ShortcutLoss(spec)

        def run(logits: list[Tensor], labels: Tensor, coefficient: Tensor) -> Tensor:
            loss: Tensor = compose(ShortcutOutput(logits[0], tuple(logits[1:])), labels, coefficient)
            return loss

        value = _run(run, mode)(logits, torch.tensor(labels), _tensor(np.asarray(coefficient), dtype))
        gradients = [_array(gradient) for gradient in _gradients([value], logits, [torch.ones_like(value)])]
        return LossResult(value.item(), gradients[0], tuple(gradients[1:]), _name(value))

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the coefficient at ``step``."""
        return float(_run(lambda step: schedule(step), mode)(torch.tensor(step)))

    def network(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batch: Batch,
        coefficient: float,
        *,
        dtype: str,
        mode: Mode,
    ) -> NetworkResult:
        """Run and differentiate a training step, then evaluate."""
        model = _model(network, weights, dtype)
        model.set_coefficient(coefficient)
        images, labels = _tensor(batch.images, dtype), torch.tensor(batch.labels)
        loss, logits = _run(_forward(model, network), mode)(images, labels)
        loss.backward()
        statistics = _statistics(model)
        with torch.no_grad():
            evaluated = model.eval()(images)
            blocks = _block_outputs(model.train(), images)
            # parameters hold their gradients for a moment, and are exported by name
            for parameter in model.parameters():
                parameter.copy_(_gradient_of(parameter))
        gradients = {name: array for name, array in export_weights(model).items() if name not in statistics}
        return NetworkResult(
            tuple(map(_array, logits)),
            float(loss),
            gradients,
            statistics,
            _array(evaluated),
            {name: _array(output) for name, output in blocks.items()},
            _name(logits[0]),
        )

    def training(
        self,
        network: ShortcutNetwork,
        weights: Mapping[str, Array],
        batches: Sequence[Batch],
        schedule: Schedule,
        optimizer: MomentumSGD,
        *,
        dtype: str,
        mode: Mode,
    ) -> TrainingResult:
        """Train with torch.optim.SGD and the coefficient's scheduler."""
        model = _model(network, weights, dtype)
        scheduler = CoefficientScheduler(model, schedule)
        sgd = torch.optim.SGD(model.parameters(), optimizer.learning_rate, optimizer.momentum)
        forward = _run(_forward(model, network), mode)
        losses = []
        for images, labels in batches:
            sgd.zero_grad()
            loss, logits = forward(_tensor(images, dtype), torch.tensor(labels))
            loss.backward()
            sgd.step()
            scheduler.step()
            losses.append(float(loss))
        return TrainingResult(tuple(losses), export_weights(model), _name(logits[0]))


class FusedTorchBackend(TorchBackend):
    """The fused loops, which small inputs do not take by themselves."""

    name = "torch-fused"
    modes: Sequence[Mode] = ("eager",)
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16")
    implementation: Implementation = "fused"


def make_backend() -> TorchBackend:
    """Return the backend."""
    return TorchBackend()


def make_fused_backend() -> FusedTorchBackend:
    """Return the backend that runs every neuron by the fused loops: each spec is compiled, which takes a while."""
    return FusedTorchBackend()


def _model(network: ShortcutNetwork, weights: Mapping[str, Array], dtype: str) -> Shortcut:
    net = ResNet(network.spec)
    model = Shortcut(net, network.taps, network.spec.num_classes, combine=network.loss.combine)
    model.to(getattr(torch, dtype))
    import_weights(model, weights)
    return model


def _forward(
    model: Shortcut, network: ShortcutNetwork
) -> Callable[[Tensor, Tensor], tuple[Tensor, tuple[Tensor, ...]]]:
    criterion = ShortcutLoss(network.loss)

    def forward(images: Tensor, labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        given = model(images)
        output = ShortcutOutput(given, ()) if isinstance(given, Tensor) else given
        return criterion(output, labels, model.coefficient), (output.main, *output.branches)

    return forward


def _statistics(model: Shortcut) -> dict[str, Array]:
    return {name: array for name, array in export_weights(model).items() if ".running_" in name}


def _block_outputs(model: Shortcut, images: Tensor) -> dict[str, Tensor]:
    net, found = model.main, dict[str, Tensor]()
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, inputs, output, name=name: found.update({name: output}))
        for name in net.spec.tap_channels  # type: ignore[union-attr]
    ]
    net(images)
    for hook in hooks:
        hook.remove()
    return found


def _gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _mapped_spike(x: Tensor, surrogate: Surrogate, cotangent: Tensor, *, inclusive: bool) -> SpikeResult:
    def one(x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        spikes, pull = _VJP(lambda x: spike(x, surrogate, inclusive=inclusive), x)
        return spikes, pull(cotangent)[0]

    spikes, gradient = torch.func.vmap(one)(x, cotangent)
    return SpikeResult(_array(spikes), _array(gradient), _name(spikes))


def _mapped_neuron(
    run: Callable[..., tuple[Tensor, LIFState]],
    x: Tensor,
    state: LIFState | None,
    logit: Tensor | None,
    cotangents: tuple[Tensor, LIFState],
) -> NeuronResult:
    """Differentiate sample by sample; each is a batch of one. The decay is shared: its gradients add up."""
    output_cotangent, state_cotangent = cotangents
    names = [name for name, part in state_cotangent._asdict().items() if part is not None]
    parts = {} if state is None else {name: getattr(state, name).detach() for name in names}
    shared = {} if logit is None else {"logit": logit.detach()}

    def one(x: Tensor, output_cotangent: Tensor, weights: list[Tensor], parts: dict[str, Tensor]) -> Any:
        def forward(x: Tensor, parts: dict[str, Tensor], shared: dict[str, Tensor]) -> Any:
            output, final = run(x, LIFState(**parts) if parts else None, shared.get("logit"))
            return output, [getattr(final, name) for name in names]

        (output, final), pull = _VJP(forward, x, parts, shared)
        return output, final, pull((output_cotangent, weights))

    # a batch of one each: the mapped axis comes before it
    over_batch = [tensor.unsqueeze(2).movedim(1, 0) for tensor in (x, output_cotangent)]
    mapped: Callable[..., Any] = torch.func.vmap(one)
    weights = [getattr(state_cotangent, name).unsqueeze(1) for name in names]
    starts = {name: part.unsqueeze(1) for name, part in parts.items()}
    output, final, (grad_x, grad_parts, grad_shared) = mapped(*over_batch, weights, starts)
    return NeuronResult(
        _array(output.movedim(0, 1).squeeze(2)),
        LIFState(**dict(zip(names, (_array(part.squeeze(1)) for part in final), strict=True))),
        _array(grad_x.movedim(0, 1).squeeze(2)),
        LIFState(**({"potential": None} | {name: _array(part.squeeze(1)) for name, part in grad_parts.items()})),
        None if logit is None else float(grad_shared["logit"].sum()),
        _name(output),
    )


def _run(function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
    if mode == "eager":
        return function
    # cases share this file's code objects, and torch.compile gives up on one after a few recompilations
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def _gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Sequence[Tensor]:
    pairs = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
    return torch.autograd.grad(
        [output for output, _ in pairs],
        list(inputs),
        [cotangent for _, cotangent in pairs],
        materialize_grads=True,
    )


def _tensor(array: Array, dtype: str) -> Tensor:
    # in the memory layout that it has, read-only or not; PyTorch knows no negative strides
    given = array if min(array.strides, default=0) >= 0 else array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(given) if given.ndim else torch.tensor(given)
    return tensor.to(getattr(torch, dtype))


def _array(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu()
    return (plain.double() if plain.dtype == torch.bfloat16 else plain).numpy()


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _each(state: LIFState, function: Callable[[Any], Any]) -> LIFState:
    return LIFState(*(None if part is None else function(part) for part in state))
