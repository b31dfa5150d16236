"""What every network's spec has, and what follows from its layers alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_core.specs.layers import Neuron, Parameter, Repeat, Shape, TimeMean
from sbp_core.specs.neurons import LIFSpec
from sbp_core.specs.structure import Named, Placed, Sequence, placed_in


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Spec, abstract=True):
    """A network as layers: a class of it is an architecture, whose fields are its sizes.

    A class defines ``build``, which returns the layers; shapes, names and layouts of all weights, operations, taps, the
    oracle and every adapter's network follow from them. Its parts, the layers of the outermost sequence, are what can
    be tapped: those with a neuron in them.

    Attributes:
        num_classes: logits.
        in_channels: channels of the input.
        time_steps: how often a still image is repeated, and steps of event frames.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """

    num_classes: int = 10
    in_channels: int = 3
    time_steps: int = 4

    def __post_init__(self) -> None:
        """Check the sizes, and that the layers fit each other: a class that checks its own fields does so before."""
        for name in ("num_classes", "in_channels", "time_steps"):
            self._set(name, validation.count(name, getattr(self, name)))
        if not self.body.layers:
            raise ValueError(f"a {self.kind} must have layers, got none")
        end = self.outline()[-1].output
        if end.space or end.channels != self.num_classes:
            raise ValueError(f"the layers must end in num_classes={self.num_classes} logits, they end in {end}")

    @abstractmethod
    def build(self) -> Sequence:
        """Return the layers, from the input to the logits."""

    @property
    def image_size(self) -> tuple[int | None, ...]:
        """Sizes of the axes of space of the input; None is any."""
        return (None, None)

    def with_width(self, width: int) -> Self:
        """Return the network with ``width`` channels in its first part, the others in proportion.

        Raises:
            ValueError: it has no width to change, or one that its other sizes do not fit.
        """
        raise ValueError(f"width cannot be set: a {self.kind} has none to change")

    @cached_property
    def body(self) -> Sequence:
        """The layers."""
        return self.build()

    @property
    def ends_in_mean(self) -> bool:
        """Whether the last layer is the mean over time, without which there are logits of each step."""
        return isinstance(self.body.layers[-1][1], TimeMean)

    def layers_of(self, *, per_step: bool) -> Named:
        """Return the layers by name, without the mean over time where the logits of each step are wanted.

        Raises:
            ValueError: they are wanted, and the layers do not end in a mean over time.
        """
        if not per_step:
            return self.body.layers
        if not self.ends_in_mean:
            raise ValueError(f"per_step must be False: the {self.kind} does not end in a mean over time")
        return self.body.layers[:-1]

    @cached_property
    def repeats(self) -> bool:
        """Whether still images are taken: there is a layer that repeats over time."""
        placed = self.body.walk("", self.input_shape(timed=True))
        return any(isinstance(found.layer, Repeat) for found in placed)

    def input_shape(self, size: tuple[int | None, ...] | None = None, *, timed: bool = False) -> Shape:
        """Return the shape of a still image, or of event frames, of the given size.

        Raises:
            ValueError: another size than the spec's.
        """
        if size is not None and any(want not in (None, got) for want, got in zip(self.image_size, size, strict=True)):
            raise ValueError(f"images must be of size {self.image_size}, as the {self.kind} says; got {size}")
        return Shape(self.in_channels, self.image_size if size is None else size, timed)

    def outline(self, size: tuple[int | None, ...] | None = None, *, timed: bool | None = None) -> list[Placed]:
        """Return every layer in the order in which they run, with its path and shapes.

        Args:
            size: of the image; what the spec says unless given.
            timed: whether the input has time; where still images are taken, it has none unless given.

        Raises:
            ValueError: a layer that does not fit, an image too small for its pools say; the message names it.
        """
        return list(self.body.walk("", self.input_shape(size, timed=not self.repeats if timed is None else timed)))

    def parameters(self) -> dict[str, Parameter]:
        """Return every parameter and running statistic by its canonical name, in order."""
        return {name: found for placed in self.outline() for name, found in placed.parameters().items()}

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the canonical name and shape of every parameter and running statistic, in order.

        Kernels are (outputs, inputs, *space), linear layers (outputs, inputs), whatever an adapter's own layout is. The
        names are the paths of the layers, ``layer1.0.conv1.weight``, ``.bias``; ``.running_mean`` and ``.running_var``
        of batch norm, ``.decay_logit`` and ``.initial_potential`` of a neuron that learns its decay or its start,
        ``.running_potential`` of one whose start follows the potentials that neurons end with.
        """
        return {name: found.shape for name, found in self.parameters().items()}

    @cached_property
    def parts(self) -> dict[str, Shape]:
        """The output shape of each part that can be tapped."""
        shape, found = self.input_shape(timed=not self.repeats), {}
        for name, layer in self.body.layers:
            for placed in placed_in(layer, name, shape):
                shape = placed.output
            if layer.fires and shape.timed:
                found[name] = shape
        return found

    @property
    def tap_channels(self) -> dict[str, int]:
        """Channels of each part that can be tapped."""
        return {name: shape.channels for name, shape in self.parts.items()}

    @property
    def default_taps(self) -> tuple[str, ...]:
        """Every part with a neuron but the last: where branches tap unless told otherwise."""
        return tuple(self.parts)[:-1]

    @property
    def parameter_count(self) -> int:
        """Trained numbers: running statistics are not among them."""
        shapes = self.parameter_shapes().items()
        return sum(math.prod(shape) for name, shape in shapes if ".running_" not in name)

    def operations(self, size: tuple[int, ...] | None = None) -> int:
        """Return the multiply-accumulates for one image of the given size, over all time steps.

        Raises:
            ValueError: the size is neither given nor in the spec.
        """
        sizes = self.image_size if size is None else size
        if any(extent is None for extent in sizes):
            raise ValueError(f"size must be given: the {self.kind} takes images of any")
        return sum(
            placed.operations() * (self.time_steps if placed.output.timed else 1) for placed in self.outline(sizes)
        )

    def neurons(self) -> Iterator[tuple[str, LIFSpec]]:
        """Yield path and spec of every neuron."""
        for placed in self.outline():
            if isinstance(placed.layer, Neuron):
                yield placed.path, placed.layer.spec


def in_proportion(widths: tuple[int, ...], width: int, first: int) -> tuple[int, ...]:
    """Return widths as they are where ``first`` becomes ``width``: at least 1 each."""
    return tuple(max(1, round(each * width / first)) for each in widths)
