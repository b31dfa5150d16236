"""Small data sets that the tests of the loader share."""

import numpy as np

from sbp_lab.augment import (
    AutoAugment,
    Crop,
    Cutout,
    Flip,
)
from sbp_lab.data.source import ArraySplit, Source
from sbp_lab.events import Events

ALL = (Crop(), Flip(), AutoAugment(), Cutout(size=4))


def arrays(count, seed, size=(12, 10), channels=3):
    rng = np.random.default_rng(seed)
    # the label and the index are written into the first pixels
    images = rng.integers(0, 256, (count, *size, channels), dtype=np.uint8)
    labels = rng.integers(0, 4, count)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = labels, np.arange(count)
    return ArraySplit(images, labels)


def source(train=50, test=23, **changes):
    fields = {"name": "toy", "class_names": ("a", "b", "c", "d"), "size": (12, 10), "channels": 3}
    return Source(train=arrays(train, 1), test=arrays(test, 2), **(fields | changes))


class Files:
    """A split as files are: read one by one, counted; sample ``broken`` cannot be."""

    def __init__(self, split, broken=()):
        self.split, self.broken, self.read = split, broken, []
        self.files = tuple(f"class{label}/{index}.png" for index, label in enumerate(split.labels))

    @property
    def labels(self):
        return self.split.labels

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        self.read.append(index)
        if index in self.broken:
            raise OSError("the file ends after 12 bytes of 3072")
        return self.split[index]

    def digest(self):
        return self.split.digest()


class Recordings(Files):
    """Recordings of as many events as the index, on a sensor of 6 x 8."""

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        count = 5 + index
        return Events(
            t=np.sort(rng.integers(0, 1000, count)),
            x=rng.integers(0, 8, count),
            y=rng.integers(0, 6, count),
            p=rng.integers(0, 2, count),
            size=(6, 8),
        )


def recordings():
    train, test = arrays(50, 1), arrays(23, 2)
    return Source(
        name="toy", train=Recordings(train), test=Recordings(test), class_names=tuple("abcd"), size=(6, 8), channels=2,
        events=True,
    )  # fmt: skip


def same(found, wanted):
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for (inputs, labels), (inputs_wanted, labels_wanted) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(inputs, inputs_wanted)
        np.testing.assert_array_equal(labels, labels_wanted)
        assert type(inputs) is type(labels) is np.ndarray
        assert inputs.dtype == np.float32


class OwnSizes(Files):
    """Images of sizes of their own, as in folders."""

    def __getitem__(self, index):
        return np.full((20 + index, 30, 3), index, np.uint8)


def own_sizes():
    data = source()
    return Source(
        name="toy", train=OwnSizes(data.train), test=OwnSizes(data.test), class_names=tuple("abcd"), size=(8, 10),
        channels=3,
    )  # fmt: skip
