"""AutoAugment: two operations with chances and strengths that a search has found (Cubuk et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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
    if name in _MOVES:
        return _moved(image, name, strength, fill)
    return _COLOURS[name](image, strength)


_LEVELS = np.arange(256, dtype=np.float32)
#: Larger images are moved by Pillow; a smaller one by a table of where its pixels come from, which is kept.
_LARGEST_MAP = 64 * 64


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: Colour) -> Image.Image:
    # the output's pixel (x, y) is the input's at (a x + b y + c, d x + e y + f)
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill)


_MOVES: dict[str, Callable[[Image.Image, float, Colour], Image.Image]] = {
    "ShearX": lambda picture, m, fill: _affine(picture, (1, m, 0, 0, 1, 0), fill),
    "ShearY": lambda picture, m, fill: _affine(picture, (1, 0, 0, m, 1, 0), fill),
    "TranslateX": lambda picture, m, fill: _affine(picture, (1, 0, -int(m), 0, 1, 0), fill),
    "TranslateY": lambda picture, m, fill: _affine(picture, (1, 0, 0, 0, 1, -int(m)), fill),
    "Rotate": lambda picture, m, fill: picture.rotate(m, Image.Resampling.NEAREST, fillcolor=fill),
}


def _moved(image: Pixels, name: str, strength: float, fill: int) -> Pixels:
    height, width, channels = image.shape
    if height * width > _LARGEST_MAP:
        picture = _picture(image)
        moved = _MOVES[name](picture, strength, fill if channels == 1 else (fill,) * channels)
        return np.asarray(moved).reshape(image.shape)
    origin, outside = _origins(name, strength, height, width)
    pixels = image.reshape(height * width, channels).take(origin, axis=0)
    pixels[outside] = fill
    return pixels.reshape(image.shape)


@lru_cache(maxsize=512)
def _origins(name: str, strength: float, height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return which pixel each pixel is after a move, and which come from outside: Pillow moves their numbers."""
    numbers = np.arange(height * width, dtype=np.int32).reshape(height, width)
    moved = np.array(_MOVES[name](Image.fromarray(numbers), strength, -1)).ravel()
    return np.maximum(moved, 0), np.flatnonzero(moved < 0)


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))


def _planes(image: Pixels) -> Pixels:
    """Return (channels, pixels): reductions along a last axis of three channels would be slow."""
    return np.ascontiguousarray(image.reshape(-1, image.shape[2]).T)


def _by_tables(planes: Pixels, tables: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Return an image each of whose channels went through its table, (channels, 256)."""
    changed = tables.ravel().take(_places(planes))
    return np.ascontiguousarray(changed.T).reshape(shape)


def _places(planes: Pixels) -> NDArray[np.int64]:
    return planes + np.arange(0, 256 * len(planes), 256)[:, None]


def _contrasted(image: Pixels, _: float) -> Pixels:
    """Return an image each of whose channels is stretched to 0 .. 255."""
    planes = _planes(image)
    low, high = planes.min(axis=1), planes.max(axis=1)
    flat = high <= low
    # in this order, and cut off: Pillow's rounding
    scale = 255.0 / np.where(flat, 255, high - low)
    shift = np.where(flat, 0.0, -low.astype(np.float64) * scale)
    tables = (np.arange(256) * scale[:, None] + shift[:, None]).clip(0, 255).astype(np.uint8)
    return _by_tables(planes, tables, image.shape)


def _equalized(image: Pixels, _: float) -> Pixels:
    """Return an image each of whose channels has its levels spread as evenly as can be."""
    planes = _planes(image)
    channels, pixels = planes.shape
    counts = np.bincount(_places(planes).ravel(), minlength=256 * channels).reshape(channels, 256)
    step = (pixels - counts[np.arange(channels), planes.max(axis=1)]) // 255
    spread = counts.cumsum(axis=1)
    spread -= counts
    spread += step[:, None] // 2
    spread //= np.maximum(step, 1)[:, None]
    spread[step == 0] = np.arange(256)
    return _by_tables(planes, spread.clip(0, 255).astype(np.uint8), image.shape)


def _gray(image: Pixels) -> NDArray[np.integer[Any]]:
    """Return the image in gray, (height, width), as Pillow does (ITU-R 601-2)."""
    if image.shape[2] == 1:
        return image[..., 0]
    weights = np.array([19595, 38470, 7471], np.int32)
    gray: NDArray[np.int32] = (image.reshape(-1, 3) @ weights + 0x8000) >> 16
    return gray.reshape(image.shape[:2])


def _blended(base: NDArray[Any] | np.float32, values: NDArray[Any], share: float) -> Pixels:
    """Return ``base + share (values - base)``, Pillow's blend: in float32, cut off."""
    start: NDArray[np.float32] = np.asarray(base, np.float32)
    blend: NDArray[np.float32] = start + np.float32(share) * (values - start)
    return blend.clip(0, 255).astype(np.uint8)


def _coloured(image: Pixels, m: float) -> Pixels:
    return _blended(_gray(image)[..., None], image, 1.0 + m)


def _brightened(image: Pixels, m: float) -> Pixels:
    return _blended(np.float32(0.0), _LEVELS, 1.0 + m).take(image)


def _pronounced(image: Pixels, m: float) -> Pixels:
    mean = int(_gray(image).mean() + 0.5)
    return _blended(np.float32(mean), _LEVELS, 1.0 + m).take(image)


def _sharpened(image: Pixels, m: float) -> Pixels:
    return np.asarray(ImageEnhance.Sharpness(_picture(image)).enhance(1.0 + m)).reshape(image.shape)


_COLOURS: dict[str, Callable[[Pixels, float], Pixels]] = {
    "Brightness": _brightened,
    "Color": _coloured,
    "Contrast": _pronounced,
    "Sharpness": _sharpened,
    "Posterize": lambda image, m: image & np.uint8(256 - 2 ** (8 - int(m))),
    "Solarize": lambda image, m: np.where(image < m, image, 255 - image),
    "AutoContrast": _contrasted,
    "Equalize": _equalized,
    "Invert": lambda image, m: 255 - image,
}
