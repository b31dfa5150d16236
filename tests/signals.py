"""A small network and batches of which every framework must take the same figures, and the oracle's."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from sbp_core import ArcTan, LIFSpec, ResNetSpec, signal
from sbp_core.reference.networks import initial_weights
from sbp_core.reference.signal import observer

SPEC = ResNetSpec(
    depths=(1, 1),
    widths=(4, 6),
    num_classes=4,
    in_channels=2,
    time_steps=2,
    neuron=LIFSpec(decay=0.6, threshold=0.7, learn_decay=True, learn_initial=True, surrogate=ArcTan()),
)
WEIGHTS = initial_weights(SPEC, 3)
#: Its neurons start from what they followed.
FOLLOWS = SPEC.replace(neuron=SPEC.neuron.replace(learn_initial=False, initial_follows=True))
FOLLOWED = {
    name: np.float32(0.3) + value if name.endswith(".running_potential") else value
    for name, value in initial_weights(FOLLOWS, 3).items()
}


def batches():
    """Images, channels first, and labels."""
    random = np.random.default_rng(11)
    return [
        (random.normal(size=(5, 2, 6, 6)).astype(np.float32), random.integers(0, 4, 5).astype(np.int32))
        for _ in range(3)
    ]


@functools.cache
def oracle(slopes=0):
    return diagnosed(batches(), slopes)


def diagnosed(batches, slopes=0, spec=SPEC, weights=WEIGHTS):
    return signal.diagnose(observer(spec, weights), batches, noise=0.2, seed=5, slopes=slopes)


@functools.cache
def followed():
    return diagnosed(batches(), spec=FOLLOWS, weights=FOLLOWED)


def assert_same(found, wanted=None):
    """Compare all figures; spikes are the same, so that only rounding of gradients is left."""
    # how long a network was trained nobody measures
    wanted = dataclasses.replace(wanted or oracle(), after=found.after)
    here, there = found.to_dict(), wanted.to_dict()
    assert list(here) == list(there)
    assert here["findings"] == there["findings"]
    for part in ("neurons", "weights"):
        assert [row["path"] for row in here[part]] == [row["path"] for row in there[part]]
        for mine, theirs in zip(here[part], there[part], strict=True):
            for name, value in mine.items():
                if name != "path":
                    got, want = (np.array(x, np.float64) for x in (value, theirs[name]))
                    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6, err_msg=f"{mine['path']}.{name}")
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-5)


def assert_same_descent(found):
    """Compare what the loss does along the gradients: differences of float32 losses over a short way."""
    wanted = {weights.path: weights.descent for weights in oracle(slopes=3).weights}
    here = {weights.path: weights.descent for weights in found.weights}
    assert sum(not np.isnan(value) for value in wanted.values()) == 3
    np.testing.assert_allclose([here[path] for path in wanted], list(wanted.values()), atol=1e-3)
