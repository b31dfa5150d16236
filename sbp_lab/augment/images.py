"""Augmentations of one image: flip, crops, Cutout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sbp_core import validation
from sbp_lab.augment.base import ImageAugmentation, Stage


@dataclass(frozen=True, kw_only=True)
class Flip(ImageAugmentation):
    """Left and right change places, with ``probability`` (He et al. 2016, section 4.2).

    Raises:
        ValueError: a probability out of 0 .. 1.

    Example:
        >>> image = np.arange(3, dtype=np.uint8).reshape(1, 3, 1)
        >>> Flip(probability=1.0)(image, np.random.default_rng(0)).ravel()
        array([2, 1, 0], dtype=uint8)
    """

    kind: ClassVar[str] = "flip"
    probability: float = 0.5

    def __post_init__(self) -> None:
        self._set("probability", validation.within("probability", self.probability, 0.0, 1.0))

    def __call__(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return the image or its mirror image."""
        return image[:, ::-1] if rng.random() < self.probability else image


@dataclass(frozen=True, kw_only=True)
class Crop(ImageAugmentation):
    """The image moved by up to ``padding`` pixels along each axis; what comes in from outside is ``fill``.

    A random crop, of the image's own size, of the image padded on each side (He et al. 2016, section 4.2).

    Raises:
        ValueError: a negative padding, or a fill out of 0 .. 255.
        TypeError: a padding that is no integer.

    Example:
        >>> image = np.full((32, 32, 3), 9, np.uint8)
        >>> Crop(padding=4)(image, np.random.default_rng(0)).shape
        (32, 32, 3)
    """

    kind: ClassVar[str] = "crop"
    padding: int = 4
    fill: int = 0

    def __post_init__(self) -> None:
        self._set("padding", validation.count("padding", self.padding, least=0))
        _check_fill(self.fill)

    def __call__(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return the moved image."""
        height, width = image.shape[:2]
        most = self.padding
        down, right = int(rng.integers(-most, most + 1)), int(rng.integers(-most, most + 1))
        moved = np.empty_like(image)
        moved[:] = self.fill
        # rows of the result that the image covers, and the same rows of the image
        rows, columns = _overlap(down, height), _overlap(right, width)
        moved[rows[0], columns[0]] = image[rows[1], columns[1]]
        return moved


def _overlap(shift: int, length: int) -> tuple[slice, slice]:
    low, high = max(0, shift), max(0, min(length, length + shift))
    return slice(low, max(low, high)), slice(max(0, -shift), max(0, -shift) + max(0, high - low))


@dataclass(frozen=True, kw_only=True)
class ResizedCrop(ImageAugmentation):
    """A random part of the image, stretched to ``size``: for images of many sizes (Szegedy et al. 2015, section 6).

    Attributes:
        size: (height, width) of what it gives.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width over height; its logarithm is uniform.

    Raises:
        ValueError: a size below 1, or bounds that are not positive and in order.

    Example:
        >>> ResizedCrop(size=(8, 8))(np.zeros((30, 40, 3), np.uint8), np.random.default_rng(0)).shape
        (8, 8, 3)
    """

    kind: ClassVar[str] = "resized_crop"
    any_size: ClassVar[bool] = True
    size: tuple[int, int] = (224, 224)
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)

    def __post_init__(self) -> None:
        self._set("size", check_size("size", self.size))
        self._set("scale", _bounds("scale", self.scale))
        self._set("ratio", _bounds("ratio", self.ratio))
        if self.scale[1] > 1.0:
            raise ValueError(f"scale must be at most 1, got {self.scale}")

    def __call__(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return the part, resized."""
        top, left, height, width = self._part(image.shape[0], image.shape[1], rng)
        return resize(image[top : top + height, left : left + width], self.size)

    def _part(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(low, high))
            rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < rows <= height and 0 < columns <= width:
                top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
                return top, left, rows, columns
        # no part fits: the middle, as near to the bounds of the ratio as can be
        bounded = min(max(width / height, self.ratio[0]), self.ratio[1])
        rows, columns = min(height, round(width / bounded)), min(width, round(height * bounded))
        return (height - rows) // 2, (width - columns) // 2, rows, columns


@dataclass(frozen=True, kw_only=True)
class Cutout(ImageAugmentation):
    """A square of ``size`` pixels round a random pixel becomes the mean colour (DeVries & Taylor 2017, section 3).

    It acts on the normalised image, where the mean is 0, as the paper asks; what of the square lies outside is lost.

    Attributes:
        size: the square's side; 16 is the paper's for CIFAR-10, 8 for CIFAR-100.
        holes: how many squares.

    Raises:
        ValueError: a field below 1.
        TypeError: a field that is no integer.

    Example:
        >>> image = np.ones((32, 32, 3), np.float32)
        >>> cut = Cutout(size=4)(image, np.random.default_rng(0))
        >>> int(np.sum(cut[..., 0] == 0.0))
        16
    """

    kind: ClassVar[str] = "cutout"
    stage: ClassVar[Stage] = "normalised"
    size: int = 16
    holes: int = 1

    def __post_init__(self) -> None:
        self._set("size", validation.count("size", self.size))
        self._set("holes", validation.count("holes", self.holes))

    def __call__(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return the image with its squares cut out."""
        cut = image.copy()
        for _ in range(self.holes):
            top = int(rng.integers(image.shape[0])) - self.size // 2
            left = int(rng.integers(image.shape[1])) - self.size // 2
            cut[max(0, top) : max(0, top + self.size), max(0, left) : max(0, left + self.size)] = 0
        return cut


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return an image stretched to ``size`` by Pillow's bilinear filter, which averages where it shrinks.

    Args:
        image: (height, width, channels), uint8 or float32; it comes back as it is where it has that size.
        size: height and width.

    Example:
        >>> resize(np.arange(4, dtype=np.uint8).reshape(2, 2, 1) * 40, (1, 1)).ravel()
        array([60], dtype=uint8)
    """
    if image.shape[:2] == tuple(size):
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    dtype = np.uint8 if image.dtype == np.uint8 else np.float32
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel, dtype)).resize(size[::-1], Image.Resampling.BILINEAR))
        for channel in np.moveaxis(image, 2, 0)
    ]
    return np.stack(channels, axis=2)


def check_size(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return a size as (height, width).

    Raises:
        ValueError: not two numbers of at least 1.
        TypeError: not integers.
    """
    found = validation.counts(name, size)
    if len(found) != 2:
        raise ValueError(f"{name} must be (height, width), got {size!r}")
    return found[0], found[1]


def _bounds(name: str, values: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ValueError(f"{name} must be (least, greatest), got {values!r}")
    low, high = (validation.positive(name, value) for value in values)
    if low > high:
        raise ValueError(f"{name} must be (least, greatest), got {values!r}")
    return low, high


def _check_fill(fill: int) -> None:
    if validation.count("fill", fill, least=0) > 255:
        raise ValueError(f"fill must be an integer in 0 .. 255, got {fill!r}")
