"""Layers that a spiking convolutional network needs beside Keras's own: they treat time as part of the batch."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from sbp_core import validation
from sbp_keras import numerics

_KAIMING = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


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
    is Keras's: the weight of the old statistics. float64 is normalised in float64, on every backend.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise; while training, by the batch's own statistics."""
        if mask is None and keras.backend.standardize_dtype(inputs.dtype) == "float64":
            return self._in_double(inputs, bool(training and self.trainable))
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        kept = ops.multiply(self.moving_variance, self.momentum)
        outputs = super().call(inputs, training=training, mask=mask)
        n = ops.cast(ops.size(inputs), kept.dtype) / inputs.shape[self.axis]
        unbiased = n / ops.maximum(n - 1.0, 1.0)
        self.moving_variance.assign(kept + ops.subtract(self.moving_variance, kept) * unbiased)
        return outputs

    def _in_double(self, inputs: Any, training: bool) -> Any:
        # Keras's own computes in float32 here on the JAX and PyTorch backends (Keras 3.15), as does a Python number
        # that meets a variable of Keras instead of a tensor
        weights = (self.moving_mean, self.moving_variance, self.gamma, self.beta)
        mean, variance, gamma, beta = (ops.convert_to_tensor(weight) for weight in weights)
        if training:
            axes = tuple(range(len(inputs.shape) - 1))
            old, (mean, variance) = (mean, variance), _moments(inputs, axes)
            n = ops.cast(ops.size(inputs), inputs.dtype) / inputs.shape[-1]
            new = (mean, variance * (n / ops.maximum(n - 1.0, 1.0)))
            for moving, before, now in zip(weights[:2], old, new, strict=True):
                moving.assign(self.momentum * before + (1.0 - self.momentum) * ops.stop_gradient(now))
        return (inputs - mean) * ((variance + self.epsilon) ** -0.5 * gamma) + beta


def _moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    mean = numerics.mean(x, axes)
    return mean, numerics.mean((x - mean) ** 2, axes)


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
