"""Operations that keep the dtype they are given."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops


def mean(x: Any, axis: tuple[int, ...]) -> Any:
    """Return the mean over ``axis``, in the dtype of ``x``.

    ``ops.mean`` computes float64 in float32 on the JAX and PyTorch backends (Keras 3.15), and float16 in float32
    everywhere, which is what one wants.
    """
    if not axis:
        return x
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.mean(x, axis=axis)
    sizes = [ops.shape(x)[position] for position in axis]
    count = math.prod(sizes) if all(isinstance(size, int) for size in sizes) else ops.cast(ops.prod(sizes), x.dtype)
    return ops.sum(x, axis=axis) / count


def matmul(x: Any, kernel: Any) -> Any:
    """Return ``x @ kernel`` in the dtype of ``x``; ``ops.matmul`` takes float64 to float32 on PyTorch (Keras 3.15)."""
    if keras.backend.standardize_dtype(x.dtype) != "float64":
        return ops.matmul(x, kernel)
    return x @ ops.convert_to_tensor(kernel)


@keras.saving.register_keras_serializable(package="sbp")
class Constant(keras.initializers.Initializer):
    """One number; Keras's own takes it through float32 on TensorFlow (Keras 3.15)."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return an array of it."""
        return ops.convert_to_tensor(np.full(shape, self.value), dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        return {"value": self.value}


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Return the mean cross-entropy of ``logits``, ``(batch, ..., classes)``, and integer ``labels``, ``(batch, ...)``.

    ``ops.sparse_categorical_crossentropy`` gives float32 for bfloat16 logits on JAX. The labels' entries are chosen,
    not multiplied by 1 among zeros: a class masked with -inf would make NaN of it.
    """
    chosen = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    found = ops.log_softmax(logits)
    losses = -ops.sum(ops.where(chosen, found, ops.zeros_like(found)), axis=-1)
    return mean(losses, tuple(range(len(losses.shape))))
