"""What joins paths of a network: one table from a join's spec to a function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sbp_core.specs.joins import Add, And, AndNot, Attention, Gate, JoinSpec


def join(spec: JoinSpec) -> Callable[..., Tensor]:
    """Return the function that joins the ends of paths, ``(time, batch, channels, *space)``.

    Raises:
        TypeError: a kind of join that is not in :data:`JOINS`.
    """
    if type(spec) not in JOINS:
        raise TypeError(f"PyTorch has no function for the join {spec.kind!r}; add one to JOINS")
    return Join(spec)


class Join:
    """A join that can be copied and pickled with its module.

    Args:
        spec: which.
    """

    def __init__(self, spec: JoinSpec) -> None:
        self.spec = spec

    def __call__(self, *ends: Tensor) -> Tensor:
        """Join the ends of the paths."""
        return JOINS[type(self.spec)](self.spec, *ends)


def _sum(spec: Add, first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = first + other
    return first


def _product(spec: And, first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = first * other
    return first


def _gate(spec: Gate, given: Tensor, gate: Tensor) -> Tensor:
    axis = 2 if given.ndim > 2 else 1
    return given * gate.repeat_interleave(given.shape[axis] // gate.shape[axis], axis)


def _attention(spec: Attention, *ends: Tensor) -> Tensor:
    shape = ends[0].shape
    # (time, batch, heads, channels of a head, tokens)
    q, k, v = (split(end.flatten(3), 2, (spec.heads, -1)) for end in ends)
    # the smaller product first: of spikes each is a whole number, so that the order changes no bit
    few = q.shape[-1] <= q.shape[-2]
    found = v @ (k.transpose(-1, -2) @ q) if few else (v @ k.transpose(-1, -2)) @ q
    joined: Tensor = (found * spec.scale).reshape(shape)
    return joined


def split(x: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    """Return ``x`` with an axis in two."""
    found: Tensor = x.unflatten(axis, sizes)  # type: ignore[no-untyped-call]
    return found


#: What joins paths: a function of the join and of each path's end.
JOINS: dict[type[JoinSpec], Callable[..., Tensor]] = {
    Add: _sum,
    And: _product,
    AndNot: lambda spec, identity, body: identity * (1.0 - body),
    Gate: _gate,
    Attention: _attention,
}
