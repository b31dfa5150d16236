"""The layers of networks and branches, with the conventions that all frameworks share."""

from __future__ import annotations

import math
from collections.abc import Callable
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


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    *,
    space: int = 2,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Return a convolution over ``space`` axes, without bias; it takes any number of axes before them."""
    return nnx.Conv(
        inputs,
        outputs,
        (size,) * space,
        strides=stride,
        padding=size // 2,  # alike on all sides, which "SAME" is not at stride 2
        use_bias=False,
        dtype=dtype,
        param_dtype=param_dtype,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        rngs=rngs,
    )


def pool(x: jax.Array) -> jax.Array:
    """Return the mean over space of ``(time, batch, ..., channels)``: any number of axes, none included."""
    return x.mean(axis=tuple(range(2, x.ndim - 1)))


def max_pool(x: jax.Array) -> jax.Array:
    """Return the 3x3 max pool of stride 2 of ``(time, batch, height, width, channels)``, padded by 1."""
    # flax pads one batch axis only
    frames = x.reshape(-1, *x.shape[2:])
    pooled: jax.Array = nnx.max_pool(frames, (3, 3), (2, 2), ((1, 1), (1, 1)))  # type: ignore[no-untyped-call]
    return pooled.reshape(*x.shape[:2], *pooled.shape[1:])


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
