"""What a data set is to whoever trains on it: two splits of samples with labels, and what is known of them."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_lab.events import Events

#: An image (height, width, channels), uint8 or, where the data is so, float32; or a recording of an event camera.
Sample: TypeAlias = NDArray[Any] | Events

_READ_AT_MOST = 4 << 30


class Split(Protocol):
    """Samples with labels, read one by one in any order. A worker process gets it pickled."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return (count,) classes in ``0 .. num_classes - 1``."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> Sample:
        """Return a sample, or raise ValueError naming its file if that is damaged, IndexError past either end."""

    def digest(self) -> str:
        """Return a sha256 of samples and labels, in hexadecimal."""


class ArraySplit:
    """A split that is held in memory.

    Args:
        images: (count, height, width, channels), uint8 or float32.
        labels: (count,).

    Raises:
        ValueError: another shape or dtype, or other lengths.

    Example:
        >>> split = ArraySplit(np.zeros((5, 8, 8, 1), np.uint8), np.arange(5))
        >>> len(split), split[-1].shape
        (5, (8, 8, 1))
    """

    def __init__(self, images: NDArray[Any], labels: NDArray[Any]) -> None:
        found = f"{images.shape} of {images.dtype}"
        if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images must be (count, height, width, channels) of uint8 or float32, got {found}")
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be integers of shape {images.shape[:1]}, got {labels.shape} of {labels.dtype}"
            )
        # read-only views: nobody's augmentation can write into the data set
        self.images = images.view()
        self._labels = labels.astype(np.int64)
        self.images.flags.writeable = False
        self._labels.flags.writeable = False

    def __reduce__(self) -> tuple[type[ArraySplit], tuple[NDArray[Any], NDArray[np.int64]]]:
        return ArraySplit, (self.images, self._labels)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return (count,) classes, read-only."""
        return self._labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Return the image at ``index``, read-only."""
        image: NDArray[Any] = self.images[_place(index, len(self))]
        return image

    def digest(self) -> str:
        """Return a sha256 of shape, dtype, pixels and labels."""
        sha = hashlib.sha256(f"{self.images.shape} {self.images.dtype.name}".encode())
        sha.update(np.ascontiguousarray(self.images).data)
        sha.update(self._labels.astype("<i8").tobytes())
        return sha.hexdigest()


class FileSplit(ABC):
    """A split whose samples are files, each read when it is asked for.

    Args:
        folder: that the files are in.
        files: paths below ``folder``, with "/", one a sample.
        labels: one a file.
    """

    def __init__(self, folder: Path, files: tuple[str, ...], labels: NDArray[Any]) -> None:
        if labels.shape != (len(files),):
            raise ValueError(f"labels must be one a file, ({len(files)},), got {labels.shape}")
        self.folder = folder
        self.files = files
        self._labels = labels.astype(np.int64)
        self._labels.flags.writeable = False

    @abstractmethod
    def read(self, path: Path) -> Sample:
        """Return the sample in the file at ``path``, or raise ValueError that names it and the place that is wrong."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return (count,) classes, read-only."""
        return self._labels

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Read the sample at ``index``."""
        return self.read(self.folder / self.files[_place(index, len(self))])

    def digest(self) -> str:
        """Return a sha256 of every file's path below the folder, length, label and bytes.

        Of more than 4 GiB of files the bytes are left out: reading ImageNet takes longer than many a run.
        """
        lengths = [(self.folder / name).stat().st_size for name in self.files]
        every_byte = sum(lengths) <= _READ_AT_MOST
        sha = hashlib.sha256()
        for name, length, label in zip(self.files, lengths, self._labels, strict=True):
            sha.update(f"{name}\0{length}\0{label}\0".encode())
            if every_byte:
                sha.update((self.folder / name).read_bytes())
        return sha.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Mean and deviation per channel of the stored values of the training images."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set: its two splits and what is known of them. It can be pickled.

    Attributes:
        name: what recipes and the command line call it.
        train: what to train on.
        test: what to measure accuracy on.
        num_classes: number of classes; labels lie in ``0 .. num_classes - 1``.
        class_names: one a class.
        size: (height, width) of a sample. Where images have sizes of their own, the size to bring them to.
        channels: channels of an image; 2, off and on, of events.
        events: whether samples are ``Events`` and not images.
        published: mean and deviation that were published, where going through all images would take too long.

    Raises:
        ValueError: labels out of range, an empty split, or names that are not one a class.

    Example:
        >>> def split(*labels):
        ...     return ArraySplit(np.full((len(labels), 2, 2, 1), 10, np.uint8), np.array(labels))
        >>> source = Source(name="toy", train=split(0, 1), test=split(1), class_names=("cat", "dog"), size=(2, 2))
        >>> source.num_classes, source.mean, source.deviation
        (2, (10.0,), (0.0,))
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    size: tuple[int, int]
    channels: int = 1
    events: bool = False
    published: Figures | None = None

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ValueError("class_names must not be empty")
        validation.counts("size", self.size)
        validation.count("channels", self.channels)
        for part, split in (("train", self.train), ("test", self.test)):
            if not len(split):
                raise ValueError(f"{self.name}: {part} holds no sample")
            wrong = np.flatnonzero((split.labels < 0) | (split.labels >= self.num_classes))
            if wrong.size:
                raise ValueError(
                    f"{self.name}: labels of {part} must lie in 0 .. {self.num_classes - 1}, "
                    f"got {split.labels[wrong[0]]} in sample {wrong[0]}"
                )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean per channel of the stored values of the training images; None for events. Computed when first asked."""
        return None if self.events else self._figures.mean

    @property
    def deviation(self) -> tuple[float, ...] | None:
        """Standard deviation per channel of the training images' stored values; None for events."""
        return None if self.events else self._figures.deviation

    @cached_property
    def checksum(self) -> str:
        """Sha256 of both splits' ``digest``; computed when first asked."""
        return hashlib.sha256(f"{self.train.digest()} {self.test.digest()}".encode()).hexdigest()

    @cached_property
    def _figures(self) -> Figures:
        return self.published or figures_of(self.train)


def figures_of(split: Split) -> Figures:
    """Return mean and standard deviation per channel over all pixels of all images of ``split``, in float64.

    Example:
        >>> images = np.array([0, 0, 10, 4], np.uint8).reshape(2, 1, 1, 2)
        >>> figures_of(ArraySplit(images, np.zeros(2, np.int64)))
        Figures(mean=(5.0, 2.0), deviation=(5.0, 2.0))
    """
    first = split[0]
    whole_numbers = isinstance(first, np.ndarray) and first.dtype == np.uint8
    return _of_levels(_blocks(split)) if whole_numbers else _of_numbers(_blocks(split))


def _of_levels(blocks: Iterator[NDArray[Any]]) -> Figures:
    """Return the figures from how often each level occurs: in whole numbers, so exact, and the same on any machine."""
    counts = sum(
        np.stack([np.bincount(plane.ravel(), minlength=256) for plane in np.moveaxis(b, -1, 0)]) for b in blocks
    )
    mean, deviation = [], []
    for channel in np.asarray(counts):
        pixels = int(channel.sum())
        total = int(channel @ np.arange(256))
        squares = int(channel @ np.arange(256) ** 2)
        mean.append(total / pixels)
        deviation.append(math.sqrt(pixels * squares - total**2) / pixels)
    return Figures(mean=tuple(mean), deviation=tuple(deviation))


def _of_numbers(blocks: Iterator[NDArray[Any]]) -> Figures:
    """Return the figures block by block: without a copy of all in float64, or the cancellation of a sum of squares."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for block in blocks:
        axes = tuple(range(block.ndim - 1))
        pixels = block.size // block.shape[-1]
        total = count + pixels
        away = block.mean(axes, dtype=np.float64) - mean
        squares = squares + block.var(axes, dtype=np.float64) * pixels + away**2 * (count * pixels / total)
        mean = mean + away * (pixels / total)
        count = total
    deviation = np.sqrt(squares / count)
    return Figures(mean=tuple(map(float, mean)), deviation=tuple(map(float, deviation)))


def _blocks(split: Split) -> Iterator[NDArray[Any]]:
    if isinstance(split, ArraySplit):
        for start in range(0, len(split), 256):
            yield split.images[start : start + 256]
        return
    for index in range(len(split)):
        image = split[index]
        if not isinstance(image, np.ndarray):
            raise TypeError(f"figures are of images, got {type(image).__name__} in sample {index}")
        yield image


def _place(index: int, count: int) -> int:
    place = int(index)
    if not -count <= place < count:
        raise IndexError(f"there is no sample {place} of {count}")
    return place
