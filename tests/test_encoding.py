"""Encoders give the spikes that plain loops give, the same in every framework, and networks take them."""

import importlib.util

import numpy as np
import pytest

from sbp_core import encoding

SEED = 20261125
STEPS = 5
IMAGES = np.random.default_rng(SEED).uniform(-0.2, 1.2, (3, 2, 4)).astype(np.float32)
FRAMES = np.random.default_rng(SEED + 1).uniform(0, 1, (STEPS, 3, 4)).astype(np.float32)


def arrays(framework):
    """Return functions from NumPy to the framework's arrays, and back."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    if framework == "torch":
        import torch

        return torch.from_numpy, lambda x: x.numpy()
    if framework == "jax":
        import jax.numpy as jnp

        return jnp.asarray, np.asarray
    if framework == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor, lambda x: x.numpy()
    return np.asarray, np.asarray


def by_loops(name):
    """Return what the encoder should give, time first."""
    found = np.zeros((STEPS, *(FRAMES.shape[1:] if name == "delta" else IMAGES.shape)), np.float32)
    drawn = np.random.default_rng(SEED).random(found.shape)
    for t, *place in np.ndindex(found.shape):
        x = IMAGES[tuple(place)] if name != "delta" else 0.0
        if name == "direct":
            value = x
        elif name == "rate":
            value = float(drawn[(t, *place)] < 0.7 * x)
        elif name == "latency":
            value = float(x > 0.1 and t == round((1 - min(max(float(x), 0.0), 1.0)) * (STEPS - 1)))
        else:
            rise = FRAMES[(t, *place)] - FRAMES[(max(t - 1, 0), *place)]
            value = float(rise >= 0.25) - float(rise <= -0.25)
        found[(t, *place)] = value
    return found


def encoded(name, convert, time_axis=0):
    if name == "direct":
        return encoding.direct(convert(IMAGES), STEPS, time_axis=time_axis)
    if name == "rate":
        # time first, so that the same numbers are drawn
        return encoding.rate(convert(IMAGES), STEPS, np.random.default_rng(SEED), gain=0.7)
    if name == "latency":
        return encoding.latency(convert(IMAGES), STEPS, threshold=0.1, time_axis=time_axis)
    frames = FRAMES if time_axis == 0 else np.moveaxis(FRAMES, 0, 1).copy()
    return encoding.delta(convert(frames), threshold=0.25, off=True, time_axis=time_axis)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax", "tensorflow"])
@pytest.mark.parametrize("name", ["direct", "rate", "latency", "delta"])
def test_an_encoder_gives_what_loops_give(name, framework):
    convert, back = arrays(framework)
    found = encoded(name, convert)
    assert type(found) is type(convert(IMAGES))
    assert back(found).dtype == np.float32
    np.testing.assert_array_equal(back(found), by_loops(name))
    if name != "rate":
        np.testing.assert_array_equal(back(encoded(name, convert, time_axis=1)), np.moveaxis(by_loops(name), 0, 1))
    assert encoding.rate(IMAGES, STEPS, np.random.default_rng(0), time_axis=1).shape == (3, STEPS, 2, 4)


def test_the_rate_is_that_of_the_intensity():
    spikes = encoding.rate(np.full((1, 1), 0.3), 20_000, np.random.default_rng(SEED))
    assert spikes.mean() == pytest.approx(0.3, abs=0.015)


def test_a_network_takes_what_is_encoded():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import sbp_torch

    net = sbp_torch.network("convnet", in_channels=1, time_steps=STEPS)
    images = torch.rand(3, 1, 8, 8)
    for frames in (encoding.latency(images, STEPS), encoding.rate(images, STEPS, np.random.default_rng(0))):
        assert net(frames).shape == (3, 10)
    # direct encoding at the input equals that behind the first layer, in evaluation to the bit
    assert torch.equal(net.eval()(encoding.direct(images, STEPS)), net(images))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: encoding.direct(IMAGES, 0), ValueError, "time_steps must be at least 1, got 0"),
        (lambda: encoding.direct(np.ones((2, 2), int), 3), TypeError, "images must hold floating-point numbers"),
        (lambda: encoding.rate(IMAGES, 3, 7), TypeError, "generator must be a numpy.random.Generator, got 7"),
        (
            lambda: encoding.rate(IMAGES, 3, np.random.default_rng(), gain=0.0),
            ValueError,
            "gain must be greater than 0",
        ),
        (lambda: encoding.latency([0.5], 3), TypeError, "images must be an array, got list"),
        (lambda: encoding.latency(IMAGES, 3, time_axis=2), ValueError, "time_axis must be 0, .*; got 2"),
        (lambda: encoding.delta(FRAMES, threshold=-1.0), ValueError, "threshold must be greater than 0, got -1.0"),
        (lambda: encoding.delta(np.ones(3)), ValueError, r"frames must have axes of time and batch, got shape \(3,\)"),
        (lambda: encoding.delta(np.ones((0, 3))), ValueError, "time_steps must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
