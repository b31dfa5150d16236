"""Augmentations of a batch: each sample is mixed with another, and so are their labels."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sbp_core import validation
from sbp_lab.augment.base import BatchAugmentation

Float32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Mixing(BatchAugmentation, abstract=True):
    """What mixes some batches, by a share that is Beta(alpha, alpha)."""

    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        self._set("alpha", validation.positive("alpha", self.alpha))
        self._set("probability", validation.within("probability", self.probability, 0.0, 1.0))

    def on_batch(self, images: Float32, labels: Float32, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Return mixed inputs and labels."""
        if rng.random() >= self.probability:
            return images, labels
        return self._mix(images, labels, rng)

    @abstractmethod
    def _mix(self, images: Float32, labels: Float32, rng: np.random.Generator) -> tuple[Float32, Float32]:
        """Return inputs and labels, mixed."""


@dataclass(frozen=True, kw_only=True)
class MixUp(_Mixing):
    """``lambda x_i + (1 - lambda) x_j``, inputs and labels alike (Zhang et al., ICLR 2018, section 2).

    ``lambda`` is Beta(alpha, alpha), one for a batch; j is a random order of the batch.

    Attributes:
        alpha: strength; 1 in the paper's CIFAR-10 runs, 0.2 in ImageNet's.
        probability: share of the batches that are mixed at all.

    Raises:
        ValueError: alpha not above 0, or a probability out of 0 .. 1.

    Example:
        >>> images, labels = np.zeros((2, 1, 1, 1), np.float32), np.eye(2, dtype=np.float32)
        >>> _, mixed = MixUp().on_batch(images, labels, np.random.default_rng(0))
        >>> mixed.sum(axis=1)
        array([1., 1.], dtype=float32)
    """

    kind: ClassVar[str] = "mix_up"

    def _mix(self, images: Float32, labels: Float32, rng: np.random.Generator) -> tuple[Float32, Float32]:
        share, other = np.float32(rng.beta(self.alpha, self.alpha)), rng.permutation(len(images))
        return _mixed(images, other, share), _mixed(labels, other, share)


@dataclass(frozen=True, kw_only=True)
class CutMix(_Mixing):
    """A rectangle of each input is another's, and so is its share of the label.

    Yun et al., ICCV 2019, section 3.1. The rectangle, one for a batch, has the input's proportions and ``1 - lambda``
    of its area, lambda Beta(alpha, alpha), round a uniform centre; what of it lies outside is lost, and the labels
    follow the area that is left. In frames of events it is the same at all times.

    Attributes:
        alpha: 1 in the paper.
        probability: share of the batches that are mixed at all; 0.5 in the paper's CIFAR runs, 1 in ImageNet's.

    Raises:
        ValueError: alpha not above 0, or a probability out of 0 .. 1.

    Example:
        >>> images, labels = np.arange(2, dtype=np.float32).repeat(16).reshape(2, 4, 4, 1), np.eye(2, dtype=np.float32)
        >>> mixed, shares = CutMix().on_batch(images, labels, np.random.default_rng(3))
        >>> bool(np.all(mixed.mean(axis=(1, 2, 3)) == shares[:, 1]))
        True
    """

    kind: ClassVar[str] = "cut_mix"

    def _mix(self, images: Float32, labels: Float32, rng: np.random.Generator) -> tuple[Float32, Float32]:
        side = math.sqrt(1.0 - rng.beta(self.alpha, self.alpha))
        other = rng.permutation(len(images))
        height, width = images.shape[-3:-1]
        rows, columns = _span(height, side, rng), _span(width, side, rng)
        mixed = images.copy()
        mixed[..., rows, columns, :] = images[other][..., rows, columns, :]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, _mixed(labels, other, np.float32(1.0 - area / (height * width)))


def _mixed(values: Float32, other: NDArray[np.int64], share: np.float32) -> Float32:
    return share * values + (np.float32(1.0) - share) * values[other]


def _span(length: int, side: float, rng: np.random.Generator) -> slice:
    # the authors' code: half of the whole number of pixels on either side of the centre
    centre, half = int(rng.integers(length)), int(length * side) // 2
    return slice(max(0, centre - half), min(length, centre + half))
