"""The presets are the peers' own neurons, spikes and gradients, over their options: compared with the packages."""

import itertools

import numpy as np
import pytest
import torch

import sbp_torch
from sbp_core import presets

RANDOM = np.random.default_rng(7)
X, COTANGENT = torch.from_numpy(RANDOM.normal(0.4, 1.1, (30, 64))), torch.from_numpy(RANDOM.normal(size=(30, 64)))
THRESHOLDS = [1.0, 0.5, 0.0, -0.25]


@pytest.fixture(autouse=True)
def double():
    # snnTorch keeps its beta in the default dtype, and its spikes in float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def grid(**options):
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def differentiated(neuron):
    x = X.clone().requires_grad_()
    spikes = neuron(x)
    (spikes * COTANGENT).sum().backward()
    return spikes.detach().double(), x.grad


def assert_same(preset, theirs, options):
    wanted, found = differentiated(theirs), differentiated(lambda x: sbp_torch.lif(x, preset)[0])
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=0, msg=lambda said: f"spikes, {options}: {said}")
    scale = float(wanted[1].abs().max())
    torch.testing.assert_close(
        found[1], wanted[1], rtol=0, atol=1e-6 * scale, msg=lambda said: f"gradient, {options}: {said}"
    )


@pytest.mark.parametrize("v_threshold", THRESHOLDS)
def test_spikingjelly_lif_over_its_options(v_threshold):
    peer = pytest.importorskip("spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed")
    others = grid(
        tau=[1.25, 2.0, 6.0], decay_input=[True, False], v_reset=[None, 0.0, -0.3, 1.7], detach_reset=[True, False]
    )
    for options in others:
        node = peer.LIFNode(v_threshold=v_threshold, **options)
        preset = presets.spikingjelly_lif(v_threshold=v_threshold, **options)
        assert_same(preset, lambda x, node=node: torch.stack([node(value) for value in x]), options)


@pytest.mark.parametrize("v_threshold", THRESHOLDS)
def test_spikingjelly_clif_over_its_options(v_threshold):
    peer = pytest.importorskip("spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed")
    for tau in (1.25, 2.0, 6.0):
        node = peer.ComplementaryLIFNode(tau=tau, v_threshold=v_threshold)
        preset = presets.spikingjelly_clif(tau=tau, v_threshold=v_threshold)
        assert_same(preset, lambda x, node=node: torch.stack([node(value) for value in x]), {"tau": tau})


def cells(node, *state):
    def run(x):
        now, spikes = [torch.zeros_like(x[0]) for _ in state], []
        for value in x:
            spike, *now = node(value, *now)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_snntorchs_neurons_over_their_options(threshold):
    peer = pytest.importorskip("snntorch", reason="snnTorch is not installed")
    mechanisms = ["subtract", "zero", "none"]
    for options in grid(beta=[-0.4, 0.0, 0.6, 1.0, 1.3], reset_mechanism=mechanisms, reset_delay=[True, False]):
        refused = {"subtract"} | ({"zero"} if threshold < 0 else set())
        if not options["reset_delay"] and options["reset_mechanism"] in refused:
            continue
        preset = presets.snntorch_leaky(threshold=threshold, **options)
        assert_same(preset, cells(peer.Leaky(threshold=threshold, **options), "potential"), options)
    for options in grid(alpha=[-0.2, 0.0, 0.7, 1.5], beta=[0.5, 1.2], reset_mechanism=["subtract", "none"]):
        preset = presets.snntorch_synaptic(threshold=threshold, **options)
        assert_same(preset, cells(peer.Synaptic(threshold=threshold, **options), "current", "potential"), options)
