"""A loss or gradient that is no number any more: where it began, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NotFiniteError(ArithmeticError):
    """A loss or a gradient became NaN or infinite; the message names the first layer where it did."""


def describe(
    what: str,
    value: float,
    step: int,
    *,
    images: NDArray[Any],
    weights: Mapping[str, NDArray[Any]],
    outputs: Iterable[tuple[str, NDArray[Any]]],
    gradients: Mapping[str, NDArray[Any]],
) -> NotFiniteError:
    """Return the error, which says where it began.

    Args:
        what: "loss" or "gradient".
        value: what it was.
        step: in which training step.
        images: of the batch.
        weights: name to array, in the order in which they are used, before the step.
        outputs: layer to what it gave, in the order in which they ran.
        gradients: name to the gradient of each weight, in the order in which the weights are used.

    Example:
        >>> nan = np.array([1.0, np.nan])
        >>> gave = [("stem", nan)]
        >>> print(describe("loss", float("nan"), 7, images=np.ones(2), weights={}, outputs=gave, gradients={}))
        the loss became nan in step 7: the first layer that gave a value that is not finite is 'stem' (1 of 2 values)
    """
    return NotFiniteError(f"the {what} became {value} in step {step}: {_origin(images, weights, outputs, gradients)}")


def _origin(
    images: NDArray[Any],
    weights: Mapping[str, NDArray[Any]],
    outputs: Iterable[tuple[str, NDArray[Any]]],
    gradients: Mapping[str, NDArray[Any]],
) -> str:
    if _bad(images):
        return f"the batch itself has {_share(images)} that are not finite"
    for name, array in weights.items():
        if _bad(array):
            return f"the first weight that was not finite before the step is {name!r} ({_share(array)})"
    for name, array in outputs:
        if _bad(array):
            return f"the first layer that gave a value that is not finite is {name!r} ({_share(array)})"
    # a gradient runs from the output to the input
    for name, array in reversed(list(gradients.items())):
        if _bad(array):
            layer = name.partition("/")[2].rpartition(".")[0] or name
            share = f"{_share(array)} of {name!r}"
            return f"every layer gave finite values; the first layer whose gradient is not is {layer!r} ({share})"
    return "every layer gave finite values; only the sum over all of them is too large"


def _bad(array: NDArray[Any]) -> bool:
    return not bool(np.isfinite(array).all())


def _share(array: NDArray[Any]) -> str:
    return f"{int(np.sum(~np.isfinite(array))):,} of {array.size:,} values"
