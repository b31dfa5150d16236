"""Data sets as NumPy arrays: images (count, height, width, channels), float32, normalised; labels int64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation

#: Which images are for training is part of a data set: it does not change with the seed of a run.
SPLIT_SEED = 0


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


def digits() -> Dataset:
    """Return the UCI handwritten digits that come with scikit-learn: 1,797 real 8x8 grey images of 10 digits.

    Four fifths are for training, drawn class by class with a fixed seed.

    Example:
        >>> digits().train_images.shape, digits().test_images.shape
        ((1437, 8, 8, 1), (360, 8, 8, 1))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        pixels.reshape(-1, 8, 8, 1), labels, test_size=0.2, random_state=SPLIT_SEED, stratify=labels
    )
    mean, deviation = train.mean(), train.std()
    return Dataset(
        name="digits",
        train_images=((train - mean) / deviation).astype(np.float32),
        train_labels=train_labels.astype(np.int64),
        test_images=((test - mean) / deviation).astype(np.float32),
        test_labels=test_labels.astype(np.int64),
        num_classes=10,
    )


#: Name on the command line to loader.
DATASETS: dict[str, Callable[[], Dataset]] = {"digits": digits}


def load(name: str) -> Dataset:
    """Return the data set called ``name``.

    Raises:
        ValueError: there is none of that name; the message lists those that exist.
    """
    return DATASETS[validation.choice("data", name, DATASETS)]()
