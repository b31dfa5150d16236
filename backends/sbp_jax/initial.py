"""Initial weights, drawn in blocks of one size: XLA compiles every shape of a draw anew, for a second or more."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

#: Numbers in a block.
BLOCK = 4096

Initializer = Callable[..., jax.Array]
_Sample = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]


def uniform(inputs: int) -> Initializer:
    """Return the initialiser of a layer of that many inputs, uniform in +-1 / sqrt(inputs), as PyTorch's.

    Example:
        >>> weights = uniform(4)(jax.random.key(0), (100, 50), jnp.float32)
        >>> weights.shape, float(abs(weights).max()) <= 0.5
        ((100, 50), True)
    """
    bound = 1.0 / math.sqrt(inputs)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return _draw(_unit_uniform, bound, key, shape, dtype)

    return draw


def kaiming_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw a convolution's kernel, ``(*space, inputs, outputs)``: normal, deviation sqrt(2 / fan out).

    He et al. 2015, Delving deep into rectifiers, section 2.2, of the backward pass.
    """
    return _draw(jax.random.normal, math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-1])), key, shape, dtype)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Draw a linear layer's kernel, ``(inputs, outputs)``: normal, cut at two, of deviation sqrt(2 / fan in)."""
    # the second number is the deviation of a standard normal that is cut so
    return _draw(_cut_normal, math.sqrt(2.0 / shape[-2]) / 0.87962566103423978, key, shape, dtype)


def _unit_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def _cut_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)


@functools.partial(jax.jit, static_argnames=("sample", "dtype"))
def _block(sample: _Sample, key: jax.Array, index: Any, dtype: Any) -> jax.Array:
    return sample(jax.random.fold_in(key, index), (BLOCK,), dtype)


def _draw(sample: _Sample, scale: float, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    count = math.prod(shape)
    blocks = -(-count // BLOCK)
    if isinstance(key, jax.core.Tracer):
        drawn: jax.Array = jax.lax.map(lambda index: _block(sample, key, index, dtype), jnp.arange(blocks))
        return drawn.ravel()[:count].reshape(shape) * jnp.asarray(scale, dtype)
    # put together in NumPy, since every shape of a slice would be compiled too
    found = [np.asarray(_block(sample, key, index, dtype)) for index in range(blocks)]
    whole = np.concatenate(found) if found else np.empty(0, dtype)
    return jnp.asarray(whole[:count].reshape(shape) * np.asarray(scale, whole.dtype))
