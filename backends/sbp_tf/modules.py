"""What the networks are made of: convolution, batch norm and read-out, over time and batch alike."""

# mypy: allow-subclassing-any
from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from sbp_core import validation
from sbp_core.inputs import check_floating


class Conv2D(tf.Module):
    """A convolution without bias, channels last, padded alike on all sides by ``size // 2``.

    TensorFlow's own "SAME" pads more at the end where the stride is 2. The weight, (size, size, in, out), starts
    Kaiming normal over what goes out: ``N(0, 2 / (size * size * outputs))``. It is cast to the dtype of the input.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        stride: int = 1,
        *,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.stride = stride
        self.padding = size // 2
        deviation = math.sqrt(2.0 / (size * size * outputs))
        self.weight = tf.Variable(
            tf.random.normal((size, size, inputs, outputs), stddev=deviation, dtype=dtype), name="weight"
        )

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Convolve ``x``, shape ``(batch, height, width, channels)``."""
        x = pad(x, self.padding)
        return tf.nn.conv2d(x, tf.cast(self.weight, x.dtype), self.stride, "VALID")


class BatchNorm(tf.Module):
    """Batch norm over every axis but the last; the running variance is unbiased.

    ``running = (1 - momentum) * running + momentum * new``. Statistics are taken in float32, or wider where the input
    is; what comes out has the dtype of the input.
    """

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float,
        momentum: float,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.epsilon = epsilon
        self.momentum = momentum
        self.weight = tf.Variable(tf.ones(channels, dtype), name="weight")
        self.bias = tf.Variable(tf.zeros(channels, dtype), name="bias")
        # under a tf.distribute strategy each replica keeps its own, and reading them gives their mean
        shared = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
        }
        self.running_mean = tf.Variable(tf.zeros(channels, dtype), name="running_mean", **shared)
        self.running_var = tf.Variable(tf.ones(channels, dtype), name="running_var", **shared)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Normalise ``x`` with its own statistics in training, else with the running ones."""
        given = x.dtype
        wide = tf.float32 if given.size < 4 else given
        x = tf.cast(x, wide)
        if training:
            mean, variance = tf.nn.moments(x, axes=list(range(len(x.shape) - 1)))
            self._update(mean, variance, tf.size(x, tf.int64) // x.shape[-1])
        else:
            mean, variance = tf.cast(self.running_mean, wide), tf.cast(self.running_var, wide)
        weight, bias = tf.cast(self.weight, wide), tf.cast(self.bias, wide)
        return tf.cast(tf.nn.batch_normalization(x, mean, variance, bias, weight, self.epsilon), given)

    def _update(self, mean: tf.Tensor, variance: tf.Tensor, count: tf.Tensor) -> None:
        # one value has no unbiased variance; its own, 0, is kept then
        unbiased = variance * tf.cast(count / tf.maximum(count - 1, 1), variance.dtype)
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.assign_add(self.momentum * (tf.cast(new, running.dtype) - running))


class Readout(tf.Module):
    """Global average pool over space and a linear layer at each step, averaged over time: logits ``(batch, classes)``.

    "Global average pooling and a fully connected layer" (Guo et al. 2024, section 4). Weight, (channels, classes), and
    bias start uniform in ``+-1 / sqrt(channels)``.

    Args:
        channels: the last axis of the input.
        num_classes: number of logits.
        per_step: give the logits of each step, ``(time, batch, classes)``, and not their average.
        dtype: of the variables, which are cast to the dtype of the input.
        name: of the module.

    Raises:
        ValueError: fewer than 1 channel or class; in a call, an input of fewer than three axes.
        TypeError: not integers, or ``per_step`` not a bool.

    Example:
        >>> import tensorflow as tf
        >>> tuple(Readout(16, 10)(tf.ones((4, 2, 8, 8, 16))).shape)
        (2, 10)
        >>> tuple(Readout(16, 10, per_step=True)(tf.ones((4, 2, 16))).shape)
        (4, 2, 10)
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        per_step: bool = False,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.per_step = validation.flag("per_step", per_step)
        validation.count("channels", channels)
        validation.count("num_classes", num_classes)
        bound = 1.0 / math.sqrt(channels)
        self.weight = tf.Variable(tf.random.uniform((channels, num_classes), -bound, bound, dtype), name="weight")
        self.bias = tf.Variable(tf.random.uniform((num_classes,), -bound, bound, dtype), name="bias")

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return the logits of ``x``, shape ``(time, batch, ..., channels)``."""
        check_floating("x", x.dtype.name)
        if x.shape.rank is None or x.shape.rank < 3:
            raise ValueError(f"x must have shape (time, batch, ..., channels), got {x.shape}")
        pooled = tf.reduce_mean(x, axis=list(range(2, x.shape.rank - 1)))
        logits = tf.linalg.matmul(pooled, tf.cast(self.weight, x.dtype)) + tf.cast(self.bias, x.dtype)
        return logits if self.per_step else tf.reduce_mean(logits, axis=0)


class ConvolutionalReadout(tf.Module):
    """A small convolutional head: 3-wide convolution, batch norm, ReLU, and then :class:`Readout`.

    The convolution keeps channels and map. It is a branch, so it runs in training only, on the batch's statistics.

    Args:
        channels: the last axis of the input.
        num_classes: number of logits.
        per_step: give the logits of each step, ``(time, batch, classes)``, and not their average.
        dtype: of the variables, which are cast to the dtype of the input.
        name: of the module.

    Raises:
        ValueError: fewer than 1 channel or class; in a call, an input without two axes of space.
        TypeError: not integers, or ``per_step`` not a bool.

    Example:
        >>> import tensorflow as tf
        >>> tuple(ConvolutionalReadout(16, 10)(tf.ones((4, 2, 8, 8, 16))).shape)
        (2, 10)
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        per_step: bool = False,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.readout = Readout(channels, num_classes, per_step=per_step, dtype=dtype)
        self.conv = Conv2D(channels, channels, 3, dtype=dtype)
        self.bn = BatchNorm(channels, epsilon=1e-5, momentum=0.1, dtype=dtype)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Return the logits of ``x``, shape ``(time, batch, height, width, channels)``."""
        if x.shape.rank != 5:
            raise ValueError(f"x must have shape (time, batch, height, width, channels), got {x.shape}")
        return self.readout(tf.nn.relu(self.bn(each_step(self.conv, x), True)))


def pad(x: tf.Tensor, width: int, value: float = 0.0) -> tf.Tensor:
    """Pad height and width of ``x``, shape ``(batch, height, width, channels)``, alike on all sides."""
    return tf.pad(x, [[0, 0], [width, width], [width, width], [0, 0]], constant_values=tf.cast(value, x.dtype))


def each_step(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Apply ``function`` to ``x``, shape ``(time, batch, ...)``, with time and batch merged into one axis."""
    merged = function(tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)))
    y = tf.reshape(merged, tf.concat([tf.shape(x)[:2], tf.shape(merged)[1:]], 0))
    return tf.ensure_shape(y, [*x.shape[:2], *merged.shape[1:]])
