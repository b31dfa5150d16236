"""The linear layer of heads and branches, with the initial weights that all frameworks share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def linear(
    inputs: int, outputs: int, *, dtype: Any = None, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
) -> nnx.Linear:
    """Return a linear layer whose weights and biases are uniform in ``±1 / sqrt(inputs)``."""
    bound = 1.0 / math.sqrt(inputs)

    def uniform(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(
        inputs, outputs, dtype=dtype, param_dtype=param_dtype, kernel_init=uniform, bias_init=uniform, rngs=rngs
    )
