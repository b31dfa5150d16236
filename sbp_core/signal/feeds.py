"""Which weights set the input of which neuron: read off a network's layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.structure import Parallel, Placed, Residual, Sequence, placed_in

#: Layers with weights that their output is a multiple of.
_WEIGHTED = (kinds.Conv, kinds.Linear, kinds.BatchNorm)
#: Layers whose output is scaled by as much as their input.
_PASSING = (
    kinds.AvgPool,
    kinds.Dropout,
    kinds.Flatten,
    kinds.GlobalPool,
    kinds.HeadSum,
    kinds.MaxPool,
    kinds.Relu,
    kinds.Repeat,
    kinds.TimeMean,
    kinds.TimeScale,
    kinds.Vote,
)


class Feed(NamedTuple):
    """What goes into a layer of neurons.

    Attributes:
        neuron: its path.
        layers: paths of the layers whose weights its input is a multiple of; none where something else goes in too,
            the spikes of an identity path say.
    """

    neuron: str
    layers: tuple[str, ...]


class Structure(NamedTuple):
    """What of a network's layers a start depends on.

    Attributes:
        feeds: what goes into each layer of neurons, in the order in which they run.
        ends: paths of the last layer with weights of each residual path that joins its identity by "add" or "iand".
        lone: neurons that get the spikes of an identity path, or what a residual path ends in, and no more.
        plain: convolutions and linear layers between two neurons that have no identity beside them, and the channels
            of the neurons before them for inputs.
    """

    feeds: tuple[Feed, ...]
    ends: tuple[str, ...]
    lone: tuple[str, ...]
    plain: tuple[Placed, ...]


def structure_of(spec: NetworkSpec) -> Structure:
    """Return what goes into neurons, and which layers end a residual path or have no identity beside them.

    Example:
        >>> from sbp_core import ResNetSpec
        >>> found = structure_of(ResNetSpec(depths=(1,), widths=(4,)))
        >>> for feed in found.feeds:
        ...     print(*feed)
        stem.neuron ('stem.bn',)
        layer1.0.neuron1 ('layer1.0.bn1',)
        layer1.0.neuron2 ()
        >>> found.ends, found.lone
        (('layer1.0.bn2',), ('layer1.0.neuron2',))
    """
    walker = _Walker()
    walker.follow(spec.body, "", spec.input_shape(timed=not spec.repeats), frozenset(), plain=True)
    return Structure(tuple(walker.feeds), tuple(walker.ends), tuple(walker.lone), tuple(walker.plain))


#: Paths of layers that a value is a multiple of the weights of, all together; nothing where it is not.
_Sources = frozenset[str]


class _Walker:
    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.ends: list[str] = []
        self.lone: list[str] = []
        self.plain: list[Placed] = []
        # with weights, since the last neuron; and whether something else came between that leaves no spikes of a map
        self._passed: list[Placed] = []
        self._mixed = False

    def follow(
        self, layer: LayerSpec, path: str, shape: Shape, sources: _Sources, *, plain: bool
    ) -> tuple[Shape, _Sources]:
        """Return what comes out, and whose multiple it is."""
        if isinstance(layer, Sequence):
            for name, part in layer.layers:
                shape, sources = self.follow(part, f"{path}.{name}" if path else name, shape, sources, plain=plain)
            return shape, sources
        if isinstance(layer, Residual):
            return self._residual(layer, path, shape, sources)
        if isinstance(layer, Parallel):
            for name, part in layer.paths:
                self.follow(part, f"{path}.{name}" if path else name, shape, sources, plain=False)
            self._begin()
            return _end(layer, path, shape), frozenset()
        placed = Placed(path, layer, (shape,), layer.output(shape))
        if isinstance(layer, kinds.Neuron):
            self.feeds.append(Feed(path, tuple(sorted(sources))))
            if plain and len(self.feeds) > 1 and len(self._passed) == 1 and not self._mixed:
                self.plain += self._passed
            self._begin()
            return placed.output, frozenset()
        if isinstance(layer, kinds.Conv | kinds.Linear):
            self._passed.append(placed)
        self._mixed |= isinstance(layer, kinds.GlobalPool | kinds.Flatten) or getattr(layer, "groups", 1) > 1
        if isinstance(layer, _WEIGHTED):
            return placed.output, frozenset({path})
        return placed.output, sources if isinstance(layer, _PASSING) else frozenset()

    def _residual(self, layer: Residual, path: str, shape: Shape, sources: _Sources) -> tuple[Shape, _Sources]:
        before = len(self.feeds)
        _, body = self.follow(layer.body, path, shape, sources, plain=False)
        inside = self.feeds[before:]
        last = body or (frozenset(inside[-1].layers) if inside else frozenset())
        if isinstance(layer.joined, joins.Add | joins.AndNot):
            self.ends += sorted(last - sources)
            # a path that ends in a neuron ends in its weights
            self.lone += [inside[-1].neuron] if last and not body else []
        identity = sources
        if layer.shortcut is not None:
            _, identity = self.follow(layer.shortcut, f"{path}.downsample", shape, sources, plain=False)
        adds = isinstance(layer.joined, joins.Add) and body and identity
        joined = body | identity if adds else frozenset()
        end = _end(layer if layer.after is None else layer.replace(after=None), path, shape)
        self._begin()
        if layer.after is None:
            return end, joined
        before = len(self.feeds)
        found = self.follow(layer.after, path, end, joined, plain=False)
        if isinstance(layer.joined, joins.Add) and not identity:
            self.lone += [feed.neuron for feed in self.feeds[before : before + 1]]
        return found

    def _begin(self) -> None:
        self._passed.clear()
        self._mixed = False


def _end(layer: LayerSpec, path: str, shape: Shape) -> Shape:
    placed: Iterator[Placed] = placed_in(layer, path, shape)
    for found in placed:
        shape = found.output
    return shape
