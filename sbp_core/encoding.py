"""Encoders: still images, or recordings, to event frames over time, in the framework's own arrays.

Networks of the zoo encode a still image themselves, by their first layer ("direct"); what is encoded here they take as
event frames, ``(time, batch, ...)``, or ``(batch, time, ...)`` with ``time_axis=1``, Keras's convention. Nothing here
has a gradient.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from sbp_core import validation
from sbp_core.inputs import check_floating
from sbp_core.namespace import array_namespace


def direct(images: Any, time_steps: int, *, time_axis: Literal[0, 1] = 0) -> Any:
    """Return the image at every step: numbers, not spikes.

    Args:
        images: ``(batch, ...)``, floating-point numbers.
        time_steps: T.
        time_axis: where time is put.

    Raises:
        ValueError: fewer than 1 step, or another axis.
        TypeError: integers.

    Example:
        >>> direct(np.ones((2, 3)), 4).shape, direct(np.ones((2, 3)), 4, time_axis=1).shape
        ((4, 2, 3), (2, 4, 3))
    """
    xp, steps = _checked("images", images, time_steps, time_axis)
    return xp.stack([images] * steps, axis=time_axis)


def rate(
    images: Any, time_steps: int, generator: np.random.Generator, *, gain: float = 1.0, time_axis: Literal[0, 1] = 0
) -> Any:
    """Return spikes drawn at each step with the probability ``gain * image``, kept within [0, 1].

    Args:
        images: ``(batch, ...)``, intensities.
        time_steps: T.
        generator: ``numpy.random.default_rng(seed)``: the same spikes in every framework.
        gain: spikes a step of an intensity of 1.
        time_axis: where time is put.

    Raises:
        ValueError: fewer than 1 step, another axis, or a gain that is not positive.
        TypeError: integers, or no generator.

    Example:
        >>> rate(np.array([[0.0, 1.0]]), 3, np.random.default_rng(0))[:, 0].tolist()
        [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    xp, steps = _checked("images", images, time_steps, time_axis)
    if not isinstance(generator, np.random.Generator):
        raise TypeError(f"generator must be a numpy.random.Generator, got {generator!r}")
    shape = list(images.shape)
    shape.insert(time_axis, steps)
    drawn = xp.asarray(generator.random(shape), dtype=images.dtype, device=images.device)
    probability = xp.expand_dims(validation.positive("gain", gain) * images, axis=time_axis)
    return xp.astype(drawn < probability, images.dtype)


def latency(images: Any, time_steps: int, *, threshold: float = 0.0, time_axis: Literal[0, 1] = 0) -> Any:
    """Return one spike for each value, the earlier the larger it is: at step ``round((1 - x) * (T - 1))`` from 0.

    Args:
        images: ``(batch, ...)``, intensities; beyond 1 they spike as 1 does.
        time_steps: T.
        threshold: what is not greater does not spike.
        time_axis: where time is put.

    Raises:
        ValueError: fewer than 1 step, or another axis.
        TypeError: integers.

    Example:
        >>> latency(np.array([[0.0, 0.5, 1.0]]), 3)[:, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    xp, steps = _checked("images", images, time_steps, time_axis)
    low = validation.finite("threshold", threshold)
    zero, one = xp.zeros_like(images), xp.ones_like(images)
    late = one - xp.where(images < zero, zero, xp.where(images > one, one, images))
    step = xp.round(late * (steps - 1.0))
    spikes = [xp.astype((step == float(t)) & (images > low), images.dtype) for t in range(steps)]
    return xp.stack(spikes, axis=time_axis)


def delta(frames: Any, *, threshold: float = 0.1, off: bool = False, time_axis: Literal[0, 1] = 0) -> Any:
    """Return a spike where a recording rises by ``threshold`` or more from the step before, as an event camera does.

    Args:
        frames: ``(time, batch, ...)``; the first step is compared with itself, so that it has no spike.
        threshold: what counts as a change.
        off: whether what falls by as much gives -1.
        time_axis: where time is.

    Raises:
        ValueError: a threshold that is not positive, no time step, or another axis.
        TypeError: integers.

    Example:
        >>> delta(np.array([[0.0], [0.5], [0.1]]), off=True).ravel().tolist()
        [0.0, 1.0, -1.0]
    """
    limit = validation.positive("threshold", threshold)
    if len(getattr(frames, "shape", (0, 0))) < 2:
        raise ValueError(f"frames must have axes of time and batch, got shape {tuple(frames.shape)}")
    xp, steps = _checked("frames", frames, None, time_axis)
    each = [frames[t, ...] if time_axis == 0 else frames[:, t, ...] for t in range(steps)]
    spikes = []
    for before, now in zip([each[0], *each[:-1]], each, strict=True):
        rise = now - before
        spike = xp.astype(rise >= limit, frames.dtype)
        spikes.append(spike - xp.astype(rise <= -limit, frames.dtype) if off else spike)
    return xp.stack(spikes, axis=time_axis)


def _checked(name: str, array: Any, time_steps: int | None, time_axis: int) -> tuple[Any, int]:
    if time_axis not in (0, 1) or isinstance(time_axis, bool):
        raise ValueError(f"time_axis must be 0, (time, batch, ...), or 1, (batch, time, ...); got {time_axis!r}")
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(f"{name} must be an array, got {type(array).__name__}")
    check_floating(name, getattr(array.dtype, "name", str(array.dtype)))
    steps = array.shape[time_axis] if time_steps is None else time_steps
    return array_namespace(array), validation.count("time_steps", steps)
