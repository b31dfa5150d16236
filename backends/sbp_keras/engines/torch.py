"""Gradients by autograd; compiled means ``torch.compile``, as Keras does with ``jit_compile=True``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sbp_core.backend import Mode

VERSIONS = {"torch": torch.__version__}
# Keras runs eagerly on PyTorch unless told otherwise, and a Keras layer breaks torch.compile's graph into pieces
MODES: Sequence[Mode] = ("eager",)


def precision(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context without effect: every dtype is always there."""
    return contextlib.nullcontext()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` as ``torch.compile`` does it."""
    return torch.compile(function)


def gradients(
    layer: Any, function: Callable[..., Any], arguments: Sequence[Any], compile_it: bool
) -> tuple[Any, list[Any]]:
    """Return the auxiliary values and the gradients (see :mod:`sbp_keras.engines`)."""
    weights = [] if layer is None else [weight.value for weight in layer.trainable_weights]
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    value, auxiliary = (compiled(function) if compile_it else function)(layer, *leaves)
    if not value.requires_grad:
        return auxiliary, [torch.zeros_like(leaf) for leaf in [*leaves, *weights]]
    return auxiliary, list(torch.autograd.grad(value, [*leaves, *weights], materialize_grads=True))
