"""Networks that a start changes, and the oracle's figures of it, which every framework must give."""

from __future__ import annotations

import functools

import numpy as np

from sbp_core import LIFSpec, ResNetSpec, signal
from sbp_core.reference.networks import initial_weights
from sbp_core.reference.signal import scaled_runner
from sbp_core.specs.networks.spikformer import SpikformerSpec
from sbp_core.specs.networks.vgg import VGGSpec

#: A threshold at which layers hardly fire, with one that is learnt beside it.
NEURON = LIFSpec(threshold=2.5, decay=0.6, learn_decay=True)
_FOLLOWS = NEURON.replace(initial_potential=0.75, initial_follows=True)
COMMON = {"num_classes": 4, "in_channels": 2, "time_steps": 2, "neuron": NEURON}
SPECS = {
    "plain": VGGSpec(stages=((4, 4), (6,)), hidden=(6, 6), size=(6, 6), **(COMMON | {"neuron": _FOLLOWS})),
    "residual": signal.at_identity(ResNetSpec(depths=(1, 1), widths=(4, 6), **COMMON)),
    "attention": signal.at_identity(SpikformerSpec(dim=8, depth=1, heads=2, scale=0.5, **COMMON)),
}


def _weights(spec):
    found = initial_weights(spec, 3)
    # some layers fire too little, some too much
    return found | {
        name: value * np.float32(0.25 if ".bn1" in name else 4.0) for name, value in found.items() if value.ndim == 1
    }


WEIGHTS = {name: _weights(spec) for name, spec in SPECS.items()}


def images():
    """A batch, channels first."""
    return np.random.default_rng(11).normal(size=(16, 2, 6, 6)).astype(np.float32)


def weights(name, dtype="float32"):
    """First weights, by canonical name."""
    return {key: value.astype(dtype) for key, value in WEIGHTS[name].items()}


@functools.cache
def oracle(name, dtype="float32"):
    return signal.calibrate(SPECS[name], weights(name, dtype), scaled_runner(SPECS[name], images()))


def assert_same(found, name, dtype="float32", held=None):
    """Compare a calibration to the oracle's: factors are on a grid, so that they, rates and weights are the same.

    Args:
        found: the calibration.
        name: of the network.
        dtype: of the weights.
        held: the network's weights after it.
    """
    wanted = oracle(name, dtype)
    assert found.layers == wanted.layers
    assert list(found.after) == list(wanted.after)
    # a product in float32 may be rounded twice
    exact = {"rtol": 1e-15 if dtype == "float64" else 3e-7}
    for part in ("before", "after"):
        for key, value in getattr(wanted, part).items():
            assert getattr(found, part)[key].dtype == dtype
            np.testing.assert_allclose(getattr(found, part)[key], value, **exact, err_msg=key)
    for key, value in (weights(name, dtype) | wanted.after).items() if held is not None else ():
        np.testing.assert_allclose(held[key], value, **exact, err_msg=key)
