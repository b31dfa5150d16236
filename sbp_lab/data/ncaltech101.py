"""N-Caltech101: Caltech101's pictures seen by an event camera that moved (Orchard et al. 2015). Up to 180 x 240."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sbp_lab.data.event_files import BinSplit, gather, names_in
from sbp_lab.data.files import Published
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import Source

SIZE = (180, 240)
PUBLISHED = Published(
    title="N-Caltech101",
    url="https://www.garrickorchard.com/datasets/n-caltech101",
    size="Caltech101.zip, some 5 GB unpacked: 8,709 recordings of 115,000 events",
    folders=("N-Caltech101", "NCaltech101", "N-Caltech101/Caltech101", "NCALTECH101/Caltech101", "Caltech101"),
    layout="a folder a class with its recordings, as in accordion/image_0001.bin",
    archives=("Caltech101.zip",),
)
#: Of ten recordings of a class, in the order of their numbers, so many are to train on; at least one is to test.
_TRAIN, _OF = 9, 10


@data_set("ncaltech101")
def ncaltech101(folder: Path | None) -> Source:
    """Return N-Caltech101: 100 classes of things and one of background, by the names of their folders.

    Its authors published no split. As in SpikingJelly, the first nine tenths of each class, rounded up, in the order of
    the files' numbers are to train on, the others to test. All recordings are said to be of one sensor, 180 x 240,
    though most pictures are smaller and lie in its upper left corner.

    Raises:
        FileNotFoundError: the files are missing; the message says where to get them and how to lay them out.
        ValueError: something else among the classes' folders or in one of them, or a class of one recording.
    """
    for place in PUBLISHED.places(folder):
        if place.is_dir() and next(place.glob("*/*.bin"), None) is not None:
            names = tuple(names_in(place))
            files, labels = gather(place, names, ".bin")
            counts = np.bincount(labels)
            if counts.min() < 2:
                raise ValueError(f"{place / names[counts.argmin()]}: expected at least 2 recordings, found 1")
            place_in_class = np.arange(len(labels)) - np.searchsorted(labels, labels)
            train = place_in_class < -(-counts * _TRAIN // _OF)[labels]
            train &= place_in_class < (counts - 1)[labels]
            splits = [
                BinSplit(place, tuple(np.array(files)[part].tolist()), labels[part], size=SIZE, overflow=True)
                for part in (train, ~train)
            ]
            return Source(
                name="ncaltech101",
                train=splits[0],
                test=splits[1],
                class_names=names,
                size=SIZE,
                channels=2,
                events=True,
            )
    raise PUBLISHED.missing(folder)
