"""From maps to logits in one layer; time is axis 1 unless told otherwise."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import math
from typing import Any, Literal, cast

import keras
from keras import ops

from sbp_core import validation
from sbp_core.taps import Channels, TapLayout
from sbp_keras.numerics import matmul, mean


@keras.saving.register_keras_serializable(package="sbp")
class Readout(keras.layers.Layer):
    """Global average pool over space and a linear layer at each step, averaged over time: logits ``(batch, classes)``.

    "Global average pooling and a fully connected layer" (Guo et al. 2024, section 4). Weight and bias start uniform in
    ``+-1 / sqrt(channels)``. Where Keras's mask says which steps are valid, the average is over those, as in
    ``keras.layers.GlobalAveragePooling1D``.

    Args:
        num_classes: number of logits.
        time_axis: axis of time in the input; None for an input without one; "merged" for ``(time * batch, ...)``, time
            outermost.
        channels: where the channels are: "last"; "first", before the axes of space; or an axis. All other axes but the
            batch are space.
        per_step: give the logits of every time step instead of their mean, ``(batch, time, classes)``. A call may
            say so too.
        time_steps: how many steps are merged.
        **arguments: those of every Keras layer.

    Raises:
        ValueError: fewer than 1 class, axes that the input has not, or ``time_steps`` without merged time.
        TypeError: not integers.

    Example:
        >>> import numpy as np
        >>> tuple(Readout(10)(np.ones((2, 4, 8, 8, 16), "float32")).shape)
        (2, 10)
    """

    def __init__(
        self,
        num_classes: int,
        time_axis: int | Literal["merged"] | None = 1,
        channels: Channels = "last",
        *,
        per_step: bool = False,
        time_steps: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.num_classes = validation.count("num_classes", num_classes)
        # Readout takes time after space too; what else there is to check of the three, the layout checks
        TapLayout(
            time_axis=1 if isinstance(time_axis, int) else time_axis,
            channels=channels if isinstance(channels, str) else -1,
            time_steps=time_steps,
        )
        self.time_axis = time_axis
        self.channels = channels
        self.time_steps = time_steps
        self.per_step = validation.flag("per_step", per_step)
        self.supports_masking = True
        if per_step and time_axis is None:
            raise ValueError("per_step must be False where time_axis is None: there are no time steps")

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        channels = input_shape[self._axes(len(input_shape))[1]]
        if channels is None:
            raise ValueError(f"the channels of the input must be known, got shape {tuple(input_shape)}")
        bound = 1.0 / math.sqrt(channels)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(channels, self.num_classes),
            initializer=keras.initializers.RandomUniform(-bound, bound),
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.num_classes,), initializer=keras.initializers.RandomUniform(-bound, bound)
        )
        self.built = True

    def call(self, inputs: Any, per_step: bool | None = None, mask: Any = None) -> Any:
        """Pool, project, average over time; ``per_step`` is the layer's own unless given."""
        time, channel = self._axes(len(inputs.shape))
        space = tuple(axis for axis in range(1, len(inputs.shape)) if axis not in (time, channel))
        pooled = mean(inputs, space)
        if time is not None and channel < time:
            pooled = ops.swapaxes(pooled, 1, 2)
        logits = matmul(pooled, self.kernel) + self.bias
        if self.time_axis is None:
            return logits
        if self.time_axis == "merged":
            # time is outermost
            logits = ops.swapaxes(ops.reshape(logits, (self.time_steps, -1, self.num_classes)), 0, 1)
        apart = self.per_step if per_step is None else per_step
        return logits if apart else mean_over_time(logits, mask if self.time_axis == 1 else None)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask where there are logits of each step; else nothing is left to mask."""
        return previous_mask if self.per_step and self.time_axis == 1 else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``(batch, classes)``, or ``(batch, time, classes)``."""
        time, _ = self._axes(len(input_shape))
        batch, steps = input_shape[0], None if time is None else input_shape[time]
        if self.time_axis == "merged":
            batch, steps = (None if batch is None else batch // self.time_steps), self.time_steps
        return (batch, *((steps,) if self.per_step else ()), self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "num_classes": self.num_classes,
            "time_axis": self.time_axis,
            "channels": self.channels,
            "per_step": self.per_step,
            "time_steps": self.time_steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Readout:
        """Return the layer that :meth:`get_config` describes, of an earlier version too."""
        return cls(**renamed(config))

    def _axes(self, rank: int) -> tuple[int | None, int]:
        time = _position("time_axis", self.time_axis, rank) if isinstance(self.time_axis, int) else None
        places: dict[Channels, int] = {"last": -1, "first": 2 if time == 1 else 1}
        channel = _position("channels", places.get(self.channels, cast(int, self.channels)), rank)
        if time == channel:
            raise ValueError(f"time_axis and channels must differ, both are {time} in an input of rank {rank}")
        return time, channel


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration under today's names: ``channels`` was called ``channel_axis``."""
    return {"channels" if name == "channel_axis" else name: value for name, value in config.items()}


def mean_over_time(logits: Any, mask: Any = None) -> Any:
    """Return the mean of ``(batch, time, classes)`` over time, over the steps that are valid where there is a mask."""
    if mask is None:
        return mean(logits, (1,))
    valid = ops.cast(mask, logits.dtype)
    count = ops.maximum(ops.sum(valid, axis=1, keepdims=True), ops.ones_like(valid[:, :1]))
    return ops.sum(logits * ops.expand_dims(valid, -1), axis=1) / count


def _position(name: str, axis: int, rank: int) -> int:
    position = axis + rank if axis < 0 else axis
    if not 1 <= position < rank:
        raise ValueError(f"{name} must be an axis of the input other than the batch's, got {axis} for rank {rank}")
    return position
