"""Holds a peer's neurons and surrogates to our presets of them: spike for spike, gradient for gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbp_core import LIFSpec, LIFState, Surrogate
from sbp_core.reference import neuron

Array = NDArray[np.float64]
SEED = 20261123
SHAPE = (100, 16, 32)
GUARD = 1e-5
# several peers keep constants in float32, whatever the input is
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class PeerNeuron:
    """A peer's neuron: ``run`` maps input and cotangent, ``(time, batch, n)`` float64, to spikes and input gradient."""

    peer: str
    name: str
    preset: LIFSpec
    run: Callable[[Array, Array], tuple[Array, Array]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PeerSurrogate:
    """A peer's surrogate: ``gradient`` maps ``u - threshold`` to the derivative of the spike there."""

    peer: str
    name: str
    preset: Surrogate
    gradient: Callable[[Array], Array]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: ``error`` is the worst gradient difference over the largest gradient, or NaN."""

    peer: str
    name: str
    spikes: int
    flipped: int
    error: float
    note: str

    @property
    def equal(self) -> bool:
        """Whether no spike differs and gradients agree."""
        return self.flipped == 0 and self.error <= TOLERANCE


def compare_neuron(peer: PeerNeuron) -> Row:
    """Run a peer's neuron and the reference of its preset on the same input."""
    random = np.random.default_rng(SEED)
    x = _away_from_jumps(peer.preset, random)
    cotangent = random.normal(size=SHAPE)
    spikes, gradient = peer.run(x, cotangent)
    expected = neuron.adjoint(peer.preset, x, None, cotangent, _zeros(peer.preset, x[0]))
    return Row(
        peer=peer.peer,
        name=peer.name,
        spikes=spikes.size,
        flipped=int(np.sum(spikes != expected.output)),
        error=_relative(gradient, expected.grad_input),
        note=peer.note,
    )


def compare_surrogate(peer: PeerSurrogate) -> Row:
    """Compare a peer's surrogate with its preset on a grid that no jump touches, far tails included."""
    x = np.concatenate([np.linspace(-3.001, 3.0013, 4001), [-100.0, -10.0, -5.0, 5.0, 10.0, 100.0]])
    expected = peer.preset.derivative(x, np)
    return Row(
        peer=peer.peer,
        name=peer.name,
        spikes=0,
        flipped=0,
        error=_relative(peer.gradient(x), expected),
        note=peer.note,
    )


def _relative(found: Array, expected: Array) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def _zeros(spec: LIFSpec, like: Array) -> LIFState:
    return LIFState(*(None if part is None else np.zeros_like(like) for part in neuron.initial_state(spec, like)))


def _away_from_jumps(spec: LIFSpec, random: np.random.Generator) -> Array:
    # each (batch, n) neuron is a run of its own: redraw those that come within rounding of a jump
    x = random.normal(0.4, 0.7, SHAPE) / _gain(spec)
    for _ in range(100):
        close = _near_jump(spec, x)
        if not close.any():
            return x
        x[:, close] = random.normal(0.4, 0.7, (SHAPE[0], int(close.sum()))) / _gain(spec)
    raise RuntimeError(f"no input away from the threshold found for {spec} with seed {SEED}")


def _gain(spec: LIFSpec) -> float:
    gain = 1.0 - spec.decay if spec.input_gain == "complement" else spec.input_gain
    return float(gain)


def _near_jump(spec: LIFSpec, x: Array) -> NDArray[np.bool_]:
    close = np.zeros(x.shape[1:], bool)
    for index in np.ndindex(*x.shape[1:]):
        close[index] = neuron.margin(spec, x[(slice(None), *index)][:, None]) < GUARD
    return close
