"""The UCI handwritten digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sbp_lab.data.registry import data_set
from sbp_lab.data.source import ArraySplit, Source

#: Which images are for training is part of a data set: it does not change with the seed of a run.
SPLIT_SEED = 0


@data_set("digits")
def digits(folder: Path | None = None) -> Source:
    """Return 1,797 real 8x8 grey images of 10 digits, levels 0 to 16; no files are needed.

    Four fifths are for training, drawn class by class with a fixed seed.

    Example:
        >>> source = digits()
        >>> len(source.train), len(source.test), source.train[0].shape
        (1437, 360, (8, 8, 1))
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        pixels.reshape(-1, 8, 8, 1).astype(np.uint8), labels, test_size=0.2, random_state=SPLIT_SEED, stratify=labels
    )
    return Source(
        name="digits",
        train=ArraySplit(train, train_labels),
        test=ArraySplit(test, test_labels),
        class_names=tuple("0123456789"),
        size=(8, 8),
    )
