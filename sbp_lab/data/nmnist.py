"""N-MNIST: MNIST's digits seen by an event camera that moved (Orchard et al. 2015). 34 x 34, some 0.3 s each."""

from __future__ import annotations

from pathlib import Path

from sbp_lab.data.event_files import BinSplit, class_folders, gather
from sbp_lab.data.files import Published
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import Source

SIZE = (34, 34)
_DIGITS = tuple("0123456789")
PUBLISHED = Published(
    title="N-MNIST",
    url="https://www.garrickorchard.com/datasets/n-mnist",
    size="Train.zip and Test.zip, 1.2 GB, 1.5 GB unpacked",
    folders=("N-MNIST", "NMNIST", "nmnist"),
    layout="Train/0 ... Train/9 and Test/0 ... Test/9, each with its digit's recordings, as in Train/7/00035.bin",
    archives=("Train.zip", "Test.zip"),
)


@data_set("nmnist")
def nmnist(folder: Path | None) -> Source:
    """Return N-MNIST: 60,000 recordings to train on, 10,000 to test, as MNIST is split; a part of them is as good.

    Raises:
        FileNotFoundError: the files are missing; the message says where to get them and how to lay them out.
        ValueError: a folder that is no digit's or holds no recording, or a file that is none.
    """
    for place in PUBLISHED.places(folder):
        if (place / "Train").is_dir() or (place / "Test").is_dir():
            for part in ("Train", "Test"):
                if not (place / part).is_dir():
                    raise FileNotFoundError(f"{place / part} is missing: {PUBLISHED.title} is {PUBLISHED.layout}")
            train, test = (_split(place, part) for part in ("Train", "Test"))
            return Source(
                name="nmnist", train=train, test=test, class_names=_DIGITS, size=SIZE, channels=2, events=True
            )
    raise PUBLISHED.missing(folder)


def _split(place: Path, part: str) -> BinSplit:
    class_folders(place / part, _DIGITS)
    files, labels = gather(place, [f"{part}/{digit}" for digit in _DIGITS], ".bin")
    return BinSplit(place, files, labels, size=SIZE)
