"""The step function and its surrogate gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sbp_jax
from sbp_core.specs.surrogates import FAMILIES

POINTS = np.array([-1.25, -0.3, -0.05, 0.05, 0.3, 1.25], np.float32)


def test_it_fires_strictly_above_zero_unless_inclusive():
    x = jnp.array([-1.0, -0.0, 0.0, 1e-6])
    assert sbp_jax.spike(x).tolist() == [0, 0, 0, 1]
    assert sbp_jax.spike(x, inclusive=True).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_reverse_mode_give_the_slope_of_the_antiderivative(family):
    surrogate = FAMILIES[family]()
    points = POINTS.astype(np.float64)
    slope = (surrogate.antiderivative(points + 1e-6) - surrogate.antiderivative(points - 1e-6)) / 2e-6
    x = jnp.asarray(POINTS)
    _, forward = jax.jvp(lambda x: sbp_jax.spike(x, surrogate), (x,), (jnp.ones_like(x),))
    reverse = jax.vmap(jax.grad(lambda x: sbp_jax.spike(x, family)))(x)
    np.testing.assert_allclose(forward, slope, rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(forward, reverse)


def test_the_gradient_can_itself_be_differentiated():
    second = jax.grad(jax.grad(lambda x: sbp_jax.spike(x, "triangle")))
    assert second(-0.5).item() == 1.0
    assert second(0.5).item() == -1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_spikes_and_gradient_keep_the_dtype(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(POINTS, dtype)
        for family in FAMILIES:
            spikes, pull = jax.vjp(lambda x, family=family: sbp_jax.spike(x, family), x)
            assert spikes.dtype == pull(jnp.ones_like(x))[0].dtype == dtype, family


def test_integers_and_unknown_surrogates_are_refused():
    with pytest.raises(TypeError, match="x must hold floating-point numbers"):
        sbp_jax.spike(jnp.array([1, 2]))
    with pytest.raises(ValueError, match=r"surrogate must be one of .*'boxcar'"):
        sbp_jax.spike(jnp.ones(1), "boxcar")
