"""From a block's output to logits: where time, batch and channels are, and how a head is applied to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

#: Where time is: leading, second, nowhere, or in the calls, the module being called once for each step.
TimeAxis = Literal[0, 1, "calls"] | None

#: Where the channels of a map are: before its axes of space, or after them, as in a sequence of tokens.
Channels = Literal["first", "last"]

_TIMES: dict[TimeAxis, str] = {0: "time, batch, ", 1: "batch, time, ", None: "batch, ", "calls": "batch, "}


def layout(time_axis: TimeAxis, channels: Channels = "first") -> str:
    """Return the shape in words.

    Example:
        >>> layout(1), layout(None, "last")
        ('(batch, time, channels, ...)', '(batch, ..., channels)')
    """
    return f"({_TIMES[time_axis]}{'channels, ...' if channels == 'first' else '..., channels'})"


def batch_axis(time_axis: TimeAxis) -> int:
    """Return where the batch is; outputs of calls are stacked along a leading axis."""
    return 1 if time_axis in (0, "calls") else 0


def channel_axis(time_axis: TimeAxis, channels: Channels = "first") -> int:
    """Return where the channels are."""
    if channels == "last":
        return -1
    return 1 if time_axis is None else 2


def pool(x: Tensor) -> Tensor:
    """Average ``(items, channels, *space)`` over space, however many axes that has: global average pooling."""
    return x.mean(tuple(range(2, x.ndim))) if x.ndim > 2 else x


def read_out(
    head: Callable[[Tensor], Tensor],
    x: Tensor,
    time_axis: TimeAxis,
    channels: Channels = "first",
    per_step: bool = False,
) -> Tensor:
    """Apply ``head`` at each step and average over time (Guo et al. 2024, section 4).

    Args:
        head: from ``(items, channels, *space)`` to ``(items, classes)``; time and batch are merged into the items.
        x: a block's output, ``(time, batch, channels, *space)`` or as ``time_axis`` and ``channels`` say; that of
            calls stacked.
        time_axis: where time is.
        channels: where the channels are.
        per_step: leave out the average over time.

    Returns:
        Logits, ``(batch, classes)``; per step, with the axis of time where ``x`` has it.
    """
    items = x if time_axis is None else x.flatten(0, 1)
    logits = head(items.movedim(-1, 1) if channels == "last" else items)
    if time_axis is None:
        return logits
    logits = logits.view(x.shape[0], x.shape[1], logits.shape[-1])
    return logits if per_step else logits.mean(1 if time_axis == 1 else 0)


def stated_time_axis(net: nn.Module, time_axis: TimeAxis | Literal["stated"]) -> TimeAxis:
    """Return ``time_axis``, or for "stated" what the network or its spec says, else 0.

    Raises:
        ValueError: no such place.
    """
    name = "time_axis"
    if time_axis == "stated":
        of_spec = getattr(getattr(net, "spec", None), "time_axis", 0)
        name, found = f"time_axis of {type(net).__name__}", getattr(net, "time_axis", of_spec)
    else:
        found = time_axis
    if isinstance(found, bool) or found not in (0, 1, None, "calls"):
        raise ValueError(f"{name} must be 0, 1 or None, or 'calls'; got {found!r}")
    return cast(TimeAxis, found)


def gather(tap: str, outputs: Sequence[Tensor], time_axis: TimeAxis) -> Tensor:
    """Return a tap's tensor from those of its calls: the only one, or all of them stacked along a leading axis.

    Raises:
        RuntimeError: several calls, where they are not the steps.
        ValueError: the calls gave different shapes.
    """
    if time_axis != "calls":
        if len(outputs) > 1:
            times = "twice" if len(outputs) == 2 else f"{len(outputs)} times"
            raise RuntimeError(
                f"tap {tap!r} ran {times} in one forward pass, and time_axis={time_axis} takes one output; pass "
                "time_axis='calls' if each call is a step, or tap a module that runs once"
            )
        return outputs[0]
    shapes = sorted({tuple(output.shape) for output in outputs})
    if len(shapes) > 1:
        raise ValueError(
            f"tap {tap!r} must give the same shape in every call, it gave {' and '.join(map(str, shapes))}"
        )
    return torch.stack(list(outputs))


def check_main(main: Tensor, num_classes: int, time_axis: TimeAxis) -> None:
    """Raise unless ``main`` is logits, ``(batch, num_classes)`` or per step.

    Raises:
        ValueError: another shape.
    """
    if main.shape[-1:] == (num_classes,) and (main.ndim == 2 or (main.ndim == 3 and time_axis is not None)):
        return
    steps = "" if time_axis is None else f"; or those of each step, ({_TIMES[1 if time_axis == 1 else 0]}{num_classes})"
    raise ValueError(
        f"net must return logits of shape (batch, num_classes) = (batch, {num_classes}), it returned "
        f"{tuple(main.shape)}{steps}"
    )


def check_tap(tap: str, x: Tensor, main: Tensor, time_axis: TimeAxis, channels: Channels) -> None:
    """Raise unless a tapped tensor has the layout stated, and the main logits' batch, and steps if they have those.

    Raises:
        ValueError: it does not.
    """
    axis, least = batch_axis(time_axis), 2 if time_axis is None else 3
    per_step = main.ndim == 3
    batch = main.shape[axis if per_step else 0]
    if x.ndim < least or x.shape[axis] != batch:
        shape = x.shape[1:] if time_axis == "calls" else x.shape
        places: tuple[TimeAxis, ...] = (0, 1, None)
        others = " or ".join(
            f"time_axis={place} for {layout(place, channels)}" for place in places if place != time_axis
        )
        raise ValueError(
            f"tap {tap!r} gave shape {tuple(shape)}, which is no {layout(time_axis, channels)} with the batch of the "
            f"main logits, {batch}, as time_axis={time_axis!r} asks; pass {others}"
        )
    if per_step and x.shape[1 - axis] != main.shape[1 - axis]:
        raise ValueError(
            f"tap {tap!r} must have the steps of the main logits, {main.shape[1 - axis]}; it has {x.shape[1 - axis]}"
        )
