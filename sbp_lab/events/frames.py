"""Frames: events counted by step, pixel and polarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_core.specs.base import Spec
from sbp_lab.events.events import Events, checked_size


@dataclass(frozen=True, kw_only=True)
class Frames(Spec):
    """How a recording becomes ``steps`` pictures: an array (steps, height, width, 2), float32, of counts of events.

    Channel 0 counts events that grew darker, channel 1 those that grew brighter. Without a ``window`` each event is
    counted in exactly one step:

    - ``by="count"``: step i holds the events from number ``floor(i n / steps)`` to before
      ``floor((i + 1) n / steps)`` of n: their counts differ by one at most;
    - ``by="time"``: the time from the first event to the last is cut into ``steps`` equal parts; an event on a cut
      belongs to the later part, the last event to the last.

    With a ``window``, step i holds the events of ``[i window, (i + 1) window)``, counted from the first event, in
    microseconds (``by="time"``) or in events (``by="count"``): what comes after ``steps`` windows is in no frame, and
    where a recording is shorter, its last frames are empty.

    With a ``size``, a pixel's counts are shared among the pixels of a smaller picture by the area that each covers of
    it: the sum stays, and no pattern appears where the sizes are no multiples of each other.

    Attributes:
        by: "count" or "time".
        steps: number of frames, T.
        window: microseconds or events a step; None: the whole recording is cut into ``steps`` parts.
        size: (height, width) of the frames, at most the sensor's; None: the sensor's.
        scale: "count", or "peak": each frame is divided by its largest value, so that it lies in 0 to 1.

    Raises:
        ValueError: a field out of range; in the call, a ``size`` larger than the sensor's.
        TypeError: a field of the wrong type.

    Example:
        >>> from sbp_lab.events import Events
        >>> events = Events(t=[0, 1, 2, 9], x=[0, 1, 1, 3], y=[0, 0, 0, 1], p=[1, 1, 0, 1], size=(2, 4))
        >>> Frames(by="count", steps=2)(events).sum((1, 2, 3))
        array([2., 2.], dtype=float32)
        >>> Frames(by="time", steps=2)(events).sum((1, 2, 3))
        array([3., 1.], dtype=float32)
        >>> Frames(by="time", steps=3, window=2)(events).sum((1, 2, 3))
        array([2., 1., 0.], dtype=float32)
        >>> Frames(steps=1, size=(1, 2))(events)[0, 0].tolist()
        [[1.0, 2.0], [0.0, 1.0]]
    """

    kind: ClassVar[str] = "frames"

    by: Literal["count", "time"] = "count"
    steps: int = 10
    window: int | None = None
    size: tuple[int, int] | None = None
    scale: Literal["count", "peak"] = "count"

    def __post_init__(self) -> None:
        validation.choice("scale", self.scale, ("count", "peak"))
        validation.choice("by", self.by, ("count", "time"))
        self._set("steps", validation.count("steps", self.steps))
        if self.window is not None:
            self._set("window", validation.count("window", self.window))
        if self.size is not None:
            self._set("size", checked_size("size", self.size))

    def shape(self, sensor: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the shape of the frames of a recording of a ``sensor`` of (height, width).

        Raises:
            ValueError: ``size`` is larger than the sensor.
        """
        height, width = self.size or sensor
        if height > sensor[0] or width > sensor[1]:
            raise ValueError(f"size must be at most the sensor's, {sensor}, got {self.size}")
        return self.steps, height, width, 2

    def __call__(self, events: Events) -> NDArray[np.float32]:
        """Return the frames of ``events``."""
        shape = self.shape(events.size)
        height, width = events.size
        cuts = self._cuts(events)
        kept = slice(cuts[-1])
        step = np.repeat(np.arange(self.steps), np.diff(cuts))
        place = ((step * height + events.y[kept]) * width + events.x[kept]) * 2 + events.p[kept]
        counts = np.bincount(place, minlength=self.steps * height * width * 2)
        frames = counts.reshape(self.steps, height, width, 2).astype(np.float32)
        if shape != frames.shape:
            frames = _shrunk(frames, shape[1], shape[2])
        if self.scale == "peak":
            peaks = frames.max((1, 2, 3), keepdims=True)
            peaks[peaks == 0] = 1
            frames = frames / peaks
        return frames

    def _cuts(self, events: Events) -> NDArray[np.int64]:
        """Return where the steps begin and the last one ends: steps + 1 numbers of events."""
        length, marks = len(events) if self.by == "count" else events.duration, range(self.steps + 1)
        if self.window:
            ends = [min(mark * self.window, length + 1) for mark in marks]
        elif self.by == "count":
            ends = [mark * length // self.steps for mark in marks]
        else:  # an event belongs to a part from the first whole microsecond at or after its cut
            ends = [-(-mark * length // self.steps) for mark in marks[:-1]] + [length + 1]
        if self.by == "time" and len(events):
            ends = np.searchsorted(events.t - events.t[0], ends, "left").tolist()
        return np.minimum(ends, len(events))


def _shrunk(frames: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return the counts (T, H, W, 2) shared by area among the pixels of a picture of (height, width)."""
    steps, old_height, old_width, _ = frames.shape
    low: NDArray[np.float32] = _shares(old_height, height) @ frames.reshape(steps, old_height, old_width * 2)
    # both polarities of a row in one product: with the last axis of 2 alone it takes thrice as long
    columns = np.kron(_shares(old_width, width), np.eye(2, dtype=np.float32))
    return (low.reshape(-1, old_width * 2) @ columns.T).reshape(steps, height, width, 2)


def _shares(old: int, new: int) -> NDArray[np.float32]:
    """Return a matrix (new, old): which part of each old pixel lies in each new one. Its columns sum to 1."""
    starts, ends = np.arange(old) * new, (np.arange(old) + 1) * new  # in units of 1 / (old new) of the picture
    lows, highs = np.arange(new)[:, None] * old, (np.arange(new)[:, None] + 1) * old
    overlap: NDArray[np.int64] = np.clip(np.minimum(ends, highs) - np.maximum(starts, lows), 0, None)
    return overlap.astype(np.float32) / np.float32(new)
