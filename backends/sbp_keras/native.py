"""What runs underneath: the one place where the name of the Keras backend is looked at."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import keras

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


def traced(function: Any) -> Any:
    """Return the function as one program for all calls with tensors of the same shapes; on PyTorch as it is.

    TensorFlow's is its graph: XLA takes minutes to compile a deep network for a processor. JAX has no other way.
    """
    name = _adapter()
    if name == "sbp_tf":
        return importlib.import_module("tensorflow").function(function, autograph=False)
    return importlib.import_module("jax").jit(function) if name == "sbp_jax" else function


def convolves_groups() -> bool:
    """Whether it has the gradient of a convolution by groups on every device.

    TensorFlow has none on the CPU outside XLA, which Keras takes for it: some twenty times as slow as the groups apart.
    """
    return _adapter() != "sbp_tf"


def _adapter() -> str:
    name = keras.backend.backend()
    if name not in _ADAPTERS:
        known = ", ".join(map(repr, _ADAPTERS))
        raise ValueError(f"KERAS_BACKEND must be one of {known} to train spiking networks, got {name!r}")
    return _ADAPTERS[name]
