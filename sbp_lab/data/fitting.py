"""Brings an image to a size, as test images of ImageNet are brought to theirs."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def fit(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return ``image`` scaled until it covers ``size`` and a seventh more, then its middle; as it is where it fits.

    Args:
        image: (height, width, channels), uint8 or float32.
        size: (height, width) wanted: 224 x 224 is the middle of an image whose shorter side is 256.

    Example:
        >>> import numpy as np
        >>> fit(np.zeros((300, 400, 3), np.uint8), (224, 224)).shape
        (224, 224, 3)
    """
    from sbp_lab.augment.images import resize

    height, width = size
    if image.shape[:2] == (height, width):
        return image
    tall, wide = round(height * 8 / 7), round(width * 8 / 7)
    # the side that is shorter for its place decides; the other is rounded down, as torchvision does
    if tall * image.shape[1] >= wide * image.shape[0]:
        wide = tall * image.shape[1] // image.shape[0]
    else:
        tall = wide * image.shape[0] // image.shape[1]
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return resize(image, (tall, wide))[top : top + height, left : left + width]
