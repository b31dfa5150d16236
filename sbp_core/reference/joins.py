"""Every join of paths in float64 NumPy, forward and adjoint derived by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from sbp_core.specs.joins import Add, And, AndNot, Attention, Gate

Float64 = NDArray[np.float64]
#: What the paths become, and its adjoint: a function from its cotangent to that of each path's end.
Joined = tuple[Float64, Callable[[Float64], list[Float64]]]


def _add(join: Add, ends: list[Float64], space: int) -> Joined:
    total = ends[0]
    for end in ends[1:]:
        total = total + end
    return total, lambda a: [a] * len(ends)


def _and(join: And, ends: list[Float64], space: int) -> Joined:
    def back(a: Float64) -> list[Float64]:
        return [reduce(np.multiply, ends[:i] + ends[i + 1 :], a) for i in range(len(ends))]

    return reduce(np.multiply, ends), back


def _and_not(join: AndNot, ends: list[Float64], space: int) -> Joined:
    identity, body = ends
    return identity * (1.0 - body), lambda a: [a * (1.0 - body), -a * identity]


def _gate(join: Gate, ends: list[Float64], space: int) -> Joined:
    given, gate = ends
    axis = given.ndim - space - 1
    size = given.shape[axis] // gate.shape[axis]
    wide = np.repeat(gate, size, axis)

    def back(a: Float64) -> list[Float64]:
        parts = (a * given).reshape(*given.shape[:axis], -1, size, *given.shape[axis + 1 :])
        return [a * wide, parts.sum(axis + 1)]

    return given * wide, back


def _attention(join: Attention, ends: list[Float64], space: int) -> Joined:
    shape = ends[0].shape
    before = shape[: len(shape) - space - 1]

    def heads(x: Float64) -> Float64:  # (..., heads, tokens, channels of a head)
        channels = x.shape[len(before)]
        return x.reshape(*before, join.heads, channels // join.heads, -1).swapaxes(-1, -2)

    def back_to_map(x: Float64) -> Float64:
        return x.swapaxes(-1, -2).reshape(shape)

    q, k, v = map(heads, ends)
    scores = q @ k.swapaxes(-1, -2)

    def back(a: Float64) -> list[Float64]:
        a = heads(a) * join.scale
        of_scores = a @ v.swapaxes(-1, -2)
        found = (of_scores @ k, of_scores.swapaxes(-1, -2) @ q, scores.swapaxes(-1, -2) @ a)
        return [back_to_map(of_end) for of_end in found]

    return back_to_map(scores @ v * join.scale), back


#: The oracle of each join.
JOINS: Mapping[type, Callable[..., Joined]] = {
    Add: _add,
    And: _and,
    AndNot: _and_not,
    Gate: _gate,
    Attention: _attention,
}
