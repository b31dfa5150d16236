"""What joins paths of a network, channels last: one table from a join's spec to a function."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from sbp_core.specs.joins import Add, And, AndNot, Attention, Gate, JoinSpec

Ends = tuple[jax.Array, ...]


@dataclass(frozen=True)
class Join:
    """What joins the ends of paths; equal where its spec is, so that ``jit`` knows it again.

    Attributes:
        spec: which.
        space: axes of space of the ends.

    Raises:
        TypeError: a kind of join that is not in :data:`JOINS`.
    """

    spec: JoinSpec
    space: int

    def __post_init__(self) -> None:
        if type(self.spec) not in JOINS:
            raise TypeError(f"JAX has no function for the join {self.spec.kind!r}; add one to JOINS")

    def __call__(self, *ends: jax.Array) -> jax.Array:
        """Join the ends."""
        return JOINS[type(self.spec)](self.spec, ends, self.space)


def _gate(join: Gate, ends: Ends, space: int) -> jax.Array:
    given, gate = ends
    return given * jnp.repeat(gate, given.shape[-1] // gate.shape[-1], axis=-1)


def _attention(join: Attention, ends: Ends, space: int) -> jax.Array:
    shape, before = ends[0].shape, ends[0].ndim - space - 1
    tokens = (*shape[:before], math.prod(shape[before:-1]), join.heads, shape[-1] // join.heads)
    q, k, v = (end.reshape(tokens) for end in ends)
    # the smaller product first: of spikes each is a whole number, so that the order changes no bit
    if tokens[-3] <= tokens[-1]:
        found = jnp.einsum("...hnm,...mhd->...nhd", jnp.einsum("...nhc,...mhc->...hnm", q, k), v)
    else:
        found = jnp.einsum("...nhc,...hcd->...nhd", q, jnp.einsum("...mhc,...mhd->...hcd", k, v))
    return (found * join.scale).reshape(shape)


#: What joins paths: a function of the join, each path's end and how many axes of space those have.
JOINS: dict[type[JoinSpec], Callable[[Any, Ends, int], jax.Array]] = {
    Add: lambda join, ends, space: reduce(operator.add, ends),
    And: lambda join, ends, space: reduce(operator.mul, ends),
    AndNot: lambda join, ends, space: ends[0] * (1.0 - ends[1]),
    Gate: _gate,
    Attention: _attention,
}
