"""Where time, batch, channels and space are in what a tapped block gives, and which logits fit it: for every adapter.

It is arithmetic on shapes. An adapter transposes and reshapes as it says, calls the branch, and converts.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from sbp_core import validation

#: Where time is: leading; second; nowhere; in the calls, a module being called once for each step; or merged into the
#: batch, ``(time * batch, ...)``, time outermost.
TimeAxis = Literal[0, 1, "calls", "merged"] | None

#: Where the channels are: before the axes of space; after them, as in tokens or images of Keras and JAX; or an axis.
Channels = Literal["first", "last"] | int

#: A size, None where it is not known before the network runs.
Shape = Sequence[int | None]

#: What ``time_axis`` may be in an adapter whose modules can be called once for each step.
TIME_AXES: tuple[TimeAxis, ...] = (0, 1, None, "calls", "merged")

_LEADING: dict[TimeAxis, str] = {
    0: "time, batch, ",
    1: "batch, time, ",
    None: "batch, ",
    "calls": "batch, ",
    "merged": "time * batch, ",
}
_MEANING: dict[TimeAxis, str] = {
    None: "no time",
    "calls": "a module that is called once for each step",
    "merged": "time merged into the batch, with time_steps",
}


class Axes(NamedTuple):
    """Where everything is in a tapped output, calls stacked and merged time split: :meth:`TapLayout.split`."""

    time: int | None
    batch: int
    channels: int
    space: tuple[int, ...]

    @property
    def time_first(self) -> tuple[int, ...]:
        """The permutation to ``([time,] batch, channels, *space)``."""
        leading = () if self.time is None else (self.time,)
        return (*leading, self.batch, self.channels, *self.space)

    @property
    def time_first_channels_last(self) -> tuple[int, ...]:
        """The permutation to ``([time,] batch, *space, channels)``."""
        leading = () if self.time is None else (self.time,)
        return (*leading, self.batch, *self.space, self.channels)


class Main(NamedTuple):
    """What the main logits are.

    Attributes:
        batch: its size.
        steps: their time steps; None where the logits are of no step in particular.
        form: "mean", ``(batch, classes)``; "steps", with an axis of time where the taps have it (leading for calls and
            merged time); "merged", ``(time * batch, classes)``.
    """

    batch: int | None
    steps: int | None
    form: Literal["mean", "steps", "merged"]

    @property
    def per_step(self) -> bool:
        """Whether there are logits of each step."""
        return self.form != "mean"


@dataclass(frozen=True, kw_only=True)
class TapLayout:
    """How a tapped output lies.

    Attributes:
        time_axis: where time is.
        channels: where the channels are; an axis counts in what the block gives, calls stacked and merged time split.
        time_steps: how many steps are merged; None unless ``time_axis`` is "merged".

    Raises:
        ValueError: no such place; a channel axis that is the batch's or time's; ``time_steps`` without merged time, or
            merged time without it.
        TypeError: ``channels`` or ``time_steps`` of another type.

    Example:
        >>> layout = TapLayout(time_axis=1, channels="last")
        >>> str(layout), layout.axes(5)
        ('(batch, time, ..., channels)', Axes(time=1, batch=0, channels=4, space=(2, 3)))
        >>> TapLayout(time_axis="merged", time_steps=4).split((8, 3, 5, 5))
        (4, 2, 3, 5, 5)
    """

    time_axis: TimeAxis = 0
    channels: Channels = "first"
    time_steps: int | None = None

    def __post_init__(self) -> None:
        check_time_axis(self.time_axis)
        if isinstance(self.channels, str):
            validation.choice("channels", self.channels, ("first", "last"))
        elif isinstance(self.channels, bool) or not hasattr(self.channels, "__index__"):
            raise TypeError(f"channels must be 'first', 'last' or an axis, got {self.channels!r}")
        elif 0 <= operator.index(self.channels) < self._leading:
            raise ValueError(
                f"channels must be an axis after batch and time, or count from the end; got {self.channels!r}"
            )
        if self.time_axis == "merged":
            if self.time_steps is None:
                raise ValueError(
                    "time_steps must be given with time_axis='merged': how many steps the first axis holds"
                )
            validation.count("time_steps", self.time_steps)
        elif self.time_steps is not None:
            raise ValueError(
                f"time_steps must be left out unless time_axis is 'merged', got {self.time_steps!r} with "
                f"time_axis={self.time_axis!r}"
            )

    def __str__(self) -> str:
        return _words(self.time_axis, self.channels)

    @property
    def _leading(self) -> int:
        return 1 if self.time_axis is None else 2

    @property
    def _batch(self) -> int:
        return 0 if self.time_axis in (1, None) else 1

    def split(self, shape: Shape) -> tuple[int | None, ...]:
        """Return the shape with merged time split, ``(time, batch, ...)``; any other as it is.

        Raises:
            ValueError: the first axis is no multiple of ``time_steps``.
        """
        if self.time_axis != "merged" or not shape:
            return tuple(shape)
        items, steps = shape[0], cast(int, self.time_steps)
        if items is not None and items % steps:
            raise ValueError(f"time_steps must divide the first axis, {items}, of shape {tuple(shape)}; got {steps}")
        return (steps, None if items is None else items // steps, *shape[1:])

    def axes(self, rank: int) -> Axes:
        """Return where everything is in an output of so many axes, calls stacked and merged time split.

        Raises:
            ValueError: too few axes, or no such channel axis.
        """
        least = self._leading + 1
        channels = {"first": self._leading, "last": rank - 1}.get(cast(str, self.channels))
        if channels is None:
            axis = operator.index(cast(int, self.channels))
            channels = axis + rank if axis < 0 else axis
        if rank < least or not self._leading <= channels < rank:
            raise ValueError(f"an output of {rank} axes is no {self}")
        time = None if self.time_axis is None else 1 - self._batch
        space = tuple(axis for axis in range(self._leading, rank) if axis != channels)
        return Axes(time, self._batch, channels, space)

    def check_main(self, shape: Shape, num_classes: int, *, items: int | None = None) -> Main:
        """Return what main logits of this shape are.

        Args:
            shape: theirs.
            num_classes: classes wanted.
            items: the first axis of a tapped output; it tells ``(batch, classes)`` from ``(time * batch, classes)``
                where time is merged. None if not known: then it is the former.

        Raises:
            ValueError: they are no logits of so many classes.
        """
        if len(shape) in (2, 3) and shape[-1] in (num_classes, None):
            if len(shape) == 3 and self.time_axis is not None:
                return Main(shape[self._batch], shape[1 - self._batch], "steps")
            if len(shape) == 2:
                rows, steps = shape[0], self.time_steps
                if self.time_axis == "merged" and steps is not None and items is not None and rows == items:
                    return Main(items // steps, steps, "merged")
                return Main(rows, None, "mean")
        message = (
            f"net must return logits of shape (batch, num_classes) = (batch, {num_classes}), it returned {tuple(shape)}"
        )
        if self.time_axis is not None:
            per_step = "(batch, time, {})" if self.time_axis == 1 else "(time, batch, {})"
            message += f"; or those of each step, {per_step.format(num_classes)}"
        raise ValueError(message)

    def check_tap(self, tap: str, shape: Shape, main: Main | None = None) -> Axes:
        """Return where everything is in a tapped output, calls stacked and merged time split.

        Args:
            tap: its name, for messages.
            shape: what the block gave; of calls, stacked along a leading axis.
            main: the main logits, whose batch and steps it must have; None not to compare.

        Raises:
            ValueError: it does not lie so, or has another batch or other steps than the main logits.
        """
        wanted = None if main is None else main.batch
        try:
            lying = self.split(shape)
            axes = self.axes(len(lying))
        except ValueError:
            axes = None
        if axes is None or _differ(lying[axes.batch], wanted):
            shown = tuple(shape[1:] if self.time_axis == "calls" else shape)
            batch = "" if wanted is None else f" with the batch of the main logits, {wanted}"
            steps = "" if self.time_steps is None else f" and time_steps={self.time_steps}"
            raise ValueError(
                f"tap {tap!r} gave shape {shown}, which is no {self}{batch}, as time_axis={self.time_axis!r}{steps} "
                f"asks; pass {self._others(shape, wanted)}"
            )
        if main is not None and axes.time is not None and _differ(main.steps, lying[axes.time]):
            raise ValueError(
                f"tap {tap!r} must have the steps of the main logits, {main.steps}; it has {lying[axes.time]}"
            )
        return axes

    def _others(self, shape: Shape, batch: int | None) -> str:
        """Return, in words, what else the layout may be: what fits the shape, or all there is."""
        given = tuple(shape[1:] if self.time_axis == "calls" else shape)
        places: tuple[TimeAxis, ...] = (0, 1, None)
        fits: list[TimeAxis] = []
        for place in places:
            least = 2 if place is None else 3
            where = 1 if place == 0 else 0
            if place != self.time_axis and len(given) >= least and not _differ(given[where], batch):
                fits.append(place)
        merged = None
        if self.time_axis != "merged" and given and batch and given[0] and given[0] % batch == 0 and given[0] > batch:
            merged = f"time_axis='merged', time_steps={given[0] // batch} for {_words('merged', self.channels)}"
        found = [f"time_axis={place} for {_words(place, self.channels)}" for place in fits]
        if merged is not None:
            found.append(merged)
        if not found:
            found = [f"time_axis={place!r} for {_words(place, self.channels)}" for place in (*places, "merged")]
        return " or ".join(found)


def check_time_axis(time_axis: object, allowed: Sequence[TimeAxis] = TIME_AXES, *, name: str = "time_axis") -> TimeAxis:
    """Return ``time_axis``, or raise if it is none of ``allowed``.

    Raises:
        ValueError: another.

    Example:
        >>> check_time_axis(2)
        Traceback (most recent call last):
        ...
        ValueError: time_axis must be 0, 1, None, 'calls' or 'merged'; got 2
    """
    # True and 1.0 equal 1
    if not any(type(time_axis) is type(place) and time_axis == place for place in allowed):
        *most, last = map(repr, allowed)
        raise ValueError(f"{name} must be {', '.join(most)} or {last}; got {time_axis!r}")
    return cast(TimeAxis, time_axis)


def resolve_time_axis(
    given: TimeAxis | Literal["stated"],
    stated: Sequence[object],
    owner: str,
    *,
    allowed: Sequence[TimeAxis] = TIME_AXES,
    channels: Channels = "first",
) -> TimeAxis:
    """Return where time is: what the caller says, else what the network says; never a guess.

    Args:
        given: the caller's argument; "stated" where it was left out.
        stated: what the network says, each time that it says it: its ``time_axis`` or its spec's, or where the neurons
            in it have time; empty where nothing in it says so.
        owner: the network, for messages.
        allowed: what the adapter can take.
        channels: where the channels are, for messages.

    Raises:
        ValueError: neither says so, the network says two things, or there is no such place.

    Example:
        >>> resolve_time_axis("stated", [0, 0], "Net"), resolve_time_axis(None, [0], "Net")
        (0, None)
        >>> resolve_time_axis("stated", [], "Net")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: time_axis must be given: nothing in Net says where time is in what its blocks give. ...
    """
    if given != "stated":
        return check_time_axis(given, allowed)
    places = list(dict.fromkeys(check_time_axis(place, allowed, name=f"time_axis of {owner}") for place in stated))
    if len(places) == 1:
        return places[0]
    options = []
    for place in allowed:
        meaning = f", {_MEANING[place]}" if place in _MEANING else ""
        options.append(f"time_axis={place!r} for {_words(place, channels)}{meaning}")
    *most, last = options
    choices = f"Pass {'; '.join(most)}{', or ' if len(most) == 1 else '; or '}{last}"
    if places:
        said = " and ".join(map(repr, places))
        raise ValueError(f"time_axis must be given: parts of {owner} have time in axis {said}. {choices}")
    raise ValueError(
        f"time_axis must be given: nothing in {owner} says where time is in what its blocks give. {choices}"
    )


def same_shape(tap: str, shapes: Sequence[Shape]) -> None:
    """Raise unless the calls of a tapped module, each a step, gave one shape.

    Raises:
        ValueError: they gave several.
    """
    found = sorted({tuple(shape) for shape in shapes}, key=str)
    if len(found) > 1:
        raise ValueError(f"tap {tap!r} must give the same shape in every call, it gave {' and '.join(map(str, found))}")


def several_calls(tap: str, calls: int, time_axis: TimeAxis) -> str:
    """Return what to say of a module that ran several times where one output is wanted."""
    times = "twice" if calls == 2 else f"{calls} times"
    return (
        f"tap {tap!r} ran {times} in one forward pass, and time_axis={time_axis!r} takes one output; pass "
        "time_axis='calls' if each call is a step, or tap a module that runs once"
    )


def _words(time_axis: TimeAxis, channels: Channels) -> str:
    if channels == "first":
        rest = "channels, ..."
    elif channels in ("last", -1):
        rest = "..., channels"
    else:
        rest = f"...) with channels in axis {channels}"
        return f"({_LEADING[time_axis]}{rest}"
    return f"({_LEADING[time_axis]}{rest})"


def _differ(a: int | None, b: int | None) -> bool:
    return a is not None and b is not None and a != b
