"""Checks of what a user passes to a neuron, shared by every adapter so that the errors read alike everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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


def check_floating(name: str, dtype: str) -> None:
    """Raise unless ``dtype`` names one of the floating dtypes.

    Raises:
        TypeError: another dtype.
    """
    if dtype.rpartition(".")[2] not in FLOATING:
        raise TypeError(f"{name} must hold floating-point numbers ({', '.join(FLOATING)}), got {dtype}; cast it first")


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
    wanted = {"potential": True, "current": spec.synaptic_decay is not None, "spikes": spec.stores_spikes}
    for name, needed in wanted.items():
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
