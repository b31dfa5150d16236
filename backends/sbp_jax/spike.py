"""The spike: a step with a surrogate's derivative."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from sbp_core.inputs import check_floating
from sbp_core.specs.surrogates import Surrogate, as_surrogate


def spike(x: jax.Array, surrogate: Surrogate | str = "rectangle", *, inclusive: bool = False) -> jax.Array:
    """Fire where ``x > 0`` (``>=`` if inclusive), with the surrogate's gradient (Guo et al. 2024, Eq. 2 and 5).

    Forward and reverse mode, ``vmap`` and ``jit`` pass through.

    Args:
        x: potential minus threshold, floating, any shape.
        surrogate: a surrogate, or the name of a family.
        inclusive: fire at 0 too.

    Returns:
        1 and 0 in the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: an unknown surrogate.

    Example:
        >>> spike(jnp.array([-0.5, 0.0, 0.5])).tolist()
        [0.0, 0.0, 1.0]
        >>> jax.grad(spike)(0.25, "triangle").item()
        0.75
    """
    x = jnp.asarray(x)
    check_floating("x", x.dtype.name)
    return _spike(x, as_surrogate(surrogate), inclusive)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _spike(x: jax.Array, surrogate: Surrogate, inclusive: bool) -> jax.Array:
    return (x >= 0 if inclusive else x > 0).astype(x.dtype)


@_spike.defjvp
def _spike_jvp(surrogate: Surrogate, inclusive: bool, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (direction,) = primals, tangents
    return _spike(x, surrogate, inclusive), surrogate.derivative(x, jnp) * direction
