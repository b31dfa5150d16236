"""Gradients by ``jax.grad`` over the layer's stateless call; compiled means ``jax.jit``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from sbp_core.backend import Mode

VERSIONS = {"jax": jax.__version__}
MODES: Sequence[Mode] = ("eager", "compiled")


def precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which JAX keeps 64 bits where ``dtype`` has them."""
    context: contextlib.AbstractContextManager[Any] = jax.enable_x64(dtype == "float64")
    return context


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` as ``jax.jit`` compiles it."""
    return jax.jit(function)


def gradients(
    layer: Any, function: Callable[..., Any], arguments: Sequence[Any], compile_it: bool
) -> tuple[Any, list[Any]]:
    """Return the auxiliary values and the gradients (see :mod:`sbp_keras.engines`)."""
    weights = [] if layer is None else [weight.value for weight in layer.trainable_weights]
    held = [] if layer is None else [variable.value for variable in layer.non_trainable_variables]

    def scalar(inputs: list[Any], values: list[Any]) -> Any:
        moved = held

        def call(*given: Any, **options: Any) -> Any:
            nonlocal moved
            outputs, moved = layer.stateless_call(values, moved, *given, **options)
            return outputs

        value, auxiliary = function(call, *inputs)
        return value, (auxiliary, moved)

    differentiate = jax.grad(scalar, argnums=(0, 1), has_aux=True)
    (of_inputs, of_weights), (auxiliary, moved) = (compiled(differentiate) if compile_it else differentiate)(
        list(arguments), weights
    )
    if layer is not None:
        for variable, value in zip(layer.non_trainable_variables, moved, strict=True):
            variable.assign(value)
    return auxiliary, [*of_inputs, *of_weights]
