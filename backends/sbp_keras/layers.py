"""Layers that a spiking network needs beside Keras's own and the neurons; time is axis 1."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, cast

import keras
from keras import ops

from sbp_core import validation
from sbp_core.taps import Channels, TapLayout
from sbp_keras import numerics
from sbp_keras.numerics import matmul, mean

_KAIMING = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


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


@keras.saving.register_keras_serializable(package="sbp")
class RepeatTime(keras.layers.Layer):
    """Repeats an image over time, ``(batch, ...)`` to ``(batch, time, ...)``: direct coding.

    Args:
        time_steps: how often.
        **arguments: those of every Keras layer.

    Raises:
        ValueError: fewer than 1 step.
        TypeError: not an integer.
    """

    def __init__(self, time_steps: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.time_steps = validation.count("time_steps", time_steps)

    def call(self, inputs: Any) -> Any:
        """Repeat."""
        return ops.repeat(ops.expand_dims(inputs, 1), self.time_steps, axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape with the time axis in second place."""
        return (input_shape[0], self.time_steps, *input_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration."""
        config: dict[str, Any] = super().get_config()
        return config | {"time_steps": self.time_steps}


@keras.saving.register_keras_serializable(package="sbp")
class StepConv2D(keras.layers.Conv2D):
    """A 2-d convolution of each time step, ``(batch, [time,] height, width, channels)``, padded alike on all sides.

    Keras's ``padding="same"`` pads a stride of 2 on one side only; here ``kernel_size // 2`` zeros go on every side, as
    in the convention of :class:`~sbp_core.ResNetSpec`. No bias, Kaiming normal initialisation over the fan-out, unless
    told otherwise.
    """

    def __init__(self, filters: int, kernel_size: Any, strides: Any = 1, **arguments: Any) -> None:
        defaults = {
            "use_bias": False,
            "kernel_initializer": keras.initializers.VarianceScaling(**_KAIMING),
            "data_format": "channels_last",
        }
        super().__init__(filters, kernel_size, strides, **(defaults | arguments))

    def call(self, inputs: Any) -> Any:
        """Convolve every step."""
        convolve = super().call
        return _each_step(lambda x: convolve(_pad(x, self.kernel_size)), inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape with each map smaller by the stride."""
        return _step_shape(input_shape, self.kernel_size, super().compute_output_shape)


@keras.saving.register_keras_serializable(package="sbp")
class StepMaxPooling2D(keras.layers.MaxPooling2D):
    """A 2-d max pool of each time step, ``(batch, [time,] height, width, channels)``, padded alike on all sides."""

    def __init__(self, pool_size: Any = 3, strides: Any = 2, **arguments: Any) -> None:
        super().__init__(pool_size, strides, **({"data_format": "channels_last"} | arguments))
        self.input_spec = keras.layers.InputSpec(min_ndim=4, max_ndim=5)

    def call(self, inputs: Any) -> Any:
        """Pool every step."""
        pool = super().call
        return _each_step(lambda x: pool(_pad(x, self.pool_size, float("-inf"))), inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape with each map smaller by the stride."""
        return _step_shape(input_shape, self.pool_size, super().compute_output_shape)


@keras.saving.register_keras_serializable(package="sbp")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over batch, time and space, with an unbiased moving variance.

    Keras's own moves its variance by the biased one of the batch, PyTorch's by ``n / (n - 1)`` times that, n being the
    values per channel; this layer does the latter, the convention of :class:`~sbp_core.ResNetSpec`. ``momentum``
    is Keras's: the weight of the old statistics. float64 is normalised in float64, on every backend; what a mask leaves
    out takes no part in the statistics.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise; while training, by the batch's own statistics."""
        training = bool(training and self.trainable)
        if mask is not None:
            # Keras has one value of a mask for each of the inputs' vectors
            spread = ops.reshape(mask, (*ops.shape(mask), *[1] * (len(inputs.shape) - 1 - len(mask.shape))))
            mask = ops.broadcast_to(spread, ops.shape(inputs)[:-1])
        if keras.backend.standardize_dtype(inputs.dtype) == "float64":
            return self._in_double(inputs, training, mask)
        if not training:
            return super().call(inputs, training=training, mask=mask)
        kept = ops.multiply(self.moving_variance, self.momentum)
        outputs = super().call(inputs, training=training, mask=mask)
        if mask is None:
            n = ops.cast(ops.size(inputs), kept.dtype) / inputs.shape[self.axis]
        else:
            n = ops.sum(ops.cast(mask, kept.dtype))
        unbiased = n / ops.maximum(n - 1.0, 1.0)
        self.moving_variance.assign(kept + ops.subtract(self.moving_variance, kept) * unbiased)
        return outputs

    def _in_double(self, inputs: Any, training: bool, mask: Any) -> Any:
        # Keras's own computes in float32 here on the JAX and PyTorch backends (Keras 3.15), as does a Python number
        # that meets a variable of Keras instead of a tensor
        variables = (self.moving_mean, self.moving_variance, self.gamma, self.beta)
        spread = [1] * len(inputs.shape)
        spread[self.axis] = -1
        mean, variance, gamma, beta = (None if v is None else ops.convert_to_tensor(v) for v in variables)
        if training:
            axes = tuple(axis for axis in range(len(inputs.shape)) if axis != self.axis % len(inputs.shape))
            old, (mean, variance, n) = (mean, variance), _moments(inputs, axes, mask)
            new = (mean, variance * (n / ops.maximum(n - 1.0, 1.0)))
            for moving, before, now in zip(variables[:2], old, new, strict=True):
                moving.assign(self.momentum * before + (1.0 - self.momentum) * ops.stop_gradient(now))
        scale = (variance + self.epsilon) ** -0.5
        scale = scale if gamma is None else scale * gamma
        outputs = (inputs - ops.reshape(mean, spread)) * ops.reshape(scale, spread)
        return outputs if beta is None else outputs + ops.reshape(beta, spread)


def _moments(x: Any, axes: tuple[int, ...], mask: Any) -> tuple[Any, Any, Any]:
    """Return mean and variance over ``axes``, and the number of values that they are of."""
    if mask is None:
        mean = numerics.mean(x, axes)
        spread = ops.expand_dims(mean, axes)
        return mean, numerics.mean((x - spread) ** 2, axes), ops.cast(ops.size(x), x.dtype) / mean.shape[0]
    weights = ops.expand_dims(ops.cast(mask, x.dtype), -1)
    n = ops.sum(weights)
    mean = ops.sum(x * weights, axis=axes) / n
    return mean, ops.sum((x - ops.expand_dims(mean, axes)) ** 2 * weights, axis=axes) / n, n


def _each_step(function: Callable[[Any], Any], inputs: Any) -> Any:
    if len(inputs.shape) == 4:
        return function(inputs)
    shape = ops.shape(inputs)
    outputs = function(ops.reshape(inputs, (-1, *inputs.shape[2:])))
    return ops.reshape(outputs, (-1, shape[1], *outputs.shape[1:]))


def _pad(x: Any, size: tuple[int, ...], value: float = 0.0) -> Any:
    widths = [(0, 0), *((extent // 2, extent // 2) for extent in size), (0, 0)]
    if all(width == (0, 0) for width in widths):
        return x
    return ops.pad(x, widths, constant_values=value)


def _step_shape(shape: Any, size: tuple[int, ...], valid_shape: Callable[[Any], Any]) -> Any:
    leading, (height, width, channels) = shape[:-3], shape[-3:]
    padded = [None if n is None else n + 2 * (extent // 2) for n, extent in zip((height, width), size, strict=True)]
    return (*leading, *valid_shape((None, *padded, channels))[1:])
