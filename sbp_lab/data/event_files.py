"""What the data sets of event cameras share: finding recordings in class folders, and reading .bin files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.source import FileSplit
from sbp_lab.events import Events, read_bin

#: Files that systems leave in folders.
_SYSTEMS = ("thumbs.db", "desktop.ini")


class BinSplit(FileSplit):
    """Recordings in .bin files, one a sample.

    Args:
        folder: that the files are in.
        files: paths below it.
        labels: one a file.
        size: the sensor's (height, width).
        overflow: whether records may say that the clock ran over; see :func:`~sbp_lab.events.read_bin`.
    """

    def __init__(
        self,
        folder: Path,
        files: tuple[str, ...],
        labels: NDArray[np.int64],
        *,
        size: tuple[int, int],
        overflow: bool = False,
    ) -> None:
        super().__init__(folder, files, labels)
        self.size = size
        self.overflow = overflow

    def read(self, path: Path) -> Events:
        """Return the recording in the file at ``path``."""
        return read_bin(path, size=self.size, overflow=self.overflow)


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder but those that systems leave there, numbers in them in their order."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted((name for name in names if name.lower() not in _SYSTEMS), key=_natural)


def class_folders(folder: Path, known: Sequence[str]) -> None:
    """Check that ``folder`` holds a folder for each class and nothing else.

    Raises:
        ValueError: a class has none, or there is something that is no class's.
    """
    there = names_in(folder)
    strange = [name for name in there if name not in known]
    missing = [name for name in known if name not in there]
    if strange or missing:
        found = f"{strange[0]!r}" if strange else f"none called {missing[0]!r}"
        raise ValueError(f"{folder}: expected one folder a class, {known[0]!r} ... {known[-1]!r}, found {found}")


def gather(folder: Path, classes: Sequence[str], ending: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return paths below ``folder`` of all recordings in the ``classes``' folders, and which class each is of.

    Raises:
        ValueError: a folder holds none, or something else.
    """
    files, labels = [], []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            raise ValueError(f"{folder / name}: expected a folder of recordings, found a file")
        there = names_in(folder / name)
        strange = [file for file in there if not file.endswith(ending)]
        if strange or not there:
            found = f"{strange[0]!r}" if strange else "nothing"
            raise ValueError(f"{folder / name}: expected recordings, {ending} files, found {found}")
        files += [f"{name}/{file}" for file in there]
        labels += [label] * len(there)
    return tuple(files), np.array(labels, np.int64)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
