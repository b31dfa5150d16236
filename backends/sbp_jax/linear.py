"""The linear layer of heads and branches, with the initial weights that all frameworks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def linear(
    inputs: int, outputs: int, *, dtype: Any = None, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
) -> nnx.Linear:
    """Return a linear layer whose weights and biases are uniform in ``±1 / sqrt(inputs)``."""
    initial = uniform(inputs)
    return nnx.Linear(
        inputs, outputs, dtype=dtype, param_dtype=param_dtype, kernel_init=initial, bias_init=initial, rngs=rngs
    )


def uniform(inputs: int) -> Callable[..., jax.Array]:
    """Return the initialiser of a linear layer of that many inputs, ``(key, shape, dtype)`` to an array."""
    bound = 1.0 / math.sqrt(inputs)

    def draw(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
