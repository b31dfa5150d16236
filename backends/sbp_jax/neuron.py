"""The canonical neuron over time as a pure function: state in, state out."""

from __future__ import annotations

import functools
from numbers import Real
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from sbp_core import dynamics, validation
from sbp_core.inputs import check_input, check_neuron, check_state
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_jax.spike import spike

Implementation = Literal["auto", "unrolled", "scan"]

# Measured on a CPU (benchmarks/neuron_jax.py): XLA fuses up to 5 steps into one pass over memory; from 6 on its fusion
# computes the earlier steps again for each later one, and costs more than a loop.
UNROLL_UP_TO = 5


def lif(
    x: jax.Array,
    spec: LIFSpec | None = None,
    state: LIFState | None = None,
    *,
    decay: Any = None,
    implementation: Implementation = "auto",
    time_axis: Literal[0, 1] = 0,
) -> tuple[jax.Array, LIFState]:
    """Run a neuron over time (equations: :class:`~sbp_core.LIFSpec`; Guo et al. 2024, Eq. 1-3).

    Works under ``jit``, ``grad``, ``vmap`` and their compositions, in forward and reverse mode. The backward pass
    computes again what it needs, so that little is kept for it: see ``implementation``.

    Args:
        x: input, shape ``(time, batch, ...)``, floating.
        spec: the neuron; None for the paper's.
        state: where it starts, each part of the shape and dtype of one step of ``x``; None for afresh, the
            potential that the spec says and the other parts 0.
        decay: takes the place of ``spec.decay``, traced or not: a scalar, or an array that broadcasts to one step; a
            learnt decay is ``jax.nn.sigmoid(w)``.
        implementation: "unrolled" makes all steps one computation, which XLA fuses, and keeps the input alone for the
            backward pass; "scan" is a loop over steps, which keeps the input and the states; "auto" unrolls up to
            ``UNROLL_UP_TO`` steps. They give the same results.
        time_axis: 1 where ``x``, and so the output, is ``(batch, time, ...)``.

    Returns:
        The output, in the shape and dtype of ``x``, and the last state.

    Raises:
        ValueError: a wrong shape, no time step, a state of another shape, an unknown implementation or time axis, or a
            decay outside [0, 1] (where it is a Python number) or that does not broadcast.
        TypeError: integers, a state of another dtype, or a spec that is none.

    Example:
        >>> spikes, state = lif(jnp.full((3, 1), 0.75))
        >>> spikes.ravel().tolist(), state.potential.tolist()
        ([0.0, 1.0, 0.0], [0.75])
    """
    spec = LIFSpec() if spec is None else spec
    check_neuron(spec, decay)
    x = jnp.asarray(x)
    check_input(x.shape, x.dtype.name, time_axis=time_axis)
    x = jnp.moveaxis(x, time_axis, 0)
    if state is None:
        state = initial_state(spec, x[0])
    else:
        check_state(spec, state, x.shape[1:], x.dtype.name)
    if decay is not None:
        decay = _checked_decay(decay, x)

    last, output = _run(spec, implementation_for(x, implementation), state, x, decay)
    return jnp.moveaxis(output, 0, time_axis), last


# compiled by spec and shape: eagerly, a loop over a new function is compiled again in every call
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    spec: LIFSpec, implementation: Literal["unrolled", "scan"], state: LIFState, x: jax.Array, decay: jax.Array | None
) -> tuple[LIFState, jax.Array]:
    def advance(state: LIFState, now: jax.Array) -> tuple[LIFState, jax.Array]:
        output, state = dynamics.step(
            spec,
            state,
            now,
            spike=lambda u: spike(u, spec.surrogate, inclusive=spec.inclusive),
            detach=lax.stop_gradient,
            sigmoid=jax.nn.sigmoid,
            decay=decay,
        )
        return state, output

    if implementation == "unrolled":
        last, output = jax.checkpoint(lambda state, x: lax.scan(advance, state, x, unroll=x.shape[0]))(state, x)
    else:
        # in a loop nothing can be merged with its recomputation, so that needs no guard
        last, output = lax.scan(jax.checkpoint(advance, prevent_cse=False), state, x)
    return last, output


def implementation_for(x: jax.Array, implementation: Implementation = "auto") -> Literal["unrolled", "scan"]:
    """Return what :func:`lif` runs on an input, "unrolled" or "scan".

    Raises:
        ValueError: an unknown implementation.

    Example:
        >>> implementation_for(jnp.ones((4, 2))), implementation_for(jnp.ones((100, 2)))
        ('unrolled', 'scan')
    """
    validation.choice("implementation", implementation, ("auto", "unrolled", "scan"))
    if implementation == "auto":
        return "unrolled" if x.shape[0] <= UNROLL_UP_TO else "scan"
    return implementation


def initial_state(spec: LIFSpec, like: jax.Array, potential: Any = None) -> LIFState:
    """Return the state of a neuron that starts afresh: the potential that the spec says, the other parts 0.

    Args:
        spec: the neuron.
        like: one step of its input, shape ``(batch, ...)``.
        potential: takes the place of the spec's, as a learnt one does: a scalar, or an array that broadcasts.

    Example:
        >>> initial_state(LIFSpec(rest=0.5), jnp.ones((2,))).potential.tolist()
        [0.5, 0.5]
    """
    start = spec.start if potential is None else spec.start | {"potential": potential}
    return LIFState(**{name: jnp.full_like(like, value) for name, value in start.items()})


def _checked_decay(decay: Any, x: jax.Array) -> jax.Array:
    if isinstance(decay, Real):
        validation.within("decay", decay, 0.0, 1.0)  # type: ignore[arg-type]
    array = jnp.asarray(decay, x.dtype)
    step = x.shape[1:]
    try:
        fits = jnp.broadcast_shapes(array.shape, step) == step
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"decay must be a scalar or broadcast to one step of x, {step}; got shape {array.shape}")
    return array
