"""spyx 1's neurons and surrogates, beside our presets of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Array, PeerNeuron, PeerSurrogate
from flax import nnx
from spyx import axn, nn

from sbp_core import StraightThrough, Surrogate, presets

PEER = "spyx 1"
jax.config.update("jax_enable_x64", True)


def _lif(beta: float) -> PeerNeuron:
    def run(x: Array, cotangent: Array) -> tuple[Array, Array]:
        node = nn.LIF(x.shape[2:], beta=beta, rngs=nnx.Rngs(0))

        def forward(inputs: jax.Array) -> jax.Array:
            def step(state: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
                spikes, state = node(value, state)
                return state, spikes

            return jax.lax.scan(step, node.initial_state(x.shape[1]), inputs)[1]

        spikes, backward = jax.vjp(forward, jnp.asarray(x))
        return np.asarray(spikes), np.asarray(backward(jnp.asarray(cotangent))[0])

    return PeerNeuron(peer=PEER, name=f"LIF(beta={beta})", preset=presets.spyx_lif(beta=beta), run=run)


def _bump(name: str, spike: Callable[[jax.Array], jax.Array], preset: Surrogate, note: str = "") -> PeerSurrogate:
    def gradient(x: Array) -> Array:
        return np.asarray(jax.grad(lambda value: spike(value).sum())(jnp.asarray(x)))

    return PeerSurrogate(peer=PEER, name=name, preset=preset, gradient=gradient, note=note)


NEURONS = [_lif(0.9), _lif(0.5)]

SURROGATES = [
    _bump("superspike(25)", axn.superspike(), presets.spyx_superspike()),
    _bump("arctan(2)", axn.arctan(), presets.spyx_arctan()),
    _bump("boxcar(2, 0.5)", axn.boxcar(), presets.spyx_boxcar()),
    _bump("triangular(2)", axn.triangular(), presets.spyx_triangular()),
    _bump("tanh(1)", axn.tanh(), presets.spyx_tanh()),
    _bump("custom()", axn.custom(), StraightThrough(), "documented as straight through; its default gradient is x"),
]

WITHOUT_PRESET: tuple[str, ...] = ()
