"""Augmentations of recordings: mirrored, shifted, with parts dropped; and, of frames in a batch, cut and mixed.

Each says what it conserves; the tests hold it to that. None changes the order of time or leaves the sensor.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_lab.augment import Augmentation, BatchAugmentation
from sbp_lab.events.events import Events, checked_size


@dataclass(frozen=True, kw_only=True)
class EventAugmentation(Augmentation, abstract=True):
    """A random change of one recording, before frames are made of it."""

    @abstractmethod
    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the changed recording; ``events`` itself stays as it was."""


@dataclass(frozen=True, kw_only=True)
class EventFlip(EventAugmentation):
    """Mirrors left and right. Conserves every event's time, row and polarity.

    Attributes:
        probability: how often.

    Example:
        >>> events = Events(t=[0, 5], x=[0, 1], y=[0, 2], p=[1, 0], size=(3, 4))
        >>> EventFlip(probability=1.0)(events, np.random.default_rng(0)).x
        array([3, 2], dtype=int16)
    """

    kind: ClassVar[str] = "event_flip"

    probability: float = 0.5

    def __post_init__(self) -> None:
        self._set("probability", validation.within("probability", self.probability, 0.0, 1.0))

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the recording, mirrored or not."""
        return replace(events, x=events.size[1] - 1 - events.x) if rng.random() < self.probability else events


@dataclass(frozen=True, kw_only=True)
class EventRoll(EventAugmentation):
    """Shifts all events alike, by a whole number of pixels down and one to the right.

    Each number is drawn evenly in ``-pixels .. pixels``. What leaves the sensor comes in again on the other side.
    Conserves the number of events, times and polarities.

    Attributes:
        pixels: largest shift.
        of: (height, width) of the picture whose pixels are meant, where frames are scaled to it later: a shift of 5
            pixels of 48 is one of 13 of a sensor's 128. None: the sensor's.

    Example:
        >>> events = Events(t=[0, 5], x=[0, 3], y=[0, 2], p=[1, 0], size=(3, 4))
        >>> rolled = EventRoll(pixels=1)(events, np.random.default_rng(3))
        >>> rolled.x, rolled.y
        (array([3, 2], dtype=int16), array([1, 0], dtype=int16))
    """

    kind: ClassVar[str] = "event_roll"

    pixels: int = 5
    of: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self._set("pixels", validation.count("pixels", self.pixels))
        if self.of is not None:
            self._set("of", checked_size("of", self.of))

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the shifted recording."""
        down, right = rng.integers(-self.pixels, self.pixels + 1, 2)
        (height, width), (of_height, of_width) = events.size, self.of or events.size
        down, right = round(down * height / of_height), round(right * width / of_width)
        return replace(
            events, x=(events.x.astype(np.int64) + right) % width, y=(events.y.astype(np.int64) + down) % height
        )


@dataclass(frozen=True, kw_only=True)
class EventDrop(EventAugmentation):
    """Leaves out the events of a part of the time, or of an area, or some anywhere (EventDrop, Gu et al. 2021).

    Which of ``by`` is drawn, all equally likely, and the part's share evenly between 0 and the field of that name: of
    the time from the first event to the last, of the sensor's area (a box of the sensor's shape), or each event's
    chance to go. The events that stay are as they were.

    Attributes:
        by: "time", "area" and "random", or some of them.
        probability: how often; the paper's is 3/4, with all three.
        time: largest share of the time.
        area: largest share of the area.
        random: largest chance of an event.

    Example:
        >>> events = Events(t=range(100), x=[1] * 100, y=[1] * 100, p=[1] * 100, size=(3, 4))
        >>> len(EventDrop(by=("time",), probability=1.0)(events, np.random.default_rng(0)))
        76
    """

    kind: ClassVar[str] = "event_drop"

    by: tuple[str, ...] = ("time", "area", "random")
    probability: float = 0.75
    time: float = 0.9
    area: float = 0.3
    random: float = 0.9

    def __post_init__(self) -> None:
        if isinstance(self.by, str) or not self.by:
            raise ValueError(f"by must be some of 'time', 'area' and 'random', as a tuple; got {self.by!r}")
        self._set("by", tuple(validation.choice("by", way, ("time", "area", "random")) for way in self.by))
        for name in ("probability", "time", "area", "random"):
            self._set(name, validation.within(name, getattr(self, name), 0.0, 1.0))

    def __call__(self, events: Events, rng: np.random.Generator) -> Events:
        """Return the recording without what was dropped."""
        if rng.random() >= self.probability or not len(events):
            return events
        way = self.by[rng.integers(len(self.by))]
        share = rng.uniform(0.0, getattr(self, way))
        if way == "random":
            return events[rng.random(len(events)) >= share]
        if way == "time":
            length = share * events.duration
            since = events.t - (events.t[0] + rng.uniform(0.0, events.duration - length))
            return events[(since < 0) | (since >= length)]
        sides = [round(side * share**0.5) for side in events.size]
        top, left = (rng.integers(whole - side + 1) for whole, side in zip(events.size, sides, strict=True))
        inside = (events.y >= top) & (events.y < top + sides[0]) & (events.x >= left) & (events.x < left + sides[1])
        return events[~inside]


@dataclass(frozen=True, kw_only=True)
class EventCutMix(BatchAugmentation):
    """A box of each sample's frames, the same in all steps, is another's; labels follow the events, not the area.

    ``CutMix`` gives a class the share of the picture that is its sample's; where events are few and gathered in
    places, a large box may hold none. Here a class gets the share of the events that are its sample's. Each event of a
    result is one of the sample outside the box or one of its partner inside it, where and when it was. The box has
    ``1 - lambda`` of the area, lambda drawn from Beta(alpha, alpha), round an even centre, as in CutMix (Yun et al.
    2019); NDA (Li et al. 2022) takes it to events.

    Attributes:
        alpha: 1 in CutMix's paper.
        probability: share of the batches that are mixed at all.

    Raises:
        ValueError: alpha not above 0, or a probability out of 0 .. 1; in the call, inputs that are not frames.

    Example:
        >>> frames = np.zeros((2, 1, 4, 4, 2), np.float32)
        >>> frames[0, :, 1:3, 1:3], frames[1, :, 0, 0] = 3, 5
        >>> mix = EventCutMix(probability=1.0)
        >>> mixed, labels = mix.on_batch(frames, np.eye(2, dtype=np.float32), np.random.default_rng(29))
        >>> mixed[0, 0, :, :, 0]
        array([[5., 0., 0., 0.],
               [0., 3., 3., 0.],
               [0., 3., 3., 0.],
               [0., 0., 0., 0.]], dtype=float32)
        >>> labels[0], 12 / (12 + 5)
        (array([0.7058823 , 0.29411766], dtype=float32), 0.7058823529411765)
    """

    kind: ClassVar[str] = "event_cut_mix"
    events_only: ClassVar[bool] = True

    alpha: float = 1.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        self._set("alpha", validation.positive("alpha", self.alpha))
        self._set("probability", validation.within("probability", self.probability, 0.0, 1.0))

    def on_batch(
        self, images: NDArray[np.float32], labels: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mixed frames, (batch, time, height, width, 2), and labels, (batch, classes)."""
        if images.ndim != 5:
            raise ValueError(f"images must be frames (batch, time, height, width, 2), got shape {images.shape}")
        if rng.random() >= self.probability:
            return images, labels
        part = (1.0 - rng.beta(self.alpha, self.alpha)) ** 0.5
        other = rng.permutation(len(images))
        height, width = images.shape[2:4]
        rows, columns = _stretch(height, part, rng), _stretch(width, part, rng)
        mixed = images.copy()
        mixed[:, :, rows, columns] = images[other][:, :, rows, columns]
        counts, inside = mixed.sum((1, 2, 3, 4)), mixed[:, :, rows, columns].sum((1, 2, 3, 4))
        area = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        theirs = np.full_like(counts, area)  # of frames without an event
        np.divide(inside, counts, out=theirs, where=counts > 0)
        theirs = theirs[:, None]
        return mixed, (1 - theirs) * labels + theirs * labels[other]


def _stretch(length: int, part: float, rng: np.random.Generator) -> slice:
    centre, half = int(rng.integers(length)), part * length / 2
    return slice(max(round(centre - half), 0), min(round(centre + half), length))
