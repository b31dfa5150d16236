"""Layers without weights that Keras has not, a function each, and the one Keras layer that runs them."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from sbp_core import validation
from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.base import Spec
from sbp_core.specs.joins import JoinSpec
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_keras.numerics import matmul, mean


@keras.saving.register_keras_serializable(package="sbp")
class Weightless(keras.layers.Layer):
    """What a spec without weights does to ``(batch, [time,] *space, channels)``; a join takes a list of such.

    Args:
        spec: the layer or the join, one of :data:`FUNCTIONS`; or its ``to_dict()``.
        space: how many axes of space the input has.
        **arguments: those of every Keras layer.

    Raises:
        TypeError: another kind of spec, or ``space`` not an integer.
        ValueError: ``space`` is negative; in a call: a shape that does not fit.

    Example:
        >>> import numpy as np
        >>> from sbp_core.specs.layers import Vote
        >>> Weightless(Vote(voters=2), space=0)(np.array([[1.0, 3.0, 0.0, 1.0]])).numpy().tolist()
        [[2.0, 0.5]]
    """

    def __init__(self, spec: LayerSpec | JoinSpec | Mapping[str, Any], space: int = 2, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.spec: Any = Spec.from_dict(spec) if isinstance(spec, Mapping) else spec
        if type(self.spec) not in FUNCTIONS:
            known = ", ".join(kind.__name__ for kind in FUNCTIONS)
            raise TypeError(f"spec must be one of {known}; got {spec!r} of type {type(spec).__name__}")
        self.space = validation.count("space", space, 0)
        self.supports_masking = not isinstance(self.spec, JoinSpec)

    def call(self, inputs: Any) -> Any:
        """Do it."""
        ends = inputs if isinstance(self.spec, JoinSpec) else [inputs]
        return FUNCTIONS[type(self.spec)](self.spec, self.space, *ends)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape that the spec says."""
        join = isinstance(self.spec, JoinSpec)
        shapes = [self._shape(shape) for shape in (input_shape if join else [input_shape])]
        found: Shape = self.spec.output(shapes if join else shapes[0])
        first = input_shape[0] if join else input_shape
        return (*first[: 1 + found.timed], *found.space, found.channels)

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration; the spec is a dictionary of JSON values."""
        config: dict[str, Any] = super().get_config()
        return config | {"spec": self.spec.to_dict(), "space": self.space}

    def _shape(self, shape: Any) -> Shape:
        rank = len(shape) - self.space
        if rank not in (2, 3):
            raise ValueError(f"the input must have a batch, {self.space} axes of space and channels, got shape {shape}")
        return Shape(shape[-1], tuple(shape[rank - 1 : -1]), rank == 3)


def _split(x: Any, parts: int, size: int) -> Any:
    """Return ``x`` with its channels in two axes."""
    return ops.reshape(x, (-1, *ops.shape(x)[1:-1], parts, size))


def _global_pool(layer: kinds.GlobalPool, space: int, x: Any) -> Any:
    rank = len(x.shape)
    return mean(x, tuple(range(rank - 1 - space, rank - 1)))


def _flatten(layer: kinds.Flatten, space: int, x: Any) -> Any:
    rank = len(x.shape)
    leading, positions = tuple(range(rank - 1 - space)), tuple(range(rank - 1 - space, rank - 1))
    turned = ops.transpose(x, (*leading, rank - 1, *positions))
    return ops.reshape(turned, (-1, *ops.shape(x)[1 : len(leading)], math.prod(x.shape[len(leading) :])))


def _vote(layer: kinds.Vote, space: int, x: Any) -> Any:
    return mean(_split(x, x.shape[-1] // layer.voters, layer.voters), (-1,))


def _head_sum(layer: kinds.HeadSum, space: int, x: Any) -> Any:
    return ops.sum(_split(x, layer.heads, x.shape[-1] // layer.heads), axis=-1)


def _and_not(join: joins.AndNot, space: int, identity: Any, body: Any) -> Any:
    return identity * (1.0 - body)


def _gate(join: joins.Gate, space: int, given: Any, gate: Any) -> Any:
    heads = gate.shape[-1]
    found = _split(given, heads, given.shape[-1] // heads) * ops.expand_dims(gate, -1)
    return ops.reshape(found, (-1, *ops.shape(given)[1:]))


def _attention(join: joins.Attention, space: int, *ends: Any) -> Any:
    sizes = ops.shape(ends[0])
    channels = ends[0].shape[-1] // join.heads
    tokens = math.prod(sizes[-1 - space : -1])
    # (items, heads, tokens, channels of a head)
    q, k, v = (ops.transpose(ops.reshape(end, (-1, tokens, join.heads, channels)), (0, 2, 1, 3)) for end in ends)
    turned = ops.transpose(k, (0, 1, 3, 2))
    if isinstance(tokens, int) and tokens > channels:
        # of spikes every product is a whole number, so that the order of products changes no bit
        found = matmul(q, matmul(turned, v))
    else:
        found = matmul(matmul(q, turned), v)
    return ops.reshape(ops.transpose(found * join.scale, (0, 2, 1, 3)), (-1, *sizes[1:]))


#: What each kind does: a function of the spec, the axes of space and the tensors.
FUNCTIONS: dict[type[Spec], Callable[..., Any]] = {
    kinds.GlobalPool: _global_pool,
    kinds.Flatten: _flatten,
    kinds.Vote: _vote,
    kinds.HeadSum: _head_sum,
    joins.AndNot: _and_not,
    joins.Gate: _gate,
    joins.Attention: _attention,
}
