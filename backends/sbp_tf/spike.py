"""The spike: a step forwards, a surrogate backwards."""

# mypy: allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from sbp_core.inputs import check_floating
from sbp_core.specs.surrogates import Surrogate, as_surrogate
from sbp_tf import namespace


def spike(x: tf.Tensor, surrogate: Surrogate | str = "rectangle", *, inclusive: bool = False) -> tf.Tensor:
    """Fire where ``x > 0`` (``>=`` if inclusive), with the surrogate's gradient (Guo et al. 2024, Eq. 2 and 5).

    It can be differentiated twice. With ``tf.vectorized_map``, take the gradient inside the mapped function: TensorFlow
    drops every custom gradient where it differentiates through the map, and the surrogate would be lost unnoticed.

    Args:
        x: potential minus threshold, floating, any shape.
        surrogate: a surrogate, or the name of a family.
        inclusive: fire at 0 too.

    Returns:
        1 and 0 in the shape and dtype of ``x``; the gradient is ``surrogate.derivative(x)``.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: an unknown surrogate.

    Example:
        >>> import tensorflow as tf
        >>> spike(tf.constant([-0.5, 0.0, 0.5])).numpy().tolist()
        [0.0, 0.0, 1.0]
    """
    surrogate = as_surrogate(surrogate)
    x = tf.convert_to_tensor(x)
    check_floating("x", x.dtype.name)

    # the surrogate is closed over: as an argument of the custom gradient its numbers would become float32 tensors
    @tf.custom_gradient
    def fire(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return upstream * surrogate.derivative(x, namespace)

        return tf.cast(x >= 0 if inclusive else x > 0, x.dtype), gradient

    return fire(x)
