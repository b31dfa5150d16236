"""The spike steps forwards, and backwards it is the surrogate's closed form, in every dtype and mode."""

import math

import numpy as np
import pytest
import tensorflow as tf

import sbp_tf
from sbp_core import ArcTan, Rectangle, Triangle
from sbp_core.specs.surrogates import FAMILIES

MODES = {
    "eager": lambda function: function,
    "function": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
DTYPES = ("float64", "float32", "bfloat16", "float16")
X = np.array([-1.25, -0.5, -0.25, 0.0, 0.125, 0.5, 3.0])


def gradient(function, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_fires_above_zero_alone_and_keeps_the_dtype(dtype):
    x = tf.constant(X, dtype)
    spikes = sbp_tf.spike(x)
    assert spikes.dtype == x.dtype
    assert tf.cast(spikes, tf.float32).numpy().tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert tf.cast(sbp_tf.spike(x, inclusive=True), tf.float32).numpy().tolist() == [0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_the_surrogate_by_hand(mode):
    x = tf.constant([-0.75, -0.25, 0.5, 3.0], tf.float64)
    upstream = tf.constant([2.0, 2.0, 2.0, 2.0], tf.float64)

    def of(surrogate):
        return MODES[mode](lambda x: gradient(lambda x: upstream * sbp_tf.spike(x, surrogate), x))(x).numpy()

    assert of(Rectangle(width=2.0)).tolist() == [1.0, 1.0, 1.0, 0.0]
    assert of("triangle").tolist() == [0.5, 1.5, 1.0, 0.0]
    bell = [2.0 / (1.0 + (math.pi * z) ** 2) for z in (-0.75, -0.25, 0.5, 3.0)]
    np.testing.assert_allclose(of(ArcTan()), bell, rtol=1e-15)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_differentiates_in_every_dtype(family):
    surrogate = FAMILIES[family]()
    tolerance = {"float64": 1e-14, "float32": 1e-6, "bfloat16": 4e-2, "float16": 5e-3}
    for dtype in DTYPES:
        found = gradient(lambda x: sbp_tf.spike(x, surrogate), tf.constant(X, dtype))
        assert found.dtype.name == dtype
        wanted = surrogate.derivative(X, np)
        np.testing.assert_allclose(
            tf.cast(found, tf.float64).numpy(), wanted, rtol=tolerance[dtype], atol=tolerance[dtype] * surrogate.peak
        )


@pytest.mark.parametrize("mode", MODES)
def test_it_can_be_differentiated_twice(mode):
    x = tf.constant([-0.3, 0.2], tf.float64)
    surrogate = ArcTan(height=1.0, width=0.5)
    found = MODES[mode](lambda x: gradient(lambda x: gradient(lambda x: sbp_tf.spike(x, surrogate), x), x))(x)
    wanted = [-8.0 * z / (1.0 + 4.0 * z * z) ** 2 for z in (-0.3, 0.2)]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-14)


def test_forward_mode_gives_the_surrogate_too():
    x = tf.constant([-0.25, 0.5])
    with tf.autodiff.ForwardAccumulator(x, tf.constant([2.0, 2.0])) as accumulator:
        spikes = sbp_tf.spike(x, Triangle())
    assert accumulator.jvp(spikes).numpy().tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((tf.constant([1, 2]),), TypeError, "x must hold floating-point numbers.*int32"),
        ((tf.constant([1.0]), "boxcar"), ValueError, "surrogate must be one of.*'boxcar'"),
        ((tf.constant([1.0]), 2.0), TypeError, "surrogate must be a Surrogate or a name"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        sbp_tf.spike(*arguments)
