"""Layers that do the same to every step, and layers of time, beside Keras's own and the neurons; time is axis 1."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from sbp_core import validation
from sbp_keras import native, numerics
from sbp_keras.readout import mean_over_time


class _EachStep(keras.layers.Layer):
    """Runs a layer of Keras on every step of ``(batch, [time,] *space, channels)``, padded alike on all sides.

    Keras's ``padding="same"`` pads a stride of 2 on one side only; here ``pad`` values go on every side, half the
    window's unless given, as in the convention of :mod:`sbp_core.specs.layers`.
    """

    _fill: ClassVar[float] = 0.0
    pad: int | None = None

    @property
    def _window(self) -> tuple[int, ...]:
        raise NotImplementedError

    def call(self, inputs: Any) -> Any:
        """Run every step."""
        step = super().call
        if len(inputs.shape) == len(self._window) + 2:
            return step(self._padded(inputs))
        shape = ops.shape(inputs)
        outputs = step(self._padded(ops.reshape(inputs, (-1, *shape[2:]))))
        return ops.reshape(outputs, (-1, shape[1], *ops.shape(outputs)[1:]))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape with each map smaller by the stride."""
        axes = len(self._window) + 1
        leading, space, channels = input_shape[:-axes], input_shape[-axes:-1], input_shape[-1]
        padded = [None if n is None else n + 2 * pad for n, pad in zip(space, self._pads(), strict=True)]
        return (*leading, *super().compute_output_shape((None, *padded, channels))[1:])

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration."""
        config: dict[str, Any] = super().get_config()
        return config | {"pad": self.pad}

    def _pads(self) -> list[int]:
        return [extent // 2 if self.pad is None else self.pad for extent in self._window]

    def _padded(self, x: Any) -> Any:
        widths = [(0, 0), *((pad, pad) for pad in self._pads()), (0, 0)]
        if all(width == (0, 0) for width in widths):
            return x
        return ops.pad(x, widths, constant_values=self._fill)


class _Convolution(_EachStep):
    """A convolution of each time step; no bias, Kaiming normal over the fan-out, unless told otherwise."""

    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, *, pad: int | None = None, **arguments: Any
    ) -> None:
        defaults = {
            "use_bias": False,
            "kernel_initializer": keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            "data_format": "channels_last",
        }
        super().__init__(filters, kernel_size, strides, **(defaults | arguments))
        self.pad = _pad(pad)

    @property
    def _window(self) -> tuple[int, ...]:
        window: tuple[int, ...] = self.kernel_size
        return window

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve; group by group where the backend has no gradient for groups on every device."""
        convolve = super().convolution_op
        if self.groups == 1 or native.convolves_groups():
            return convolve(inputs, kernel)
        kernel = ops.convert_to_tensor(kernel)
        *space, each, outputs = kernel.shape
        if each == 1 and len(space) < 3:
            return ops.depthwise_conv(
                inputs,
                ops.reshape(kernel, (*space, self.groups, outputs // self.groups)),
                strides=self.strides,
                padding=self.padding,
                dilation_rate=self.dilation_rate,
                data_format=self.data_format,
            )
        parts = (ops.split(tensor, self.groups, axis=-1) for tensor in (inputs, kernel))
        return ops.concatenate([convolve(*part) for part in zip(*parts, strict=True)], axis=-1)


class _Pooling(_EachStep):
    """A pool of each time step."""

    def __init__(self, pool_size: Any = 3, strides: Any = 2, *, pad: int | None = None, **arguments: Any) -> None:
        super().__init__(pool_size, strides, **({"data_format": "channels_last"} | arguments))
        self.pad = _pad(pad)
        rank = len(self._window)
        self.input_spec = keras.layers.InputSpec(min_ndim=rank + 2, max_ndim=rank + 3)

    @property
    def _window(self) -> tuple[int, ...]:
        window: tuple[int, ...] = self.pool_size
        return window


def _pad(pad: int | None) -> int | None:
    return None if pad is None else validation.count("pad", pad, 0)


@keras.saving.register_keras_serializable(package="sbp")
class StepConv1D(_Convolution, keras.layers.Conv1D):
    """A 1-d convolution of each time step, ``(batch, [time,] length, channels)``; see :class:`StepConv2D`."""


@keras.saving.register_keras_serializable(package="sbp")
class StepConv2D(_Convolution, keras.layers.Conv2D):
    """A 2-d convolution of each time step, ``(batch, [time,] height, width, channels)``, padded alike on all sides.

    Keras's ``padding="same"`` pads a stride of 2 on one side only; here ``pad`` zeros go on every side,
    ``kernel_size // 2`` unless given. No bias, Kaiming normal initialisation over the fan-out, unless told otherwise.
    """


@keras.saving.register_keras_serializable(package="sbp")
class StepConv3D(_Convolution, keras.layers.Conv3D):
    """A 3-d convolution of each time step; see :class:`StepConv2D`."""


@keras.saving.register_keras_serializable(package="sbp")
class StepMaxPooling1D(_Pooling, keras.layers.MaxPooling1D):
    """A 1-d max pool of each time step; see :class:`StepMaxPooling2D`."""

    _fill = float("-inf")


@keras.saving.register_keras_serializable(package="sbp")
class StepMaxPooling2D(_Pooling, keras.layers.MaxPooling2D):
    """A 2-d max pool of each time step, ``(batch, [time,] height, width, channels)``, padded alike on all sides.

    ``pad`` is ``pool_size // 2`` unless given; what pads is smaller than every number.
    """

    _fill = float("-inf")


@keras.saving.register_keras_serializable(package="sbp")
class StepMaxPooling3D(_Pooling, keras.layers.MaxPooling3D):
    """A 3-d max pool of each time step; see :class:`StepMaxPooling2D`."""

    _fill = float("-inf")


@keras.saving.register_keras_serializable(package="sbp")
class StepAveragePooling1D(_Pooling, keras.layers.AveragePooling1D):
    """A 1-d average pool of each time step; see :class:`StepAveragePooling2D`."""


@keras.saving.register_keras_serializable(package="sbp")
class StepAveragePooling2D(_Pooling, keras.layers.AveragePooling2D):
    """A 2-d average pool of each time step, padded alike on all sides with zeros, which count."""


@keras.saving.register_keras_serializable(package="sbp")
class StepAveragePooling3D(_Pooling, keras.layers.AveragePooling3D):
    """A 3-d average pool of each time step; see :class:`StepAveragePooling2D`."""


@keras.saving.register_keras_serializable(package="sbp")
class StepDense(keras.layers.Dense):
    """Keras's dense layer, of a vector at each step, in the dtype that it is given."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Multiply by the kernel and add the bias."""
        outputs = numerics.matmul(inputs, self.kernel)
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)


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
class TimeScale(keras.layers.Layer):
    """A learnt factor for each step of ``(batch, time, ...)``: behind a batch norm it is TEBN (Duan et al. 2022).

    Args:
        time_steps: how many.
        **arguments: those of every Keras layer.

    Raises:
        ValueError: fewer than 1 step; in a call: another number of steps.
        TypeError: not an integer.
    """

    def __init__(self, time_steps: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.time_steps = validation.count("time_steps", time_steps)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Create the factors."""
        self.factors = self.add_weight(name="factors", shape=(self.time_steps,), initializer="ones")
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Scale every step."""
        if inputs.shape[1] not in (None, self.time_steps):
            raise ValueError(f"there is a factor for each of {self.time_steps} steps, got {inputs.shape[1]} steps")
        return inputs * ops.reshape(self.factors, (-1, *[1] * (len(inputs.shape) - 2)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``input_shape``."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration."""
        config: dict[str, Any] = super().get_config()
        return config | {"time_steps": self.time_steps}


@keras.saving.register_keras_serializable(package="sbp")
class TimeMean(keras.layers.Layer):
    """The mean over time, ``(batch, time, ...)`` to ``(batch, ...)``; of logits over the steps that a mask leaves."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Average."""
        return mean_over_time(inputs, mask)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Return None: there are no steps left to mask."""
        return

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape without time."""
        return (input_shape[0], *input_shape[2:])
