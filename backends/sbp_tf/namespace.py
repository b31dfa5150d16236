"""Array API names over TensorFlow, as far as the core's formulas need them: TensorFlow's tensors offer no namespace."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

abs = tf.abs
acos = tf.acos
acosh = tf.acosh
argmax = tf.argmax
asin = tf.asin
asinh = tf.asinh
atan = tf.atan
atan2 = tf.atan2
atanh = tf.atanh
ceil = tf.math.ceil
cos = tf.cos
cosh = tf.cosh
exp = tf.exp
expand_dims = tf.expand_dims
expm1 = tf.math.expm1
floor = tf.floor
isfinite = tf.math.is_finite
isinf = tf.math.is_inf
isnan = tf.math.is_nan
log = tf.math.log
log1p = tf.math.log1p
logical_and = tf.logical_and
logical_not = tf.logical_not
logical_or = tf.logical_or
max = tf.reduce_max
maximum = tf.maximum
mean = tf.reduce_mean
min = tf.reduce_min
minimum = tf.minimum
ones_like = tf.ones_like
pow = tf.pow
round = tf.round
sign = tf.sign
sin = tf.sin
sinh = tf.sinh
sqrt = tf.sqrt
square = tf.square
stack = tf.stack
sum = tf.reduce_sum
tan = tf.tan
tanh = tf.tanh
where = tf.where
zeros_like = tf.zeros_like

pi = math.pi

bool = tf.bool
float16 = tf.float16
bfloat16 = tf.bfloat16
float32 = tf.float32
float64 = tf.float64
int32 = tf.int32
int64 = tf.int64


def asarray(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Return ``x`` as a tensor of ``dtype``; TensorFlow places it."""
    return tf.cast(tf.convert_to_tensor(x), dtype) if dtype is not None else tf.convert_to_tensor(x)


def astype(x: Any, dtype: Any, /) -> Any:
    """Return ``x`` cast to ``dtype``.

    Example:
        >>> import tensorflow as tf
        >>> astype(tf.constant([True, False]), float32).numpy().tolist()
        [1.0, 0.0]
    """
    return tf.cast(x, dtype)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """Return ``x`` no less than ``min`` and no more than ``max``, where they are given."""
    lowered = x if max is None else minimum(x, tf.cast(max, x.dtype))
    return lowered if min is None else maximum(lowered, tf.cast(min, x.dtype))
