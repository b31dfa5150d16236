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
        return LossResult(float(value), gradients[0], tuple(gradients[1:]), _name(value))

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


from sbp_torch.coefficient import CoefficientScheduler
from sbp_torch.functional import Implementation, lif, spike


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
