"""Batch norm with the running variance that all frameworks share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    """Batch norm over every axis but the last, time included, whose running variance is unbiased.

    With n values per channel, the batch's variance enters the running one times ``n / (n - 1)``, as in PyTorch;
    ``nnx.BatchNorm`` leaves the factor out. ``model.train()`` and ``model.eval()`` switch it.

    Args:
        channels: size of the last axis.
        epsilon: added to the variance.
        momentum: weight of the new statistics in the running ones, 1 minus what ``nnx.BatchNorm`` calls momentum.
        dtype: dtype of the result; None to follow from input and parameters.
        param_dtype: dtype of weight and bias; running statistics have at least float32.
        rngs: as for every nnx module.

    Example:
        >>> norm = BatchNorm(1, momentum=1.0, rngs=nnx.Rngs(0))
        >>> normalised = norm(jnp.array([[0.0], [2.0]]))
        >>> norm.mean[...].tolist(), norm.var[...].tolist()
        ([1.0], [2.0])
    """

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.1,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            channels,
            momentum=1.0 - momentum,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels
            rngs=rngs,
        )
        running_dtype = jnp.promote_types(jnp.float32, param_dtype)
        self.mean = nnx.BatchStat(jnp.zeros(channels, running_dtype))
        self.var = nnx.BatchStat(jnp.ones(channels, running_dtype))

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **options: Any) -> jax.Array:
        """Normalise ``x``, shape ``(..., channels)``; in training, update the running statistics.

        Raises:
            ValueError: one value per channel in training, which has no variance.
        """
        if self.use_running_average if use_running_average is None else use_running_average:
            normalised: jax.Array = super().__call__(x, True, **options)
            return normalised
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ValueError(f"x must hold more than one value per channel in training, got shape {x.shape}")
        kept = self.momentum * self.var[...]
        normalised = super().__call__(x, False, **options)
        self.var[...] = kept + (self.var[...] - kept) * (count / (count - 1))
        return normalised
