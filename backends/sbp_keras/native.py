"""What runs underneath: the one place where the name of the Keras backend is looked at."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import keras

from sbp_core.specs.surrogates import Surrogate

_ADAPTERS = {"tensorflow": "sbp_tf", "jax": "sbp_jax", "torch": "sbp_torch"}


def adapter() -> ModuleType:
    """Return the adapter of the framework that Keras runs on, imported on first use.

    Raises:
        ValueError: Keras runs on a backend that has no adapter.
    """
    return importlib.import_module(_adapter())


def engine() -> Any:
    """Return the engine of that adapter, which differentiates and compiles.

    Raises:
        ValueError: Keras runs on a backend that has no adapter.
    """
    return importlib.import_module(f"{_adapter()}.engine").make_engine()


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


def _adapter() -> str:
    name = keras.backend.backend()
    if name not in _ADAPTERS:
        known = ", ".join(map(repr, _ADAPTERS))
        raise ValueError(f"KERAS_BACKEND must be one of {known} to train spiking networks, got {name!r}")
    return _ADAPTERS[name]
