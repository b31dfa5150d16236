"""Norse 1.1's neurons and surrogates, beside our presets of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comparison import Array, PeerNeuron, PeerSurrogate
from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters, lif_feed_forward_step
from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step
from norse.torch.functional.threshold import threshold
from torch_runs import gradient_of, run_steps

from sbp_core import Surrogate, presets

PEER = "Norse 1.1"
Step = Callable[[torch.Tensor, object], tuple[torch.Tensor, object]]


def _run(step: Step, start: Callable[[torch.Tensor], object]) -> Callable[[Array, Array], tuple[Array, Array]]:
    def forward(inputs: torch.Tensor) -> torch.Tensor:
        state, spikes = start(torch.zeros_like(inputs[0])), []
        for value in inputs:
            spike, state = step(value, state)
            spikes.append(spike)
        return torch.stack(spikes)

    return lambda x, cotangent: run_steps(forward, x, cotangent)


def _bump(method: str, alpha: float, preset: Surrogate, note: str = "") -> PeerSurrogate:
    def spike(x: torch.Tensor) -> torch.Tensor:
        return threshold(x, method, alpha)

    return PeerSurrogate(peer=PEER, name=f"{method}({alpha:g})", preset=preset, gradient=gradient_of(spike), note=note)


NEURONS = [
    PeerNeuron(
        peer=PEER,
        name="LIFBoxCell()",
        preset=presets.norse_lif_box(),
        run=_run(
            lambda value, state: lif_box_feed_forward_step(value, state, LIFBoxParameters()),
            lambda zero: LIFBoxFeedForwardState(v=zero),
        ),
    ),
    PeerNeuron(
        peer=PEER,
        name="LIFCell()",
        preset=presets.norse_lif(),
        run=_run(
            lambda value, state: lif_feed_forward_step(value, state, LIFParameters()),
            lambda zero: LIFFeedForwardState(v=zero, i=zero),
        ),
    ),
]

SURROGATES = [
    _bump("super", 100.0, presets.norse_superspike(), "1.1.0 takes alpha and does not use it"),
    _bump("triangle", 0.3, presets.norse_triangle()),
    _bump("tanh", 1.0, presets.norse_tanh()),
    _bump("heavi_erfc", 1.0, presets.norse_heavi_erfc()),
]

WITHOUT_PRESET = ("heavi_tanh", "logistic", "heavi_circ", "circ_dist")
