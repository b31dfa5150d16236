"""Data sets as normalised arrays in memory, for what has not moved to ``Source`` yet; it goes with the last of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_lab.data.digits import digits
from sbp_lab.data.source import ArraySplit


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: what the command line calls it.
        train_images: (count, height, width, channels), float32, mean 0 and deviation 1 over all pixels.
        train_labels: (count,), int64, in ``0 .. num_classes - 1``.
        test_images: like the training images, normalised with the training images' figures.
        test_labels: like the training labels.
        num_classes: number of classes.

    Raises:
        ValueError: shapes or labels that do not fit together.
    """

    name: str
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]
    num_classes: int

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.ndim != 4:
                raise ValueError(f"{part}_images must be (count, height, width, channels), got {images.shape}")
            if labels.shape != images.shape[:1]:
                raise ValueError(f"{part}_labels must have shape {images.shape[:1]}, got {labels.shape}")
            if labels.size == 0 or labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(f"{part}_labels must lie in 0 .. {self.num_classes - 1} and not be empty")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.train_images.shape[1:3]
        return int(height), int(width)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.train_images.shape[-1])


def _digits() -> Dataset:
    source = digits()
    train, test = source.train, source.test
    if not isinstance(train, ArraySplit) or not isinstance(test, ArraySplit):
        raise TypeError("digits must be arrays")
    mean, deviation = train.images.mean(), train.images.std()
    return Dataset(
        name="digits",
        train_images=((train.images - mean) / deviation).astype(np.float32),
        train_labels=train.labels,
        test_images=((test.images - mean) / deviation).astype(np.float32),
        test_labels=test.labels,
        num_classes=10,
    )


#: Name on the command line to loader.
DATASETS: dict[str, Callable[[], Dataset]] = {"digits": _digits}


def load(name: str) -> Dataset:
    """Return the data set called ``name``.

    Raises:
        ValueError: there is none of that name; the message lists those that exist.
    """
    return DATASETS[validation.choice("data", name, DATASETS)]()
