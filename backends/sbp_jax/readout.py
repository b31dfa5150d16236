"""From a block's output to the logits of a branch: where time and channels are, and what a branch may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_jax.layers import BatchNorm, linear, uniform

TimeAxis = Literal[0, 1] | None
BranchFactory = Callable[..., nnx.Module]

_LAYOUTS = {0: "(time, batch, ..., channels)", 1: "(batch, time, ..., channels)", None: "(batch, ..., channels)"}


def check_axes(time_axis: TimeAxis, channel_axis: int) -> None:
    """Raise unless ``time_axis`` is 0, 1 or None, and ``channel_axis`` an integer that is not the batch's or time's.

    Raises:
        ValueError: they are something else.
    """
    if time_axis not in (0, 1, None) or isinstance(time_axis, bool):
        raise ValueError(f"time_axis must be 0, 1 or None, got {time_axis!r}")
    least = 1 if time_axis is None else 2
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, int) or 0 <= channel_axis < least:
        raise ValueError(f"channel_axis must be -1, or an axis after batch and time, got {channel_axis!r}")


def arrange(tap: str, x: Any, batch: int | None, time_axis: TimeAxis, channel_axis: int) -> Any:
    """Return a tapped output as ``(time, batch, ..., channels)``, with one step where it has no time.

    Args:
        tap: its name, for the error.
        x: the output.
        batch: the batch size of the main logits; None not to check it.
        time_axis: where time is in ``x``: 0, 1 or None.
        channel_axis: where its channels are.

    Raises:
        ValueError: a shape that has no such axes, or another batch.
    """
    least = 2 if time_axis is None else 3
    batch_axis = 1 if time_axis == 0 else 0
    fits = x.ndim >= least and -x.ndim <= channel_axis < x.ndim and channel_axis % x.ndim >= least - 1
    if not fits or (batch is not None and x.shape[batch_axis] != batch):
        layout = _LAYOUTS[time_axis] if channel_axis == -1 else f"{_LAYOUTS[time_axis]}, channels in {channel_axis}"
        others = ", ".join(f"time_axis={axis} for {_LAYOUTS[axis]}" for axis in _LAYOUTS if axis != time_axis)
        hint = f" and the batch of the main logits, {batch}" if batch is not None else ""
        raise ValueError(
            f"a tapped output must have shape {layout}{hint}, got {x.shape} from tap {tap!r}; or pass {others}"
        )
    x = jnp.moveaxis(x, channel_axis, -1)
    return x[None] if time_axis is None else jnp.moveaxis(x, time_axis, 0)


def pool(x: jax.Array) -> jax.Array:
    """Return the mean over space of ``(time, batch, ..., channels)``: any number of axes, none included."""
    return x.mean(axis=tuple(range(2, x.ndim - 1)))


def over_time(tap: str, logits: jax.Array, main: jax.Array) -> jax.Array:
    """Return a branch's logits, ``(time, batch, classes)``, as the main ones are: of each step, or their mean.

    Raises:
        ValueError: main logits of each step, but of another number of steps.
    """
    if main.ndim == 2:
        return logits.mean(axis=0)
    if main.shape[0] != logits.shape[0]:
        raise ValueError(
            f"net gives logits of {main.shape[0]} steps, (time, batch, classes), but tap {tap!r} has {logits.shape[0]}"
        )
    return logits


class LinearBranch(nnx.Linear):
    """The paper's branch: global average pooling and a linear layer (Guo et al. 2024, section 4).

    Args:
        channels: of what it taps.
        num_classes: outputs.
        dtype: dtype of the computation; None to follow from input and parameters.
        param_dtype: dtype of the parameters.
        rngs: random keys of the initial weights.
    """

    def __init__(
        self, channels: int, num_classes: int, *, dtype: Any = None, param_dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        initial = uniform(channels)
        super().__init__(
            channels,
            num_classes,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=initial,
            bias_init=initial,
            rngs=rngs,
        )

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return logits at each step, ``(time, batch, classes)``, of ``(time, batch, ..., channels)``."""
        logits: jax.Array = super().__call__(pool(inputs), out_sharding)
        return logits


class ConvolutionalBranch(nnx.Module):
    """A small convolutional head: 3-wide convolution of stride 2, batch norm, ReLU; then pooling and a linear layer.

    Args:
        channels: of what it taps, and of its convolution.
        num_classes: outputs.
        space: the number of axes of space, at least 1.
        dtype: dtype of the computation; None to follow from input and parameters.
        param_dtype: dtype of the parameters.
        rngs: random keys of the initial weights.

    Raises:
        ValueError: no axis of space.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        space: int = 2,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if space < 1:
            raise ValueError("branch 'convolutional' needs a tapped output with axes of space; take 'linear'")
        self.conv = nnx.Conv(
            channels,
            channels,
            (3,) * space,
            strides=2,
            padding=1,
            use_bias=False,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=rngs,
        )
        self.bn = BatchNorm(channels, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.linear = linear(channels, num_classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return logits at each step, ``(time, batch, classes)``, of ``(time, batch, ..., channels)``."""
        # time goes with the batch: a convolution pads one axis of examples only
        maps = self.conv(x.reshape(-1, *x.shape[2:]))
        maps = jax.nn.relu(self.bn(maps.reshape(*x.shape[:2], *maps.shape[1:])))
        logits: jax.Array = self.linear(pool(maps))
        return logits
