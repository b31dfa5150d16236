"""What all augmentations share: specs that change a sample at random and remember nothing."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sbp_core.specs.base import Spec

#: Where in the making of a batch an augmentation acts, in this order: on stored samples (images uint8 or events), on
#: normalised images, on whole batches.
Stage = Literal["stored", "normalised", "batch"]
STAGES: tuple[Stage, ...] = ("stored", "normalised", "batch")


@dataclass(frozen=True, kw_only=True)
class Augmentation(Spec, abstract=True):
    """A random change of training samples. What it draws comes from the generator that it is given, and nothing else.

    A family says what its members take: :class:`ImageAugmentation` one image, ``sbp_lab.events.EventAugmentation`` one
    recording, :class:`BatchAugmentation` a batch with its labels.
    """

    stage: ClassVar[Stage] = "stored"


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation(Augmentation, abstract=True):
    """A random change of one image, ``(height, width, channels)``: uint8 as stored, or float32 once normalised.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class UpsideDown(ImageAugmentation):
        ...     kind: ClassVar[str] = "upside_down"
        ...
        ...     def __call__(self, image, rng):
        ...         return image[::-1] if rng.random() < 0.5 else image
        >>> UpsideDown()(np.arange(4, dtype=np.uint8).reshape(4, 1, 1), np.random.default_rng(1)).ravel()
        array([0, 1, 2, 3], dtype=uint8)
    """

    #: Whether it takes images of any size and gives those that the loader asks for.
    any_size: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return the changed image, same dtype; ``image`` itself is left as it was."""


@dataclass(frozen=True, kw_only=True)
class BatchAugmentation(Augmentation, abstract=True):
    """A random change of a batch of inputs, normalised images or frames of events, and its labels."""

    stage: ClassVar[Stage] = "batch"

    #: Whether it takes frames of events alone.
    events_only: ClassVar[bool] = False

    @abstractmethod
    def on_batch(
        self, images: NDArray[np.float32], labels: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return changed inputs and labels; those given are left as they were.

        Args:
            images: (batch, height, width, channels), or (batch, time, height, width, 2) for frames of events.
            labels: (batch, classes), the share of each class.
            rng: where all chance comes from.
        """
