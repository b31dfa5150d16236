"""The JAX adapter under the contract of :class:`sbp_core.backend.Backend`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sbp_core.backend import Array, LossResult, Mode, NeuronResult, SpikeResult
from sbp_core.composition import ShortcutOutput
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.surrogates import Surrogate
from sbp_jax.functional import lif, spike
from sbp_jax.losses import ShortcutLoss


class JaxBackend:
    """``compiled`` is ``jax.jit``; ``eager`` runs operation by operation, loops included (``jax.disable_jit``)."""

    name: str = "jax"
    versions: Mapping[str, str] = {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    modes: Sequence[Mode] = ("eager", "compiled")
    dtypes: Sequence[str] = ("float64", "float32", "bfloat16", "float16")

    def spike(
        self, x: Array, surrogate: Surrogate, cotangent: Array, *, inclusive: bool, dtype: str, mode: Mode
    ) -> SpikeResult:
        """Fire, and pull the cotangent back."""

        def both(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
            spikes, pull = jax.vjp(lambda x: spike(x, surrogate, inclusive=inclusive), x)
            return spikes, pull(cotangent)[0]

        with _precision(dtype):
            spikes, gradient = _run(both, mode, jnp.asarray(x, dtype), jnp.asarray(cotangent, dtype))
        return SpikeResult(_numpy(spikes), _numpy(gradient), spikes.dtype.name)

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
        """Run the neuron, and pull the cotangents of its output and its last state back."""

        def forward(x: jax.Array, state: LIFState | None, logit: jax.Array | None) -> tuple[jax.Array, LIFState]:
            return lif(x, spec, state, decay=None if logit is None else jax.nn.sigmoid(logit))

        def both(inputs: Any, cotangents: Any) -> Any:
            values, pull = jax.vjp(forward, *inputs)
            return values, pull(cotangents)

        with _precision(dtype):
            cast = functools.partial(jnp.asarray, dtype=dtype)
            inputs = jax.tree.map(cast, (x, state, decay_logit))
            cotangents = jax.tree.map(cast, (output_cotangent, state_cotangent))
            (output, last), gradients = _run(both, mode, inputs, cotangents)
        grad_input, grad_state, grad_logit = jax.tree.map(_numpy, gradients)
        return NeuronResult(
            _numpy(output),
            jax.tree.map(_numpy, last),
            grad_input,
            LIFState(None) if grad_state is None else grad_state,
            None if grad_logit is None else float(grad_logit),
            output.dtype.name,
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
        """Compose the logits into a loss, and differentiate it."""

        def value(output: ShortcutOutput, labels: jax.Array, coefficient: jax.Array) -> jax.Array:
            return ShortcutLoss(spec)(output, labels, coefficient)

        with _precision(dtype):
            output = ShortcutOutput(jnp.asarray(main, dtype), tuple(jnp.asarray(branch, dtype) for branch in branches))
            loss, gradient = _run(
                jax.value_and_grad(value), mode, output, jnp.asarray(labels), jnp.asarray(coefficient, dtype)
            )
        gradient = jax.tree.map(_numpy, gradient)
        return LossResult(float(loss), gradient.main, gradient.branches, loss.dtype.name)

    def schedule(self, schedule: Schedule, step: int, *, mode: Mode) -> float:
        """Call the schedule with the step as an integer array."""
        return float(_run(schedule, mode, jnp.asarray(step)))


def make_backend() -> JaxBackend:
    """Return the JAX backend."""
    return JaxBackend()


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    # JAX makes float32 of float64 unless told not to; the user's own setting is back afterwards
    with jax.enable_x64(dtype == "float64"):
        yield


def _run(function: Callable[..., Any], mode: Mode, *arguments: Any) -> Any:
    if mode == "compiled":
        return jax.jit(function)(*arguments)
    with jax.disable_jit():
        return function(*arguments)


def _numpy(array: jax.Array) -> Array:
    values = np.asarray(array)
    return values.astype(np.float64) if array.dtype == jnp.bfloat16 else values
