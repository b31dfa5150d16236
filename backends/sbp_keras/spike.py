"""The step function, with the gradient of the framework underneath."""

from __future__ import annotations

from typing import Any

from sbp_core.specs.surrogates import Surrogate
from sbp_keras.native import adapter


def spike(x: Any, surrogate: Surrogate | str = "rectangle", *, inclusive: bool = False) -> Any:
    """Fire where ``x > 0`` (``>=`` if inclusive), with the surrogate's gradient (Guo et al. 2024, Eq. 2 and 5).

    Args:
        x: potential minus threshold, a floating tensor of the set Keras backend, any shape.
        surrogate: a surrogate, or the name of a family.
        inclusive: fire at 0 too.

    Returns:
        1 and 0 in the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not floating.
        ValueError: an unknown surrogate, or a Keras backend without an adapter.

    Example:
        >>> from keras import ops
        >>> ops.convert_to_numpy(spike(ops.convert_to_tensor([-0.5, 0.0, 0.5]))).tolist()
        [0.0, 0.0, 1.0]
    """
    return adapter().spike(x, surrogate, inclusive=inclusive)
