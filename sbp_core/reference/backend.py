"""The reference as a backend of its own, so that everything else is compared with it through one contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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
from sbp_core.reference import losses, neuron
from sbp_core.reference import network as networks
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate


class ReferenceBackend:
    """Values in the asked dtype, gradients always by the float64 adjoint."""

    name: str = "reference"
    versions: Mapping[str, str] = {"numpy": np.__version__}
    modes: Sequence[Mode] = ("eager",)
    dtypes: Sequence[str] = ("float64", "float32", "float16")

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire in ``dtype``; differentiate in float64."""
        cast = np.asarray(x, dtype)
        spikes = (cast >= 0 if inclusive else cast > 0).astype(dtype)
        gradient = surrogate.derivative(cast.astype(np.float64), np) * np.asarray(cotangent, np.float64)
        return SpikeResult(spikes, gradient, dtype)

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
        """Run forward in ``dtype``; differentiate in float64."""
        decay = None if decay_logit is None else 1.0 / (1.0 + math.exp(-decay_logit))
        output, final = neuron.forward(spec, np.asarray(x, dtype), _cast(state, dtype), decay=decay)
        found = neuron.adjoint(
            spec,
            np.asarray(x, dtype).astype(np.float64),
            _cast(_cast(state, dtype), "float64"),
            np.asarray(output_cotangent, np.float64),
            state_cotangent,
            decay=decay,
        )
        grad_logit = None if decay is None else found.grad_decay * decay * (1.0 - decay)
        grad_state = found.grad_state if state is not None else LIFState(None)
        return NeuronResult(output, final, found.grad_input, grad_state, grad_logit, str(output.dtype))

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
        """Compose and differentiate in float64."""
        value, grad_main, grad_branches = losses.loss_of(
            spec, _double(main, dtype), [_double(branch, dtype) for branch in branches], labels, coefficient
        )
        return LossResult(value, grad_main, grad_branches, dtype)

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
        """Run and differentiate in float64; results in ``dtype``."""
        found = networks.network_step(network, weights, batch, coefficient)
        logits, evaluated = tuple(map(_to(dtype), found.logits)), _to(dtype)(found.evaluated)
        statistics, spikes = (
            {name: _to(dtype)(value) for name, value in part.items()} for part in (found.statistics, found.spikes)
        )
        return found._replace(logits=logits, evaluated=evaluated, statistics=statistics, spikes=spikes, dtype=dtype)

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
        """Train in float64; the weights come in ``dtype``."""
        found, _ = networks.train(network, weights, batches, schedule, optimizer)
        return found._replace(weights={name: _to(dtype)(value) for name, value in found.weights.items()}, dtype=dtype)

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Return the schedule's value at a Python number."""
        return float(schedule(step))


def _to(dtype: str) -> Callable[[Array], Array]:
    return lambda array: np.asarray(array, dtype)


def _double(array: Array, dtype: str) -> Array:
    return np.asarray(array, dtype).astype(np.float64)


def _cast(state: LIFState | None, dtype: str) -> LIFState | None:
    if state is None:
        return None
    parts: list[Any] = [None if part is None else np.asarray(part, dtype) for part in state]
    return LIFState(*parts)


def make_backend() -> ReferenceBackend:
    """Return the reference backend."""
    return ReferenceBackend()
