"""DVS128 Gesture: 29 people, 11 gestures, 3 kinds of light before a DVS128 (Amir et al. 2017). 128 x 128, 6 s each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import Published, damaged, read_file
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import Source
from sbp_lab.events import Events, read_aedat3
from sbp_lab.events.aedat3 import Span, spans

SIZE = (128, 128)
NAMES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter clockwise",
    "left arm clockwise",
    "left arm counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
PUBLISHED = Published(
    title="DVS128 Gesture",
    url="http://research.ibm.com/dvsgesture/",
    size="DvsGesture.tar.gz, 3 GB, 5 GB unpacked",
    folders=("DvsGesture", "DVS128Gesture/DvsGesture", "DVS128Gesture", "dvs_gesture"),
    layout=(
        "trials_to_train.txt, trials_to_test.txt and, for each trial that they name, user01_led.aedat and "
        "user01_led_labels.csv"
    ),
    archives=("DvsGesture.tar.gz",),
)
_COLUMNS = "class,startTime_usec,endTime_usec"


@dataclass(frozen=True, kw_only=True)
class Gesture:
    """A gesture in a trial: the events of ``start <= t < stop`` in a file, microseconds as the file counts."""

    file: str
    start: int
    stop: int


class GestureSplit:
    """Gestures, each a part of a trial's file.

    The first time that one of a file is asked for, all of the file is read and checked, and where its gestures lie is
    remembered; from then on a gesture's own bytes are read.

    Args:
        folder: that the files are in.
        gestures: where each sample lies.
        labels: one a gesture.
    """

    def __init__(self, folder: Path, gestures: tuple[Gesture, ...], labels: NDArray[np.int64]) -> None:
        self.folder = folder
        self.gestures = gestures
        self._labels = labels.astype(np.int64)
        self._labels.flags.writeable = False
        self._spans: dict[str, dict[Gesture, Span]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # whoever gets a copy reads files of its own
        return self.__dict__ | {"_spans": {}}

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return (count,) classes, read-only."""
        return self._labels

    def __len__(self) -> int:
        """Return the number of gestures."""
        return len(self.gestures)

    def __getitem__(self, index: int) -> Events:
        """Read the gesture at ``index``; its times are the file's."""
        gesture = self.gestures[index]
        path = self.folder / gesture.file
        if gesture.file not in self._spans:
            own = [other for other in self.gestures if other.file == gesture.file]
            windows = [(other.start, other.stop) for other in own]
            self._spans[gesture.file] = dict(zip(own, spans(path, windows, size=SIZE), strict=True))
        span = self._spans[gesture.file][gesture]
        events = read_aedat3(path, size=SIZE, start=gesture.start, stop=gesture.stop, order="sort", span=span)
        if not len(events):
            window = f"{gesture.start} to {gesture.stop} us"
            raise damaged(path, window, "none", f"events of a gesture, as {_labels_of(gesture.file)} says")
        return events

    def read(self, path: Path) -> Events:
        """Return all of a trial's file."""
        return read_aedat3(path, size=SIZE, order="sort")

    def digest(self) -> str:
        """Return a sha256 of every gesture's place and label, and of every file's bytes."""
        sha = hashlib.sha256()
        for gesture, label in zip(self.gestures, self._labels, strict=True):
            sha.update(f"{gesture.file}\0{gesture.start}\0{gesture.stop}\0{label}\0".encode())
        for file in dict.fromkeys(gesture.file for gesture in self.gestures):
            with (self.folder / file).open("rb") as content:
                sha.update(hashlib.file_digest(content, "sha256").digest())
        return sha.hexdigest()


@data_set("dvs_gesture")
def dvs_gesture(folder: Path | None) -> Source:
    """Return DVS128 Gesture, split by people as published: in trials_to_train.txt 23 of them, in the other 6.

    A sample is what the label table of a trial calls a gesture: 1,176 to train on and 288 to test. (Tonic offers a
    repacked set of 1,077 and 264.)

    Raises:
        FileNotFoundError: files are missing; the message says where to get them and how to lay them out.
        ValueError: a list or a label table that is none; the message names its line.
    """
    for place in PUBLISHED.places(folder):
        if any((place / f"trials_to_{part}.txt").is_file() for part in ("train", "test")):
            train, test = _split(place, "train"), _split(place, "test")
            both = {gesture.file for gesture in train.gestures} & {gesture.file for gesture in test.gestures}
            if both:
                raise damaged(
                    place / "trials_to_test.txt", "its lines", f"{min(both)}, which is to train on", "other trials"
                )
            return Source(
                name="dvs_gesture", train=train, test=test, class_names=NAMES, size=SIZE, channels=2, events=True
            )
    raise PUBLISHED.missing(folder)


def _split(place: Path, part: str) -> GestureSplit:
    path = place / f"trials_to_{part}.txt"
    gestures, labels = [], []
    for number, line in enumerate(_lines(path), 1):
        name = line.strip()
        if not name:
            continue
        if not name.endswith(".aedat") or "/" in name or "\\" in name:
            raise damaged(path, f"line {number}", repr(name), "the name of an .aedat file")
        if not (place / name).is_file():
            raise FileNotFoundError(
                f"{place / name} is missing, and line {number} of {path.name} names it: get it from {PUBLISHED.url} "
                f"({PUBLISHED.size})"
            )
        for label, start, stop in _table(place / _labels_of(name)):
            gestures.append(Gesture(file=name, start=start, stop=stop))
            labels.append(label)
    if not gestures:
        raise damaged(path, "line 1", "none", "the names of trials")
    return GestureSplit(place, tuple(gestures), np.array(labels, np.int64))


def _table(path: Path) -> list[tuple[int, int, int]]:
    """Return label, from 0, start and stop of each gesture in a trial's table."""
    lines = _lines(path)
    if not lines or lines[0].replace(" ", "").strip("\ufeff") != _COLUMNS:
        raise damaged(path, "line 1", repr(lines[0][:60]) if lines else "nothing", f"{_COLUMNS!r}")
    found = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        whole = len(cells) == 3 and all(cell.isascii() and cell.isdigit() for cell in cells)
        label, start, stop = (int(cell) for cell in cells) if whole else (0, 0, 0)
        if not 1 <= label <= len(NAMES) or start >= stop:
            raise damaged(
                path, f"line {number}", repr(line[:60]), f"a class of 1 to {len(NAMES)}, a start and a later end"
            )
        found.append((label - 1, start, stop))
    if not found:
        raise damaged(path, "line 2", "none", "a gesture")
    return found


def _labels_of(file: str) -> str:
    return f"{file.removesuffix('.aedat')}_labels.csv"


def _lines(path: Path) -> list[str]:
    content = read_file(path, PUBLISHED)
    try:
        return content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise damaged(path, f"byte {error.start}", "none", "text") from error
