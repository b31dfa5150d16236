"""Checks of what a user passes to a neuron, shared by every adapter so that the errors read alike everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any, Literal

from sbp_core import validation
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.neurons import LIFSpec, LIFState

FLOATING = ("float64", "float32", "bfloat16", "float16")


def check_input(shape: Sequence[int | None], dtype: str, *, time_axis: Literal[0, 1] = 0) -> None:
    """Raise unless ``shape`` is ``(time, batch, ...)`` with at least one step, and ``dtype`` is floating.

    Args:
        shape: the input's shape; None stands for a size that is not known yet.
        dtype: the name of its dtype, with or without the framework's prefix.
        time_axis: 1 where time comes after the batch.

    Raises:
        ValueError: fewer than two axes, no time step, or another time axis.
        TypeError: integers, booleans or complex numbers.

    Example:
        >>> check_input((0, 8), "float32")
        Traceback (most recent call last):
        ...
        ValueError: x must have at least one time step, got shape (0, 8)
    """
    if time_axis not in (0, 1):
        raise ValueError(f"time_axis must be 0, (time, batch, ...), or 1, (batch, time, ...); got {time_axis!r}")
    if len(shape) < 2:
        axes = "(time, batch, ...)" if time_axis == 0 else "(batch, time, ...)"
        raise ValueError(f"x must have shape {axes}, at least two axes; got shape {tuple(shape)}")
    if shape[time_axis] == 0:
        raise ValueError(f"x must have at least one time step, got shape {tuple(shape)}")
    check_floating("x", dtype)


def frames_time_axis(
    shape: Sequence[int | None],
    *,
    time_steps: int,
    time_axis: Literal[0, 1] | None = None,
    convention: Literal[0, 1] = 0,
) -> Literal[0, 1] | None:
    """Return where time is in a network's input: event frames have it, a still image has none.

    Frames that a loader collated batch first have the shape of others that are not: where sizes tell, the wrong ones
    are refused, and where they do not, the caller must say.

    Args:
        shape: of the input: four axes are still images, five are event frames; None is a size not known yet.
        time_steps: steps of the network.
        time_axis: where the caller says that time is; then any number of steps will do. None to go by the sizes.
        convention: where the adapter's networks have time.

    Returns:
        0 or 1, or None for still images.

    Raises:
        ValueError: another rank; frames that are not ``time_steps`` long where time should be, or that have as many
            samples as steps; ``time_axis`` of a still image.

    Example:
        >>> frames_time_axis((10, 2, 2, 34, 34), time_steps=10), frames_time_axis((2, 3, 32, 32), time_steps=4)
        (0, None)
        >>> frames_time_axis((2, 10, 2, 34, 34), time_steps=10)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: event frames must be (time, batch, ...) with time_steps=10 steps, got shape (2, 10, 2, 34, 34)...
    """
    given = tuple(shape)
    words = ("(time, batch, ...)", "(batch, time, ...)")
    if len(given) not in (4, 5):
        raise ValueError(
            f"images must have 4 axes, a batch of still ones, or 5, event frames {words[convention]}; got shape {given}"
        )
    if len(given) == 4:
        if time_axis is not None:
            raise ValueError(f"time_axis must be None for still images, got {time_axis!r} for shape {given}")
        return None
    if time_axis is not None:
        if isinstance(time_axis, bool) or time_axis not in (0, 1):
            raise ValueError(f"time_axis must be 0, 1 or None; got {time_axis!r}")
        return time_axis
    steps, batch = given[convention], given[1 - convention]
    if steps is not None and steps != time_steps:
        other: Literal[0, 1] = 1 if convention == 0 else 0
        raise ValueError(
            f"event frames must be {words[convention]} with time_steps={time_steps} steps, got shape {given}; pass "
            + (
                f"time_axis={other} if they are {words[other]}"
                if batch == time_steps
                else f"time_axis={convention} for another number of steps, time_axis={other} if they are {words[other]}"
            )
        )
    if steps is not None and steps == batch:
        raise ValueError(
            f"event frames of as many samples as steps, shape {given}, do not tell where time is; pass time_axis=0 if "
            f"they are {words[0]}, time_axis=1 if they are {words[1]}"
        )
    return convention


def network_time_axis(
    spec: NetworkSpec,
    shape: Sequence[int],
    dtype: str,
    *,
    channels: Literal["first", "last"],
    time_axis: Literal[0, 1] | None = None,
    sizes: bool = True,
) -> Literal[0, 1] | None:
    """Return where time is in the images that a network is given, time-first where it is not said; None if nowhere.

    Args:
        spec: the network.
        shape: of the images, or of event frames.
        dtype: the name of their dtype.
        channels: where the channels are: before the axes of space, or in the last axis.
        time_axis: where the caller says that time is.
        sizes: whether to check height and width: not where a compiler traces this.

    Raises:
        ValueError: another rank, other channels, no time step, a size that the network does not take, still images
            where it takes event frames alone; what :func:`frames_time_axis` refuses.
        TypeError: integers.
    """
    place = frames_time_axis(shape, time_steps=spec.time_steps, time_axis=time_axis)
    given = tuple(shape)
    if place is not None and given[place] == 0:
        raise ValueError(f"images must have at least one time step, got shape {given}")
    found, size = (given[-3], given[-2:]) if channels == "first" else (given[-1], given[-3:-1])
    if found != spec.in_channels:
        where = "" if channels == "first" else " in their last axis"
        raise ValueError(f"images must have {spec.in_channels} channels{where}, got {found} in shape {given}")
    check_floating("images", dtype)
    if sizes:
        check_size(spec, size, timed=place is not None)
    return place


@lru_cache(maxsize=256)
def check_size(spec: NetworkSpec, size: tuple[int | None, ...], *, timed: bool) -> None:
    """Raise unless a network takes images, or event frames, of that height and width.

    Raises:
        ValueError: it does not; the message names the layer that they are too small for.

    Example:
        >>> from sbp_core import resnet18_spec
        >>> check_size(resnet18_spec(), (32, 32), timed=False)
    """
    if not timed and not spec.repeats:
        raise ValueError(
            f"images must be event frames, with an axis of time: the {spec.kind} does not repeat still ones"
        )
    known = tuple(want if got is None else got for want, got in zip(spec.image_size, size, strict=True))
    spec.outline(known, timed=timed)


def check_floating(name: str, dtype: str) -> None:
    """Raise unless ``dtype`` names one of the floating dtypes.

    Raises:
        TypeError: another dtype.
    """
    if dtype.rpartition(".")[2] not in FLOATING:
        raise TypeError(f"{name} must hold floating-point numbers ({', '.join(FLOATING)}), got {dtype}; cast it first")


def check_neuron(spec: object, decay: object = None) -> None:
    """Raise unless ``spec`` is a neuron, and ``decay`` lies in [0, 1] where it is given as a number.

    Raises:
        TypeError: ``spec`` is something else, the name of a surrogate say.
        ValueError: a decay outside [0, 1], or not finite.

    Example:
        >>> check_neuron(LIFSpec(), 1.7)
        Traceback (most recent call last):
        ...
        ValueError: decay must lie in [0, 1], got 1.7
    """
    if not isinstance(spec, LIFSpec):
        raise TypeError(
            f"spec must be a LIFSpec, got {spec!r} of type {type(spec).__name__}; a surrogate goes into one, "
            "LIFSpec(surrogate=...)"
        )
    if isinstance(decay, Real):
        validation.within("decay", float(decay), 0.0, 1.0)


def check_state(spec: LIFSpec, state: LIFState, shape: Sequence[int | None], dtype: str) -> None:
    """Raise unless ``state`` fits the neuron and one step of its input.

    Args:
        spec: the neuron.
        state: the state a user passed in.
        shape: the shape of one step, ``(batch, ...)``; None stands for a size that is not known yet.
        dtype: the name of the input's dtype.

    Raises:
        ValueError: a part of another shape (another batch size, say), one missing, or one that the neuron has not.
        TypeError: not a LIFState, or a part of another dtype.
    """
    if not isinstance(state, LIFState):
        raise TypeError(f"state must be a LIFState or None, got {type(state).__name__}")
    for name in LIFState._fields:
        needed = name in spec.state_parts
        part: Any = getattr(state, name)
        if (part is not None) != needed:
            raise ValueError(f"state.{name} must be {'an array' if needed else 'None'} for this neuron, got {part!r}")
        if part is None:
            continue
        got = tuple(part.shape)
        if len(got) != len(shape) or any(
            a is not None and b is not None and a != b for a, b in zip(got, shape, strict=True)
        ):
            raise ValueError(
                f"state.{name} must have the shape of one step of x, {tuple(shape)}; got {got}. "
                "Pass state=None to start afresh when the batch size changes"
            )
        found = getattr(part.dtype, "name", str(part.dtype))
        if found.rpartition(".")[2] != dtype.rpartition(".")[2]:
            raise TypeError(f"state.{name} must have the dtype of x, {dtype}; got {found}")
