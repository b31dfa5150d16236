"""SpikingJelly 2's neurons and surrogates, beside our presets of them."""

from __future__ import annotations

import torch
from comparison import Array, PeerNeuron, PeerSurrogate
from spikingjelly.activation_based import neuron, surrogate
from torch_runs import gradient_of, run_steps

from sbp_core import FastSigmoid, presets

PEER = "SpikingJelly 2"


def run(make: object) -> object:
    """Return a run of the node that ``make`` makes, in its multi-step mode."""

    def runner(x: Array, cotangent: Array) -> tuple[Array, Array]:
        node = make()
        return run_steps(lambda inputs: torch.stack([node(value) for value in inputs]), x, cotangent)

    return runner


def _node(name: str, make: object, preset: object, note: str = "") -> PeerNeuron:
    return PeerNeuron(peer=PEER, name=name, preset=preset, run=run(make), note=note)


def _bump(name: str, peer: object, preset: object, note: str = "") -> PeerSurrogate:
    return PeerSurrogate(peer=PEER, name=name, preset=preset, gradient=gradient_of(peer), note=note)


NEURONS = [
    _node("LIFNode()", neuron.LIFNode, presets.spikingjelly_lif()),
    _node(
        "LIFNode(decay_input=False, v_reset=None)",
        lambda: neuron.LIFNode(tau=3.0, decay_input=False, v_reset=None),
        presets.spikingjelly_lif(tau=3.0, decay_input=False, v_reset=None),
    ),
    _node(
        "LIFNode(v_reset=-0.2, detach_reset)",
        lambda: neuron.LIFNode(tau=4.0, v_reset=-0.2, detach_reset=True),
        presets.spikingjelly_lif(tau=4.0, v_reset=-0.2, detach_reset=True),
    ),
    _node("IFNode()", neuron.IFNode, presets.spikingjelly_if()),
    _node("ParametricLIFNode()", neuron.ParametricLIFNode, presets.spikingjelly_lif(learn_decay=True)),
    _node("ComplementaryLIFNode()", neuron.ComplementaryLIFNode, presets.spikingjelly_clif()),
]

SURROGATES = [
    _bump("Sigmoid(4)", surrogate.Sigmoid(), presets.spikingjelly_sigmoid()),
    _bump("ATan(2)", surrogate.ATan(), presets.spikingjelly_atan()),
    _bump("SoftSign(2)", surrogate.SoftSign(), presets.spikingjelly_softsign()),
    _bump("SuperSpike(1)", surrogate.SuperSpike(), presets.spikingjelly_superspike()),
    _bump("PiecewiseQuadratic(1)", surrogate.PiecewiseQuadratic(), presets.spikingjelly_piecewise_quadratic()),
    _bump("PiecewiseExp(1)", surrogate.PiecewiseExp(), presets.spikingjelly_piecewise_exp()),
    _bump("Erf(2)", surrogate.Erf(), presets.spikingjelly_erf()),
    _bump("Rect(1)", surrogate.Rect(), presets.spikingjelly_rect()),
    _bump(
        "PiecewiseLeakyReLU(1, 0.01)",
        surrogate.PiecewiseLeakyReLU(),
        presets.spikingjelly_piecewise_leaky_relu(),
        "1 / (2w) inside, not the documented 1 / w",
    ),
    _bump("QPseudoSpike(2)", surrogate.QPseudoSpike(), FastSigmoid(width=0.5), "our fast sigmoid of width 0.5"),
]

WITHOUT_PRESET = (
    "NonzeroSignLogAbs",
    "SquarewaveFourierSeries",
    "S2NN",
    "LeakyKReLU",
    "FakeNumericalGradient",
    "LogTailedReLU",
    "DeterministicPass",
    "MultiLevelSpikeCount",
    "PoissonPass",
)
