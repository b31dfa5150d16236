"""How layers join into networks: a sequence by name, a residual block, parallel paths; and the walk through them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from sbp_core.specs.joins import Add, JoinSpec
from sbp_core.specs.layers import LayerSpec, Parameter, Shape

#: Layers by name, in order.
Named = tuple[tuple[str, LayerSpec], ...]


class Placed(NamedTuple):
    """A layer in its network.

    Attributes:
        path: names from the outside in, ``layer1.0.conv1``.
        layer: what it is; of a join, the join.
        inputs: shapes that go in: one, or one for each path of a join.
        output: the shape that comes out.
    """

    path: str
    layer: LayerSpec | JoinSpec
    inputs: tuple[Shape, ...]
    output: Shape

    def parameters(self) -> dict[str, Parameter]:
        """Return weights and running statistics by their canonical names."""
        if isinstance(self.layer, JoinSpec):
            return {}
        return {f"{self.path}.{name}": found for name, found in self.layer.parameters(self.inputs[0]).items()}

    def operations(self) -> int:
        """Return the multiply-accumulates of one step of one sample."""
        layer = self.layer
        return layer.operations(self.inputs) if isinstance(layer, JoinSpec) else layer.operations(self.inputs[0])


@dataclass(frozen=True, kw_only=True)
class Composite(LayerSpec, abstract=True):
    """What is made of layers."""

    stepwise: ClassVar[bool] = False

    @abstractmethod
    def walk(self, path: str, shape: Shape) -> Iterator[Placed]:
        """Yield every layer that is not made of others, in the order in which they run.

        Raises:
            ValueError: a layer that does not fit; the message begins with its path.
        """

    def output(self, shape: Shape) -> Shape:
        """Return the shape that comes out."""
        found = shape
        for placed in self.walk("", shape):
            found = placed.output
        return found


@dataclass(frozen=True, kw_only=True)
class Sequence(Composite):
    """Layers one after the other, by name.

    Attributes:
        layers: name and layer, in order.

    Raises:
        ValueError: a name twice, or one with a dot in it.
        TypeError: something else than names and layers.

    Example:
        >>> from sbp_core.specs.layers import Conv, BatchNorm
        >>> block = sequence(conv=Conv(channels=8), bn=BatchNorm())
        >>> block.output(Shape(3, (32, 32)))
        Shape(channels=8, space=(32, 32), timed=True)
    """

    kind: ClassVar[str] = "sequence"
    layers: Named

    def __post_init__(self) -> None:
        self._set("layers", _named("layers", self.layers))

    @property
    def fires(self) -> bool:
        """Whether a layer does."""
        return any(layer.fires for _, layer in self.layers)

    def walk(self, path: str, shape: Shape) -> Iterator[Placed]:
        """Yield every layer."""
        for name, layer in self.layers:
            for placed in placed_in(layer, f"{path}.{name}" if path else name, shape):
                yield placed
                shape = placed.output


@dataclass(frozen=True, kw_only=True)
class Residual(Composite):
    """Two paths that join: layers, and the identity or a projection of it.

    ``after(join(shortcut(x), body(x)))``. In names, the layers of ``body`` and ``after`` stand in the block itself,
    those of the projection under ``downsample``.

    Attributes:
        body: the residual path.
        shortcut: None for the identity.
        join: how the two become one: a :class:`~sbp_core.specs.joins.JoinSpec`, or "add", "and", "iand".
        after: what follows; None for nothing.

    Raises:
        ValueError: a name twice, or an unknown join.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "residual"
    body: Sequence
    shortcut: LayerSpec | None = None
    join: JoinSpec | str = "add"
    after: Sequence | None = None

    def __post_init__(self) -> None:
        for name, optional in (("body", False), ("after", True)):
            value = getattr(self, name)
            if not isinstance(value, Sequence) and not (optional and value is None):
                raise TypeError(f"{name} must be a Sequence, got {type(value).__name__}")
        if self.shortcut is not None and not isinstance(self.shortcut, LayerSpec):
            raise TypeError(f"shortcut must be a layer or None, got {type(self.shortcut).__name__}")
        self._set("join", JoinSpec.of(self.join))
        after = self.after.layers if self.after else ()
        _named("layers", (*self.body.layers, ("downsample", self.body), *after))

    @property
    def joined(self) -> JoinSpec:
        """How the two become one."""
        return JoinSpec.of(self.join)

    @property
    def fires(self) -> bool:
        """Whether a layer does."""
        return any(part is not None and part.fires for part in (self.body, self.shortcut, self.after))

    def walk(self, path: str, shape: Shape) -> Iterator[Placed]:
        """Yield the layers of the residual path, of the projection, the join, and what follows."""
        ends = [shape, shape]
        for placed in self.body.walk(path, shape):
            yield placed
            ends[1] = placed.output
        if self.shortcut is not None:
            for placed in placed_in(self.shortcut, f"{path}.downsample", shape):
                yield placed
                ends[0] = placed.output
        joined = _joined(f"{path}.{self.joined.kind}", self.joined, ends)
        yield joined
        if self.after is not None:
            yield from self.after.walk(path, joined.output)


@dataclass(frozen=True, kw_only=True)
class Parallel(Composite):
    """Several paths of one input that join.

    Attributes:
        paths: name and layer, in the order that the join takes them in.
        join: how they become one.

    Raises:
        ValueError: a name twice, or one with a dot in it.
        TypeError: a field of the wrong type.
    """

    kind: ClassVar[str] = "parallel"
    paths: Named
    join: JoinSpec | str = Add()

    def __post_init__(self) -> None:
        self._set("paths", _named("paths", self.paths))
        self._set("join", JoinSpec.of(self.join))

    @property
    def joined(self) -> JoinSpec:
        """How they become one."""
        return JoinSpec.of(self.join)

    @property
    def fires(self) -> bool:
        """Whether a layer does."""
        return any(layer.fires for _, layer in self.paths)

    def walk(self, path: str, shape: Shape) -> Iterator[Placed]:
        """Yield the layers of each path, and the join."""
        ends = []
        for name, layer in self.paths:
            end = shape
            for placed in placed_in(layer, f"{path}.{name}" if path else name, shape):
                yield placed
                end = placed.output
            ends.append(end)
        yield _joined(f"{path}.{self.joined.kind}", self.joined, ends)


def sequence(layers: Mapping[str, LayerSpec] | None = None, **named: LayerSpec) -> Sequence:
    """Return a :class:`Sequence` of layers by name: of a mapping, and of what is named."""
    return Sequence(layers=(*(layers or {}).items(), *named.items()))


def numbered(*layers: LayerSpec) -> Sequence:
    """Return a :class:`Sequence` whose names are ``0``, ``1``, ..."""
    return Sequence(layers=tuple((str(index), layer) for index, layer in enumerate(layers)))


def placed_in(layer: LayerSpec, path: str, shape: Shape) -> Iterator[Placed]:
    """Yield ``layer``, or the layers that it is made of.

    Raises:
        ValueError: a layer that does not fit; the message begins with its path.
    """
    if isinstance(layer, Composite):
        yield from layer.walk(path, shape)
        return
    try:
        yield Placed(path, layer, (shape,), layer.output(shape))
    except ValueError as error:
        raise ValueError(f"layer {path!r}: {error}") from error


def _joined(path: str, join: JoinSpec, shapes: list[Shape]) -> Placed:
    try:
        return Placed(path, join, tuple(shapes), join.output(shapes))
    except ValueError as error:
        raise ValueError(f"layer {path!r}: {error}") from error


def _named(field: str, pairs: Any) -> Named:
    try:
        found = tuple((name, layer) for name, layer in pairs)
    except (TypeError, ValueError):
        raise TypeError(f"{field} must be pairs of a name and a layer, got {pairs!r:.200}") from None
    for name, layer in found:
        if not isinstance(name, str) or not isinstance(layer, LayerSpec):
            raise TypeError(f"{field} must be pairs of a name and a layer, got {(name, layer)!r:.200}")
        if not name or "." in name:
            raise ValueError(f"{field} must have names without a dot, got {name!r}")
    names = [name for name, _ in found]
    if len(set(names)) != len(names):
        raise ValueError(f"{field} must not repeat a name, got {', '.join(names)}")
    return found
