"""What a trained network wants to be shown: kept beside its weights, so that they can be used without the data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from sbp_lab.data.source import ArraySplit, Figures, Source, Split


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is known of the samples that a network was trained on.

    Attributes:
        data: name of the data set.
        class_names: one a class.
        size: (height, width) of a stored sample.
        channels: of an image; 2 of events.
        events: whether samples are recordings of events.
        mean: per channel of the stored values; None for events.
        deviation: the same.
        low: lowest stored value that there can be; None where it is not known.
        high: the highest, 255 for most images.

    Example:
        >>> from sbp_lab.data import open_data
        >>> inputs = Inputs.of(open_data("digits"))
        >>> inputs.size, inputs.high, Inputs.from_json(inputs.to_json()) == inputs
        ((8, 8), 16.0, True)
    """

    data: str
    class_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    events: bool = False
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, source: Source) -> Self:
        """Return what is known of a data set."""
        low, high = (None, None) if source.events else _range(source.train)
        return cls(
            data=source.name,
            class_names=source.class_names,
            size=source.size,
            channels=source.channels,
            events=source.events,
            mean=source.mean,
            deviation=source.deviation,
            low=low,
            high=high,
        )

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what :meth:`to_json` wrote.

        Raises:
            ValueError: not that.
        """
        try:
            read: dict[str, Any] = json.loads(text)
            values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in read.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"inputs must be as sbp writes them, got {text[:80]!r}: {error}") from None

    def source(self, split: Split, name: str) -> Source:
        """Return a data set of other samples, to be normalised as these were.

        Args:
            split: the samples.
            name: for messages.
        """
        return Source(
            name=name,
            train=split,
            test=split,
            class_names=self.class_names,
            size=self.size,
            channels=self.channels,
            events=self.events,
            published=self._figures,
        )

    def normalising(self, source: Source) -> Source:
        """Return another data set, to be normalised as these were.

        Raises:
            ValueError: its samples are of another kind, or its classes of another number.
        """
        for what, theirs, ours in (
            ("recordings of events" if source.events else "images", source.events, self.events),
            (f"{source.channels} channels", source.channels, self.channels),
            (f"{source.num_classes} classes", source.num_classes, len(self.class_names)),
        ):
            if theirs != ours:
                raise ValueError(
                    f"data must be like {self.data}, that the network was trained on: {len(self.class_names)} classes, "
                    f"{self.channels} channels, {'events' if self.events else 'images'}; {source.name} has {what}"
                )
        return source if self._figures is None else replace(source, published=self._figures)

    @property
    def _figures(self) -> Figures | None:
        if self.mean is None or self.deviation is None:
            return None
        return Figures(mean=self.mean, deviation=self.deviation)


def _range(split: Split) -> tuple[float | None, float | None]:
    if isinstance(split, ArraySplit):
        images = split.images
        # all levels of a byte are possible where some are used that 7 bits have not
        if images.dtype == np.uint8 and int(images.max()) > 127:
            return 0.0, 255.0
        return float(images.min()), float(images.max())
    first = split[0]
    return (0.0, 255.0) if isinstance(first, np.ndarray) and first.dtype == np.uint8 else (None, None)
