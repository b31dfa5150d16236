"""Data sets of Tonic, for those who have installed it: ``tonic/NMNIST`` is ``tonic.datasets.NMNIST`` in DATA/NMNIST.

Tonic is under the GPL. It is no part of sbp and is imported when such a data set is opened, and not before.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.registry import data_set
from sbp_lab.data.source import Source
from sbp_lab.events import Events


class _Recordings(Protocol):
    """What a data set of Tonic has, as far as it is used here."""

    targets: Sequence[object]
    sensor_size: tuple[int, int, int] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[NDArray[Any], object]: ...


class TonicSplit:
    """One split of a data set of Tonic. It reads what Tonic reads, when it is asked for.

    Args:
        folder: of Tonic's data, which has a folder for each data set.
        name: of the class in ``tonic.datasets``.
        train: which split.

    Raises:
        FileNotFoundError: its files are not in the folder: Tonic would download them, sbp does not.
        ValueError: Tonic is not installed or has no such data set, or it is not one of recordings with two splits.
    """

    def __init__(self, folder: Path, name: str, *, train: bool) -> None:
        self.folder, self.name, self.train = folder, name, train
        self._recordings: _Recordings | None = _opened(folder, name, train)
        sensor = self._recordings.sensor_size
        if sensor is None:
            raise ValueError(f"data 'tonic/{name}' must be of one sensor's size, and Tonic says that it is not")
        self.size = (int(sensor[1]), int(sensor[0]))
        targets = list(self._recordings.targets)
        if not targets:
            raise ValueError(f"{folder / name}: expected recordings to {'train on' if train else 'test'}, found none")
        self.class_names, self._labels = _numbered(targets)

    def __getstate__(self) -> dict[str, Any]:
        # whoever gets a copy opens files of its own
        return self.__dict__ | {"_recordings": None}

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return (count,) classes: Tonic's targets, numbered in their order."""
        return self._labels

    def __len__(self) -> int:
        """Return the number of recordings."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Events:
        """Return a recording; events that Tonic gives out of order are put in order, none is left out."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no sample {index} of {len(self)}")
        if self._recordings is None:
            self._recordings = _opened(self.folder, self.name, self.train)
        events, _ = self._recordings[int(index) % len(self)]
        order = np.argsort(events["t"], kind="stable")
        t, x, y, p = (events[name][order].astype(np.int64) for name in ("t", "x", "y", "p"))
        return Events(t=t, x=x, y=y, p=p, size=self.size)

    def digest(self) -> str:
        """Return a sha256 of every event and label; reads them all."""
        sha = hashlib.sha256(self._labels.astype("<i8").tobytes())
        for index in range(len(self)):
            events = self[index]
            for column in (events.t, events.x, events.y, events.p):
                sha.update(column.astype("<i8").tobytes())
        return sha.hexdigest()


@data_set("tonic")
def tonic(folder: Path | None) -> Source:
    """Return a data set of Tonic: the class of the folder's name, with files where Tonic has put them.

    Raises:
        FileNotFoundError: as in :class:`TonicSplit`.
        ValueError: as there; or the name of the data set was not said.
    """
    if folder is None or not folder.name or not folder.name.isidentifier():
        raise ValueError("data 'tonic' must be said with the class's name, 'tonic/NMNIST', and a folder of data")
    train, test = (TonicSplit(folder.parent, folder.name, train=train) for train in (True, False))
    if test.class_names != train.class_names:
        strange = sorted(set(test.class_names) ^ set(train.class_names))
        raise ValueError(f"{folder}: expected the same classes to train on and to test, found {strange[0]!r} in one")
    return Source(
        name=f"tonic/{folder.name}",
        train=train,
        test=test,
        class_names=train.class_names,
        size=train.size,
        channels=2,
        events=True,
    )


def _numbered(targets: list[object]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the targets that there are, in order, as names, and the place among them of each."""
    values, labels = np.unique(np.array(targets), return_inverse=True)
    return tuple(str(value) for value in values), labels.astype(np.int64)


def _opened(folder: Path, name: str, train: bool) -> _Recordings:
    try:
        found: object = getattr(importlib.import_module("tonic.datasets"), name, None)
    except ModuleNotFoundError as error:
        if error.name not in ("tonic", "tonic.datasets"):
            raise
        raise ValueError(f"data 'tonic/{name}' needs Tonic, which is not installed (it is under the GPL)") from error
    if not inspect.isclass(found):
        raise ValueError(f"data 'tonic/{name}': tonic.datasets has no {name}")
    if "train" not in inspect.signature(found).parameters:
        raise ValueError(f"data 'tonic/{name}' must have a split to train on and one to test, and Tonic's has none")

    def download(self: object) -> None:
        raise FileNotFoundError(
            f"{folder / name} does not hold {name} whole: sbp downloads nothing; let Tonic do it, with "
            f"tonic.datasets.{name}(save_to={str(folder)!r}, train={train})"
        )

    # of the same name, which is the folder's
    offline = cast(Callable[..., _Recordings], type(name, (found,), {"download": download}))
    return offline(save_to=str(folder), train=train)
