"""Initial weights: of the distributions that they are said to have, traced or not, and block by block different."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbp_jax import initial

KEY = jax.random.key(20261125)
DRAWS = {
    "uniform": (initial.uniform(16), (300, 50), 0.25 / math.sqrt(3), 0.25),
    "kaiming_normal": (initial.kaiming_normal, (3, 3, 40, 60), math.sqrt(2 / 540), math.inf),
    "he_normal": (initial.he_normal, (300, 50), math.sqrt(2 / 300), 2 * math.sqrt(2 / 300) / 0.8796),
}


@pytest.mark.parametrize(("draw", "shape", "deviation", "bound"), DRAWS.values(), ids=DRAWS)
def test_a_draw_has_the_deviation_and_the_bounds_that_it_is_said_to_have(draw, shape, deviation, bound):
    drawn = np.asarray(draw(KEY, shape, jnp.float32), np.float64).ravel()
    # of n numbers the standard error of the deviation is at most deviation / sqrt(2 n)
    error = deviation / math.sqrt(2 * drawn.size)
    assert drawn.std() == pytest.approx(deviation, abs=4 * error)
    assert drawn.mean() == pytest.approx(0.0, abs=4 * math.sqrt(2) * error)
    assert np.abs(drawn).max() <= bound * (1 + 1e-4)


@pytest.mark.parametrize("shape", [(), (0, 3), (initial.BLOCK,), (2, initial.BLOCK // 2 + 1), (3, 3, 40, 60)])
def test_a_traced_draw_is_the_same(shape):
    draw = initial.uniform(16)
    drawn = draw(KEY, shape, jnp.float32)
    assert drawn.shape == shape
    np.testing.assert_array_equal(drawn, jax.jit(lambda key: draw(key, shape, jnp.float32))(KEY))


def test_blocks_and_keys_differ():
    drawn = np.asarray(initial.uniform(16)(KEY, (3, initial.BLOCK), jnp.float32))
    assert len(np.unique(drawn)) > 0.99 * drawn.size
    other = np.asarray(initial.uniform(16)(jax.random.key(1), (3, initial.BLOCK), jnp.float32))
    assert np.mean(drawn == other) < 0.01


def test_shapes_share_what_is_compiled():
    initial.kaiming_normal(KEY, (3, 3, 8, 8), jnp.float32)
    compiled = initial._block._cache_size()
    for channels in (16, 24, 200):
        initial.kaiming_normal(KEY, (3, 3, channels, channels), jnp.float32)
    assert initial._block._cache_size() == compiled


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_draw_has_the_dtype_that_was_asked_for(dtype):
    for draw in (initial.uniform(4), initial.kaiming_normal, initial.he_normal):
        assert draw(KEY, (2, 3), dtype).dtype == dtype
