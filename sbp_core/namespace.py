"""Finds the array functions that belong to an array, whichever framework made it."""

from __future__ import annotations

import importlib
from typing import Any, cast

import array_api_compat
import numpy as np

# frameworks whose arrays offer no namespace, and the adapter module that supplies one
_SUPPLIED = {"tensorflow": "sbp_tf.namespace"}


def array_namespace(array: object) -> Any:  # a namespace is a module: it has no static type
    """Return the array API namespace of ``array``; plain Python numbers get NumPy's.

    TensorFlow's tensors offer none, so its adapter supplies one.

    Raises:
        TypeError: ``array`` is not an array of a known framework.

    Example:
        >>> import numpy as np
        >>> array_namespace(np.ones(3)).__name__.split(".")[-1]
        'numpy'
    """
    if isinstance(array, bool | int | float):
        return np
    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        supplier = _SUPPLIED.get(type(array).__module__.partition(".")[0])
        if supplier is None:
            raise TypeError(f"expected an array or a number, got {type(array).__name__}") from None
        return importlib.import_module(supplier)


def as_float(value: Any) -> Any:
    """Return ``value`` as a floating-point number: integers become float (arrays: float32), floats stay as they are."""
    if isinstance(value, int):
        return float(value)
    if isinstance(value, float):
        return value
    xp = array_namespace(value)
    if is_floating(value):
        return value
    return xp.astype(value, xp.float32)


def is_floating(array: object) -> bool:
    """Say whether an array holds floating-point numbers (bfloat16 and float16 count)."""
    name = str(cast(Any, array).dtype)
    return "float" in name
