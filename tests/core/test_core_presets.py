"""The presets are the peers' neurons over all their options: each peer's update is written out here on its own."""

import itertools

import numpy as np
import pytest

from sbp_core import presets
from sbp_core.reference import neuron

X = np.random.default_rng(20261125).normal(0.4, 1.1, (40, 6, 8))
THRESHOLDS = [1.0, 0.5, 0.0, -0.25]


def spikingjelly(tau, decay_input, v_reset, v_threshold):
    v, spikes = np.full(X.shape[1:], 0.0 if v_reset is None else v_reset), []
    level = 0.0 if v_reset is None else v_reset
    for x in X:
        h = v + (x - (v - level)) / tau if decay_input else v - (v - level) / tau + x
        s = (h >= v_threshold).astype(float)
        v = h - s * v_threshold if v_reset is None else (1.0 - s) * h + s * v_reset
        spikes.append(s)
    return np.stack(spikes), v


def leaky(beta, threshold, reset_mechanism, reset_delay, alpha=None):
    beta = min(max(beta, 0.0), 1.0)
    u, current, spikes = np.zeros(X.shape[1:]), np.zeros(X.shape[1:]), []
    for x in X:
        reset = (u - threshold > 0).astype(float)
        if alpha is not None:
            current = min(max(alpha, 0.0), 1.0) * current + x
            x = current
        if reset_mechanism == "zero":
            u = beta * ((1.0 - reset) * u) + x
        else:
            u = beta * u + x - (reset * threshold if reset_mechanism == "subtract" else 0.0)
        s = (u - threshold > 0).astype(float)
        if not reset_delay and reset_mechanism == "zero":
            u = u - (s - reset) * u
        spikes.append(s)
    return np.stack(spikes), u


def norse(tau_mem_inv, dt, v_leak, v_th, v_reset, tau_syn_inv=None):
    v, i, spikes = np.full(X.shape[1:], v_leak), np.zeros(X.shape[1:]), []
    for x in X:
        jump = x if tau_syn_inv is None else i + x
        v = v + dt * tau_mem_inv * ((v_leak - v) + jump)
        i = jump - dt * (tau_syn_inv or 0.0) * jump
        s = (v - v_th > 0).astype(float)
        v = (1.0 - s) * v + s * v_reset
        spikes.append(s)
    return np.stack(spikes), v


def spyx(beta, threshold):
    beta = min(max(beta, 0.0), 1.0)
    v, spikes = np.zeros(X.shape[1:]), []
    for x in X:
        s = (v - threshold > 0).astype(float)
        v = beta * v + x - s * threshold
        spikes.append(s)
    return np.stack(spikes), v


def grid(**options):
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def assert_same(spec, expected):
    spikes, state = neuron.forward(spec, X)
    np.testing.assert_array_equal(spikes, expected[0])
    np.testing.assert_allclose(state.potential, expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    grid(tau=[1.25, 2.0, 6.0], decay_input=[True, False], v_reset=[None, 0.0, -0.3, 1.7], v_threshold=THRESHOLDS),
    ids=str,
)
def test_spikingjelly_lif(options):
    assert_same(presets.spikingjelly_lif(**options), spikingjelly(**options))


@pytest.mark.parametrize("options", grid(v_reset=[None, 0.0, -0.3, 1.7], v_threshold=THRESHOLDS), ids=str)
def test_spikingjelly_if(options):
    expected = spikingjelly(np.inf, False, **options)
    assert_same(presets.spikingjelly_if(**options), expected)


@pytest.mark.parametrize(
    "options",
    grid(
        beta=[-0.4, 0.0, 0.6, 1.0, 1.3],
        threshold=THRESHOLDS,
        reset_mechanism=["subtract", "zero", "none"],
        reset_delay=[True, False],
    ),
    ids=str,
)
def test_snntorch_leaky_is_the_peers_or_is_refused(options):
    if not options["reset_delay"] and (
        options["reset_mechanism"] == "subtract" or (options["reset_mechanism"] == "zero" and options["threshold"] < 0)
    ):
        with pytest.raises(ValueError, match="the peer"):
            presets.snntorch_leaky(**options)
        return
    assert_same(presets.snntorch_leaky(**options), leaky(**options))


@pytest.mark.parametrize(
    "options",
    grid(alpha=[-0.2, 0.0, 0.7, 1.5], beta=[0.5, 1.2], threshold=THRESHOLDS, reset_mechanism=["subtract", "none"]),
    ids=str,
)
def test_snntorch_synaptic(options):
    assert_same(presets.snntorch_synaptic(**options), leaky(reset_delay=True, **options))


def test_snntorch_synaptic_that_zeroes_is_another_neuron_and_refused():
    with pytest.raises(ValueError, match="reset_mechanism must be one of 'subtract', 'none'; got 'zero'"):
        presets.snntorch_synaptic(alpha=0.5, beta=0.5, reset_mechanism="zero")


@pytest.mark.parametrize("synapse", [{}, {"tau_syn_inv": 200.0}, {"tau_syn_inv": 0.0}], ids=str)
@pytest.mark.parametrize(
    "options",
    grid(tau_mem_inv=[100.0, 1000.0], dt=[0.001], v_leak=[0.0, 0.2], v_th=[1.0, 0.3], v_reset=[0.0, -0.5, 1.5]),
    ids=str,
)
def test_norse_lif(options, synapse):
    make = presets.norse_lif if synapse else presets.norse_lif_box
    assert_same(make(**options, **synapse), norse(**options, **synapse))


@pytest.mark.parametrize("options", grid(beta=[-0.5, 0.0, 0.9, 1.0, 1.3], threshold=THRESHOLDS), ids=str)
def test_spyx_lif(options):
    assert_same(presets.spyx_lif(**options), spyx(**options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: presets.spikingjelly_lif(tau=1.0), "tau must be greater than 1, got 1.0"),
        (lambda: presets.norse_lif_box(tau_mem_inv=1500.0), r"dt \* tau_mem_inv must lie in \[0, 1\], got 1.5"),
        (lambda: presets.norse_lif(tau_syn_inv=-1.0), r"dt \* tau_syn_inv must lie in \[0, 1\]"),
        (lambda: presets.snntorch_leaky(beta=float("nan")), "beta must be finite"),
        (lambda: presets.spyx_lif(beta=float("inf")), "beta must be finite"),
    ],
)
def test_what_a_peer_refuses_or_this_family_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


GRID = np.array([-2.0, -0.9, -0.499, -0.2, 0.0, 0.3, 0.501, 0.7, 3.0])
SIGMOID = lambda x: 1.0 / (1.0 + np.exp(-x))  # noqa: E731
SURROGATES = {
    "spikingjelly_sigmoid": lambda x, a: a * SIGMOID(a * x) * (1.0 - SIGMOID(a * x)),
    "spikingjelly_atan": lambda x, a: a / 2 / (1.0 + (np.pi * a * x / 2) ** 2),
    "spikingjelly_softsign": lambda x, a: 1.0 / (2 * a * (1 / a + np.abs(x)) ** 2),
    "spikingjelly_superspike": lambda x, a: a / (1.0 + np.abs(x)) ** 2,
    "spikingjelly_piecewise_quadratic": lambda x, a: np.maximum(a - a**2 * np.abs(x), 0.0),
    "spikingjelly_rect": lambda x, a: a * (np.abs(x) < 1 / (2 * a)),
    "spikingjelly_erf": lambda x, a: a / np.sqrt(np.pi) * np.exp(-((a * x) ** 2)),
    "spikingjelly_piecewise_exp": lambda x, a: a / 2 * np.exp(-a * np.abs(x)),
    "snntorch_atan": lambda x, a: a / 2 / (1.0 + (np.pi * a * x / 2) ** 2),
    "snntorch_sigmoid": lambda x, k: k * SIGMOID(k * x) * (1.0 - SIGMOID(k * x)),
    "snntorch_fast_sigmoid": lambda x, k: 1.0 / (1.0 + k * np.abs(x)) ** 2,
    "norse_triangle": lambda x, a: a * np.maximum(1.0 - np.abs(x), 0.0),
    "norse_heavi_erfc": lambda x, k: 2.0 * np.exp(-((k * x) ** 2)) / np.sqrt(np.pi),
    "norse_tanh": lambda x, k: 1.0 / np.cosh(k * x) ** 2,
    "spyx_superspike": lambda x, k: 1.0 / (1.0 + k * np.abs(x)) ** 2,
    "spyx_arctan": lambda x, k: 1.0 / (np.pi * (1.0 + (k * np.pi * x) ** 2)),
    "spyx_triangular": lambda x, k: np.maximum(1.0 - np.abs(k * x), 0.0),
    "spyx_tanh": lambda x, k: 1.0 / np.cosh(k * x) ** 2,
    "braincog_rectangle": lambda x, a: (np.abs(x) < 1 / a).astype(float),
}
DEFAULTS = {"braincog_rectangle": 2.0, "spikingjelly_sigmoid": 4.0, "spikingjelly_superspike": 1.0, "spyx_arctan": 2.0}


@pytest.mark.parametrize("parameter", [0.6, 1.0, 2.0, 3.3])
@pytest.mark.parametrize("name", SURROGATES)
def test_a_surrogates_preset_is_the_peers_formula(name, parameter):
    found = getattr(presets, name)(parameter).derivative(GRID, np)
    np.testing.assert_allclose(found, SURROGATES[name](GRID, parameter), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_surrogates_default_is_the_peers(name):
    assert getattr(presets, name)() == getattr(presets, name)(DEFAULTS[name])
