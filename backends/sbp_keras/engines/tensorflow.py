"""Gradients by ``tf.GradientTape``; compiled means ``tf.function``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from sbp_core.backend import Mode

VERSIONS = {"tensorflow": tf.__version__}
MODES: Sequence[Mode] = ("eager", "compiled")


def precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context without effect: every dtype is always there."""
    return contextlib.nullcontext()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` as a graph."""
    return tf.function(function, autograph=False)  # type: ignore[no-any-return]


def gradients(
    layer: Any, function: Callable[..., Any], arguments: Sequence[Any], compile_it: bool
) -> tuple[Any, list[Any]]:
    """Return the auxiliary values and the gradients (see :mod:`sbp_keras.engines`)."""
    weights = [] if layer is None else [weight.value for weight in layer.trainable_weights]

    def run(*inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value, auxiliary = function(layer, *inputs)
        return auxiliary, tape.gradient(value, [*inputs, *weights], unconnected_gradients="zero")

    auxiliary, found = (compiled(run) if compile_it else run)(*arguments)
    return auxiliary, list(found)
