"""The coefficient is an argument: a number or a scalar array, traced or not. Nothing remembers it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from sbp_core.composition import check_coefficient
from sbp_core.inputs import check_floating


def scalar(coefficient: Any, dtype: Any) -> jax.Array:
    """Return the coefficient as a scalar array of the logits' dtype.

    Raises:
        ValueError: a number that is not finite, or an array of another shape.
        TypeError: not a number, or logits that are not floating.
    """
    check_floating("logits", jnp.dtype(dtype).name)
    check_coefficient(coefficient)
    return jnp.asarray(coefficient, dtype)
