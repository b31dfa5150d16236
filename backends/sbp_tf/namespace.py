"""Array API names over TensorFlow, as far as the core's formulas need them: TensorFlow's tensors offer no namespace."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

abs = tf.abs
ceil = tf.math.ceil
cos = tf.cos
exp = tf.exp
log = tf.math.log
maximum = tf.maximum
mean = tf.reduce_mean
minimum = tf.minimum
ones_like = tf.ones_like
sign = tf.sign
stack = tf.stack
sum = tf.reduce_sum
tanh = tf.tanh
where = tf.where
zeros_like = tf.zeros_like

bool = tf.bool
float16 = tf.float16
bfloat16 = tf.bfloat16
float32 = tf.float32
float64 = tf.float64
int32 = tf.int32
int64 = tf.int64


def astype(x: Any, dtype: Any, /) -> Any:
    """Return ``x`` cast to ``dtype``.

    Example:
        >>> import tensorflow as tf
        >>> astype(tf.constant([True, False]), float32).numpy().tolist()
        [1.0, 0.0]
    """
    return tf.cast(x, dtype)
