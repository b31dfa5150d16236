"""From a map of spikes to logits: the head of a network, and each branch of a shortcut."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from sbp_core import validation
from sbp_keras.numerics import matmul, mean


@keras.saving.register_keras_serializable(package="sbp")
class Readout(keras.layers.Layer):
    """Global average pool over space and a linear layer at each step, averaged over time: logits ``(batch, classes)``.

    "Global average pooling and a fully connected layer" (Guo et al. 2024, section 4). Weight and bias start uniform in
    ``+-1 / sqrt(channels)``.

    Args:
        num_classes: number of logits.
        time_axis: axis of time in the input, None for an input without one.
        channel_axis: axis of the channels; all other axes but the batch are space.
        per_step: give the logits of every time step instead of their mean, ``(batch, time, classes)``. A call may
            say so too.
        **arguments: those of every Keras layer.

    Raises:
        ValueError: fewer than 1 class, or axes that the input has not.
        TypeError: not integers.

    Example:
        >>> import numpy as np
        >>> tuple(Readout(10)(np.ones((2, 4, 8, 8, 16), "float32")).shape)
        (2, 10)
    """

    def __init__(
        self,
        num_classes: int,
        time_axis: int | None = 1,
        channel_axis: int = -1,
        *,
        per_step: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.num_classes = validation.count("num_classes", num_classes)
        self.time_axis = time_axis
        self.channel_axis = channel_axis
        self.per_step = validation.flag("per_step", per_step)
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

    def call(self, inputs: Any, per_step: bool | None = None) -> Any:
        """Pool, project, average over time; ``per_step`` is the layer's own unless given."""
        time, channel = self._axes(len(inputs.shape))
        space = tuple(axis for axis in range(1, len(inputs.shape)) if axis not in (time, channel))
        pooled = mean(inputs, space)
        if time is not None and channel < time:
            pooled = ops.swapaxes(pooled, 1, 2)
        logits = matmul(pooled, self.kernel) + self.bias
        apart = self.per_step if per_step is None else per_step
        return logits if time is None or apart else mean(logits, (1,))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``(batch, classes)``, or ``(batch, time, classes)``."""
        time, _ = self._axes(len(input_shape))
        steps = (input_shape[time],) if self.per_step and time is not None else ()
        return (input_shape[0], *steps, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration."""
        config: dict[str, Any] = super().get_config()
        return config | {
            "num_classes": self.num_classes,
            "time_axis": self.time_axis,
            "channel_axis": self.channel_axis,
            "per_step": self.per_step,
        }

    def _axes(self, rank: int) -> tuple[int | None, int]:
        channel = _position("channel_axis", self.channel_axis, rank)
        time = None if self.time_axis is None else _position("time_axis", self.time_axis, rank)
        if time == channel:
            raise ValueError(f"time_axis and channel_axis must differ, both are {time} in an input of rank {rank}")
        return time, channel


def _position(name: str, axis: int, rank: int) -> int:
    position = axis + rank if axis < 0 else axis
    if not 1 <= position < rank:
        raise ValueError(f"{name} must be an axis of the input other than the batch's, got {axis} for rank {rank}")
    return position
