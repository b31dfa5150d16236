"""Spiking neurons as ``flax.nnx`` modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from sbp_core import dynamics
from sbp_core.inputs import check_input, check_neuron
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_jax.neuron import initial_state, lif


class LIF(nnx.Module):
    """The canonical neuron over time (equations: :class:`~sbp_core.LIFSpec`), input and output ``(time, batch, ...)``.

    Each call starts afresh unless a state is passed. The defaults are the neuron of Guo et al. 2024, Eq. 1-3. A learnt
    decay is the scalar ``nnx.Param`` ``decay_logit``, with ``decay = sigmoid(decay_logit)``; a learnt start is
    ``initial_potential``. A start that follows is the ``nnx.BatchStat`` ``running_potential``, of at least float32: in
    training, which ``model.train()`` and ``model.eval()`` switch, each call moves it, but one that is given a state,
    which neither uses nor moves it. Over several devices the compiled call has all samples.

    Args:
        spec: the neuron; or give the spec's fields as keywords instead.
        param_dtype: dtype of a learnt decay or start.
        **fields: fields of :class:`~sbp_core.LIFSpec`.

    Raises:
        ValueError: both a spec and fields, or a field out of range.
        TypeError: not a spec.

    Example:
        >>> LIF(decay=0.5)(jnp.full((3, 1), 0.75)).ravel().tolist()
        [0.0, 1.0, 0.0]
    """

    _default: ClassVar[Callable[..., LIFSpec]] = LIFSpec

    def __init__(self, spec: LIFSpec | None = None, *, param_dtype: Any = jnp.float32, **fields: Any) -> None:
        if spec is not None and fields:
            raise ValueError(f"give either a spec or fields, got spec={spec!r} and {', '.join(sorted(fields))}")
        self.spec: LIFSpec = type(self)._default(**fields) if spec is None else spec
        check_neuron(self.spec)
        if self.spec.learn_decay:
            start = math.log(self.spec.decay / (1.0 - self.spec.decay))
            self.decay_logit = nnx.Param(jnp.asarray(start, param_dtype))
        if self.spec.learn_initial:
            self.initial_potential = nnx.Param(jnp.asarray(self.spec.start["potential"], param_dtype))
        if self.spec.initial_follows:
            running_dtype = jnp.promote_types(jnp.float32, param_dtype)
            self.running_potential = nnx.BatchStat(jnp.asarray(self.spec.start["potential"], running_dtype))
            self.use_running_average = False

    @overload
    def __call__(self, x: jax.Array, state: None = None, *, return_state: Literal[False] = False) -> jax.Array: ...

    @overload
    def __call__(
        self, x: jax.Array, state: LIFState | None = None, *, return_state: bool = False
    ) -> jax.Array | tuple[jax.Array, LIFState]: ...

    def __call__(
        self, x: jax.Array, state: LIFState | None = None, *, return_state: bool = False
    ) -> jax.Array | tuple[jax.Array, LIFState]:
        """Run the neuron over ``x``; with a state, or ``return_state``, return ``(output, state)``.

        Raises:
            ValueError: a wrong shape, no time step, or a state that does not fit.
            TypeError: integers, or a state of another dtype.
        """
        decay = jax.nn.sigmoid(self.decay_logit[...]) if self.spec.learn_decay else None
        start, follows = state, state is None and self.spec.initial_follows
        if follows or (state is None and self.spec.learn_initial):
            check_input(x.shape, x.dtype.name)
            first = self.running_potential if follows else self.initial_potential
            start = initial_state(self.spec, x[0], first[...])
        output, last = lif(x, self.spec, start, decay=decay)
        if follows and not self.use_running_average:
            self._follow(last.potential, output)
        return output if state is None and not return_state else (output, last)

    def _follow(self, potential: jax.Array, output: jax.Array) -> None:
        running = lax.stop_gradient(self.running_potential[...])
        potential, spikes = (lax.stop_gradient(x).astype(running.dtype) for x in (potential, output.sum(0)))
        self.running_potential[...] = dynamics.follow(running, *dynamics.ends(potential, spikes, jnp), jnp)


class IF(LIF):
    """The integrate-and-fire neuron, :class:`LIF` with decay 1 (Guo et al. 2024, Eq. 1 with tau = 1)."""

    _default = LIFSpec.integrate_and_fire


class LeakyIntegrator(LIF):
    """A read-out that never fires: :class:`LIF` that gives its potential."""

    _default = LIFSpec.leaky_integrator


class PLIF(LIF):
    """The PLIF neuron, which learns its decay, one scalar a layer (Fang et al. 2021; ``LIFSpec.parametric``)."""

    _default = LIFSpec.parametric


class CurrentLIF(LIF):
    """A :class:`LIF` neuron whose input passes a decaying synaptic current."""

    _default = LIFSpec.current_based


class CLIF(LIF):
    """The CLIF neuron, a second state of which remembers spikes (Huang et al. 2024; ``LIFSpec.complementary``)."""

    _default = LIFSpec.complementary
