"""CIFAR10-DVS: 10,000 pictures of CIFAR-10, moved on a screen before a DVS128 (Li et al. 2017). 128 x 128, 1.3 s."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbp_lab.data.event_files import gather
from sbp_lab.data.files import Published
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import FileSplit, Source
from sbp_lab.events import DVS128, Events, read_aedat2

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = Published(
    title="CIFAR10-DVS",
    url="https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    size="ten .zip files, some 16 GB unpacked: 10,000 recordings of 205,000 events",
    folders=("CIFAR10-DVS", "CIFAR10DVS", "cifar10-dvs", "CIFAR10DVS/extract"),
    layout="airplane ... truck, each with 1,000 recordings: cat/cifar10_cat_0.aedat ... cat/cifar10_cat_999.aedat",
    archives=tuple(f"{name}.zip" for name in NAMES),
)
_PER_CLASS, _TEST_PER_CLASS = 1000, 100


class DvsSplit(FileSplit):
    """Recordings of a DVS128 in AEDAT 2.0 files, one a sample."""

    def read(self, path: Path) -> Events:
        """Return the recording in the file at ``path``, the right way up."""
        # an older jAER recorded them, which did not hold the clock to never going back; the camera stood on its side
        events = read_aedat2(path, DVS128, order="sort")
        return replace(events, x=events.y, y=events.x)


@data_set("cifar10_dvs")
def cifar10_dvs(folder: Path | None) -> Source:
    """Return CIFAR10-DVS, 9,000 recordings to train on and 1,000 to test: numbers 900 to 999 of each class.

    Its authors published no split. This is that of TET (Deng et al. 2022), from whose recipe the paper's is.

    Raises:
        FileNotFoundError: the files are missing; the message says where to get them and how to lay them out.
        ValueError: a class does not have its 1,000 recordings, or holds another's.
    """
    return open_part(folder, "cifar10_dvs", test_from=_PER_CLASS - _TEST_PER_CLASS)


@data_set("cifar10_dvs_first")
def cifar10_dvs_first(folder: Path | None) -> Source:
    """Return CIFAR10-DVS with numbers 0 to 99 of each class to test, as in TEBN (Duan et al. 2022) and after it.

    Accuracy on this split is much higher than on a random one: do not compare across.
    """
    return open_part(folder, "cifar10_dvs_first", test_from=0)


def open_part(
    folder: Path | None,
    name: str,
    *,
    test_from: int,
    per_class: int = _PER_CLASS,
    test_per_class: int = _TEST_PER_CLASS,
) -> Source:
    """Return CIFAR10-DVS, or the part of it that has recordings 0 to ``per_class`` - 1 of each class.

    Args:
        folder: that data lies in.
        name: of the data set.
        test_from: first number to test, of each class.
        per_class: recordings there are of each class.
        test_per_class: how many of them are to test.

    Raises:
        FileNotFoundError: as above.
        ValueError: as above.
    """
    for place in PUBLISHED.places(folder):
        if any((place / name).is_dir() for name in NAMES):
            break
    else:
        raise PUBLISHED.missing(folder)
    absent = [name for name in NAMES if not (place / name).is_dir()]
    if absent:
        raise FileNotFoundError(f"{place / absent[0]} is missing: {PUBLISHED.title} is {PUBLISHED.layout}")
    files, labels = gather(place, NAMES, ".aedat")
    numbers = np.array([_number(place, file) for file in files])
    for label, class_name in enumerate(NAMES):
        found = numbers[labels == label]
        lost = np.setdiff1d(np.arange(per_class), found)
        if lost.size or len(found) != per_class:
            what = f"no cifar10_{class_name}_{lost[0]}.aedat" if lost.size else f"number {found.max()}"
            raise ValueError(
                f"{place / class_name}: expected recordings 0 to {per_class - 1}, found {len(found)} and {what}; "
                f"get it from {PUBLISHED.url}"
            )
    test = (numbers >= test_from) & (numbers < test_from + test_per_class)
    train_split, test_split = (
        DvsSplit(place, tuple(np.array(files)[part].tolist()), labels[part]) for part in (~test, test)
    )
    return Source(
        name=name, train=train_split, test=test_split, class_names=NAMES, size=DVS128.size, channels=2, events=True
    )


def _number(place: Path, file: str) -> int:
    class_name, _, own = file.partition("/")
    found = re.fullmatch(rf"cifar10_{class_name}_(0|[1-9]\d*)\.aedat", own)
    if found is None:
        raise ValueError(f"{place / file}: expected a name like cifar10_{class_name}_0.aedat")
    return int(found[1])
