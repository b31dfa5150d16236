"""AutoAugment: two operations with chances and strengths that a search has found (Cubuk et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from sbp_core import validation
from sbp_lab.augment.base import ImageAugmentation
from sbp_lab.augment.images import _check_fill

Policy = Literal["cifar10", "imagenet"]
Pixels = NDArray[np.uint8]
Colour = int | tuple[int, ...]

#: An operation: its name, its probability, its level in 0 .. 9 (None: it has none).
Step = tuple[str, float, int | None]

#: The policies as published: appendix of arXiv:1805.09501v3, "reduced CIFAR-10" and "reduced ImageNet".
POLICIES: dict[Policy, tuple[tuple[Step, Step], ...]] = {
    "cifar10": (
        (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
        (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
        (("Color", 0.9, 9), ("Equalize", 0.6, None)),
        (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, None), ("Invert", 0.1, None)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
    ),
    "imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
        (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
        (("Color", 0.4, 0), ("Equalize", 0.6, None)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    ),
}

#: Operations whose strength takes either sign, each with an equal chance.
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)


@dataclass(frozen=True, kw_only=True)
class AutoAugment(ImageAugmentation):
    """One of a policy's 25 pairs of operations, each operation done with its own chance and strength.

    Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data" (CVPR 2019), section 3 and appendix, with
    the ranges of strength of torchvision's ``AutoAugment``, to which tests hold it.

    Attributes:
        policy: "cifar10" or "imagenet".
        fill: what comes in from outside where an image is moved, 0 .. 255 in every channel.

    Raises:
        ValueError: another policy, or a fill out of range; when called: an image that is not uint8 of 1 or 3 channels.

    Example:
        >>> image = np.zeros((32, 32, 3), np.uint8)
        >>> AutoAugment()(image, np.random.default_rng(0)).shape
        (32, 32, 3)
    """

    kind: ClassVar[str] = "auto_augment"
    policy: Policy = "cifar10"
    fill: int = 0

    def __post_init__(self) -> None:
        validation.choice("policy", self.policy, get_args(Policy))
        _check_fill(self.fill)

    def __call__(self, image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Return the changed image."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise ValueError(
                "image must be uint8, (height, width, 1 or 3 channels), for auto_augment; "
                f"got {image.dtype} of shape {image.shape}"
            )
        pairs = POLICIES[self.policy]
        # what is drawn does not depend on what is done
        pair, draws = pairs[int(rng.integers(len(pairs)))], rng.random(4)
        for (name, probability, level), chance, sign in zip(pair, draws[:2], draws[2:], strict=True):
            if chance < probability:
                strength = magnitude(name, level, image.shape[0], image.shape[1])
                image = operate(image, name, -strength if name in SIGNED and sign < 0.5 else strength, self.fill)
        return image


def magnitude(name: str, level: int | None, height: int, width: int) -> float:
    """Return an operation's strength at a level of 0 .. 9, for images of that height and width; 0 without a level.

    Example:
        >>> magnitude("Rotate", 9, 32, 32), magnitude("Posterize", 7, 32, 32)
        (30.0, 5)
    """
    if level is None:
        return 0.0
    if name == "Posterize":
        return 8 - round(level / 2.25)
    if name == "Solarize":
        return 255.0 * (9 - level) / 9
    most = {
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 150.0 / 331.0 * width,
        "TranslateY": 150.0 / 331.0 * height,
        "Rotate": 30.0,
    }.get(name, 0.9)
    return most * level / 9


def operate(image: Pixels, name: str, strength: float, fill: int = 0) -> Pixels:
    """Return an image after one operation, as Pillow does it.

    Args:
        image: (height, width, 1 or 3), uint8; it stays as it was.
        name: a name of the policies.
        strength: from :func:`magnitude`, with a sign.
        fill: what comes in from outside.

    Example:
        >>> operate(np.full((1, 1, 1), 200, np.uint8), "Invert", 0.0).item()
        55
    """
    if name in _BY_TABLE:
        return _looked_up(image, _BY_TABLE[name](image, strength))
    gray = image.shape[2] == 1
    picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if gray else image))
    changed = _BY_PILLOW[name](picture, strength, fill if gray else (fill,) * 3)
    return np.asarray(changed).reshape(image.shape)


def _looked_up(image: Pixels, table: NDArray[np.integer[Any]]) -> Pixels:
    # one table for all channels, or a column for each
    if table.ndim == 1:
        return table.astype(np.uint8)[image]
    return table.astype(np.uint8)[image, np.arange(image.shape[2])]


def _histograms(image: Pixels) -> NDArray[np.int64]:
    channels = image.shape[2]
    places = image.astype(np.intp) * channels + np.arange(channels)
    return np.bincount(places.ravel(), minlength=256 * channels).reshape(256, channels)


def _contrasted(image: Pixels) -> NDArray[np.integer[Any]]:
    """Return a table that stretches each channel to 0 .. 255."""
    present = _histograms(image) > 0
    low, high = present.argmax(axis=0), 255 - present[::-1].argmax(axis=0)
    flat = high <= low
    scale = 255.0 / np.where(flat, 1, high - low)
    # in this order, and cut off: Pillow's rounding
    stretched = np.clip(np.trunc(_LEVELS[:, None] * scale + -low * scale), 0, 255).astype(np.int64)
    return np.where(flat, _LEVELS[:, None], stretched)


def _equalized(image: Pixels) -> NDArray[np.integer[Any]]:
    """Return a table after which each channel's values are as evenly spread as can be."""
    counts = _histograms(image)
    highest = 255 - (counts > 0)[::-1].argmax(axis=0)
    step = (image.shape[0] * image.shape[1] - counts[highest, np.arange(image.shape[2])]) // 255
    below = np.cumsum(counts, axis=0) - counts
    spread = np.minimum((step // 2 + below) // np.maximum(step, 1), 255)
    return np.where(step == 0, _LEVELS[:, None], spread)


_LEVELS = np.arange(256)
_BY_TABLE: dict[str, Callable[[Pixels, float], NDArray[np.integer[Any]]]] = {
    "Posterize": lambda image, m: _LEVELS & ~(2 ** (8 - int(m)) - 1),
    "Solarize": lambda image, m: np.where(m > _LEVELS, _LEVELS, 255 - _LEVELS),
    "AutoContrast": lambda image, m: _contrasted(image),
    "Equalize": lambda image, m: _equalized(image),
    "Invert": lambda image, m: 255 - _LEVELS,
}


def _transformed(picture: Image.Image, matrix: tuple[float, ...], fill: Colour) -> Image.Image:
    # the output's pixel (x, y) is the input's at (a x + b y + c, d x + e y + f)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


def _contrast(picture: Image.Image, factor: float) -> Image.Image:
    # ImageEnhance.Contrast, whose mean takes a histogram in Python
    mean = int(np.asarray(picture.convert("L")).mean() + 0.5)
    gray: Colour = mean if picture.mode == "L" else (mean,) * 3
    return Image.blend(Image.new(picture.mode, picture.size, gray), picture, factor)


_BY_PILLOW: dict[str, Callable[[Image.Image, float, Colour], Image.Image]] = {
    "ShearX": lambda picture, m, fill: _transformed(picture, (1, m, 0, 0, 1, 0), fill),
    "ShearY": lambda picture, m, fill: _transformed(picture, (1, 0, 0, m, 1, 0), fill),
    "TranslateX": lambda picture, m, fill: _transformed(picture, (1, 0, -int(m), 0, 1, 0), fill),
    "TranslateY": lambda picture, m, fill: _transformed(picture, (1, 0, 0, 0, 1, -int(m)), fill),
    "Rotate": lambda picture, m, fill: picture.rotate(m, Image.Resampling.NEAREST, fillcolor=fill),
    "Brightness": lambda picture, m, fill: ImageEnhance.Brightness(picture).enhance(1.0 + m),
    "Color": lambda picture, m, fill: ImageEnhance.Color(picture).enhance(1.0 + m),
    "Contrast": lambda picture, m, fill: _contrast(picture, 1.0 + m),
    "Sharpness": lambda picture, m, fill: ImageEnhance.Sharpness(picture).enhance(1.0 + m),
}
