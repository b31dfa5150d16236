"""snnTorch 1's neurons and surrogates, beside our presets of them."""

from __future__ import annotations

from collections.abc import Callable

import snntorch
import torch
from comparison import Array, PeerNeuron, PeerSurrogate
from snntorch import surrogate
from torch_runs import gradient_of, run_steps

from sbp_core import LIFSpec, StraightThrough, Surrogate, Triangle, presets

PEER = "snnTorch 1"


def _leaky(**fields: object) -> PeerNeuron:
    def run(x: Array, cotangent: Array) -> tuple[Array, Array]:
        node = snntorch.Leaky(**fields)
        memory = node.reset_mem()

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            mem, spikes = memory, []
            for value in inputs:
                spike, mem = node(value, mem)
                spikes.append(spike)
            return torch.stack(spikes)

        return run_steps(forward, x, cotangent)

    name = f"Leaky({', '.join(f'{key}={value}' for key, value in fields.items())})"
    return PeerNeuron(peer=PEER, name=name, preset=presets.snntorch_leaky(**fields), run=run)


def _synaptic() -> PeerNeuron:
    def run(x: Array, cotangent: Array) -> tuple[Array, Array]:
        node = snntorch.Synaptic(alpha=0.75, beta=0.875)
        start = node.reset_mem()

        def forward(inputs: torch.Tensor) -> torch.Tensor:
            (syn, mem), spikes = start, []
            for value in inputs:
                spike, syn, mem = node(value, syn, mem)
                spikes.append(spike)
            return torch.stack(spikes)

        return run_steps(forward, x, cotangent)

    preset: LIFSpec = presets.snntorch_synaptic(alpha=0.75, beta=0.875)
    return PeerNeuron(peer=PEER, name="Synaptic(alpha=0.75, beta=0.875)", preset=preset, run=run)


def _bump(name: str, peer: Callable[[torch.Tensor], torch.Tensor], preset: Surrogate, note: str = "") -> PeerSurrogate:
    return PeerSurrogate(peer=PEER, name=name, preset=preset, gradient=gradient_of(peer), note=note)


NEURONS = [
    _leaky(beta=0.875),
    _leaky(beta=0.5, reset_mechanism="zero"),
    _leaky(beta=0.5, reset_mechanism="zero", reset_delay=False),
    _leaky(beta=0.75, reset_mechanism="none"),
    _synaptic(),
]

SURROGATES = [
    _bump("atan(2)", surrogate.atan(), presets.snntorch_atan()),
    _bump("fast_sigmoid(25)", surrogate.fast_sigmoid(), presets.snntorch_fast_sigmoid()),
    _bump(
        "sigmoid(25)", surrogate.sigmoid(), presets.snntorch_sigmoid(), "NaN where exp(-25 x) overflows, from x = -3.55"
    ),
    _bump("triangular(1)", surrogate.triangular(), Triangle(), "theirs is the sign: +1 below, -1 above, no triangle"),
    _bump("straight_through_estimator()", surrogate.straight_through_estimator(), StraightThrough()),
]

WITHOUT_PRESET = ("spike_rate_escape", "SSO", "LSO", "SFS", "custom_surrogate")
