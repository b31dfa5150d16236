"""How paths of a network become one: each join says what shape it makes, and what it costs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_core.specs.layers import Shape


@dataclass(frozen=True, kw_only=True)
class JoinSpec(Spec, abstract=True):
    """What becomes of several paths.

    A join of another kind needs a class here, its oracle in :mod:`sbp_core.reference.joins`, and an entry in the table
    of each adapter (``joins``; Keras's is in ``layers``).
    """

    @abstractmethod
    def output(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape that it makes of theirs.

        Raises:
            ValueError: they do not fit.
        """

    def operations(self, shapes: Sequence[Shape]) -> int:
        """Return the multiply-accumulates of one step of one sample."""
        return 0

    @classmethod
    def of(cls, join: Self | str) -> JoinSpec:
        """Return the join of that name, or ``join``.

        Raises:
            ValueError: an unknown name.
            TypeError: neither a join nor a name.
        """
        if isinstance(join, str):
            names = {"add": Add, "and": And, "iand": AndNot}
            return names[validation.choice("join", join, names)]()
        if not isinstance(join, JoinSpec):
            raise TypeError(f"join must be a JoinSpec or its name, got {join!r} of type {type(join).__name__}")
        return join


@dataclass(frozen=True, kw_only=True)
class _Alike(JoinSpec, abstract=True):
    def output(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape that all have."""
        if any(not shape.fits(shapes[0]) for shape in shapes):
            raise ValueError(f"paths must end in one shape, got {', '.join(map(str, shapes))}")
        return shapes[0]


@dataclass(frozen=True, kw_only=True)
class Add(_Alike):
    """The sum."""

    kind: ClassVar[str] = "add"


@dataclass(frozen=True, kw_only=True)
class And(_Alike):
    """The product: spikes where both have one (SEW's AND, Fang et al. 2021)."""

    kind: ClassVar[str] = "and"


@dataclass(frozen=True, kw_only=True)
class AndNot(_Alike):
    """``a * (1 - b)``, b the residual path: SEW's IAND (Fang et al. 2021)."""

    kind: ClassVar[str] = "iand"

    def output(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape that both have."""
        if len(shapes) != 2:
            raise ValueError(f"two paths are wanted, got {len(shapes)}")
        return super().output(shapes)


@dataclass(frozen=True, kw_only=True)
class Gate(JoinSpec):
    """``a * b``, b with a channel for each head of a's (Zhou et al. 2024, Eq. 6)."""

    kind: ClassVar[str] = "gate"

    def output(self, shapes: Sequence[Shape]) -> Shape:
        """Return the first shape."""
        if len(shapes) != 2:
            raise ValueError(f"two paths are wanted, got {len(shapes)}")
        given, gate = shapes
        if given.channels % gate.channels or not given._replace(channels=gate.channels).fits(gate):
            raise ValueError(f"the gate must have the first path's shape, with a channel a head; got {given}, {gate}")
        return given


@dataclass(frozen=True, kw_only=True)
class Attention(JoinSpec):
    """Spiking self-attention ``(q k^T) v * scale`` of three paths q, k, v, without a softmax (Zhou et al. 2023, Eq. 5).

    The positions of a map are the tokens.

    Attributes:
        heads: parts of the channels that attend apart.
        scale: s in the equation.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "attention"
    heads: int = 8
    scale: float = 0.125

    def __post_init__(self) -> None:
        self._set("heads", validation.count("heads", self.heads))
        self._set("scale", validation.positive("scale", self.scale))

    def output(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape that all have."""
        if len(shapes) != 3 or any(not shape.fits(shapes[0]) for shape in shapes):
            raise ValueError(f"three paths of one shape are wanted, got {', '.join(map(str, shapes))}")
        if shapes[0].channels % self.heads:
            raise ValueError(f"channels must be a multiple of heads={self.heads}, got {shapes[0]}")
        return shapes[0]

    def operations(self, shapes: Sequence[Shape]) -> int:
        """Return those of both products, the smaller way round."""
        tokens, channels = shapes[0].positions or 0, shapes[0].channels
        return 2 * tokens * channels * min(tokens, channels // self.heads)
