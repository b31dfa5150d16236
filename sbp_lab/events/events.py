"""A recording of an event camera: when, where and with which sign the brightness of a pixel changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbp_core import validation

_LARGEST_SIDE = 2**15


@dataclass(frozen=True, kw_only=True, eq=False)
class Events:
    """Events in the order of time. Arrays of one length, read-only; a recording may have none.

    Attributes:
        t: microseconds, int64, never going back; where it starts is the file's business.
        x: column from the left, int16, in ``0 .. width - 1``.
        y: row from the top, int16, in ``0 .. height - 1``.
        p: polarity, uint8: 1 where the pixel grew brighter ("on"), 0 where it grew darker ("off").
        size: the sensor's (height, width).

    Raises:
        TypeError: an array that is not of integers.
        ValueError: lengths that differ, a column, row or polarity out of range, a time before the one in front of it.

    Example:
        >>> events = Events(t=[0, 5, 9], x=[1, 1, 3], y=[0, 2, 2], p=[1, 0, 1], size=(3, 4))
        >>> len(events), events.duration
        (3, 9)
        >>> events[events.p == 1]
        Events(2 of a 3 x 4 sensor, 0 to 9 us)
        >>> Events(t=[0, 5], x=[1, 4], y=[0, 2], p=[1, 0], size=(3, 4))
        Traceback (most recent call last):
        ...
        ValueError: x must lie in 0 .. 3 (the sensor is 3 x 4, height x width), got 4 in event 1
    """

    t: NDArray[np.int64]
    x: NDArray[np.integer[Any]]
    y: NDArray[np.integer[Any]]
    p: NDArray[np.integer[Any]]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        height, width = checked_size("size", self.size)
        self._set("size", (height, width))
        given = {name: _integers(name, getattr(self, name)) for name in ("t", "x", "y", "p")}
        lengths = {name: len(values) for name, values in given.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"t, x, y and p must have one length, got {', '.join(f'{lengths[n]} {n}' for n in given)}")
        sensor = f"the sensor is {height} x {width}, height x width"
        _check_range("x", given["x"], width - 1, sensor)
        _check_range("y", given["y"], height - 1, sensor)
        _check_range("p", given["p"], 1, "off and on")
        for name, dtype in (("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.uint8)):
            self._set(name, _frozen(given[name].astype(dtype, copy=False)))
        back = np.flatnonzero(self.t[1:] < self.t[:-1])
        if back.size:
            first = int(back[0]) + 1
            raise ValueError(
                f"t must not go back, but event {first} is at {self.t[first]} us after one at {self.t[first - 1]} us"
            )

    def __len__(self) -> int:
        """Return how many events there are."""
        return len(self.t)

    def __getitem__(self, index: slice | NDArray[Any]) -> Events:
        """Return the events that ``index``, a slice, a mask or ascending places, selects."""
        return replace(self, t=self.t[index], x=self.x[index], y=self.y[index], p=self.p[index])

    def __eq__(self, other: object) -> bool:
        """Return whether ``other`` is a recording of the same sensor's size with the same events in the same order."""
        if not isinstance(other, Events):
            return NotImplemented
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("t", "x", "y", "p"))
        return same and self.size == other.size

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        span = f", {self.t[0]} to {self.t[-1]} us" if len(self) else ""
        return f"Events({len(self):,} of a {self.size[0]} x {self.size[1]} sensor{span})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # NumPy's pickles forget that an array is read-only
        for name, value in state.items():
            self._set(name, _frozen(value) if isinstance(value, np.ndarray) else value)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last; 0 where there are none."""
        return int(self.t[-1]) - int(self.t[0]) if len(self) else 0

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def checked_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as (height, width).

    Raises:
        TypeError: it is not a sequence of integers.
        ValueError: it does not have two sides of 1 to 32768.
    """
    sides = validation.counts(name, size)
    if len(sides) != 2 or max(sides) > _LARGEST_SIDE:
        raise ValueError(f"{name} must be (height, width), each at most {_LARGEST_SIDE}, got {size!r}")
    return sides[0], sides[1]


def _integers(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, one number an event, got shape {array.shape}")
    if array.size == 0 and array.dtype == np.float64:  # what NumPy makes of an empty list
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    if array.dtype == np.uint64:
        _check_range(name, array, 2**63 - 1, "a signed number of 64 bits")
    return array


def _check_range(name: str, values: NDArray[Any], most: int, why: str) -> None:
    if values.size and (values.min() < 0 or values.max() > most):
        first = int(np.flatnonzero((values < 0) | (values > most))[0])
        raise ValueError(f"{name} must lie in 0 .. {most} ({why}), got {values[first]} in event {first}")


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view
