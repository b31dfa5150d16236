"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32 x 32, in their authors' python and binary versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import Published, damaged, read_file
from sbp_lab.data.pickles import read_pickle
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import ArraySplit, Source

_PIXELS = 3 * 32 * 32

CIFAR10 = Published(
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    size="163 MB, 178 MB unpacked",
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    layout="batches.meta, data_batch_1 to data_batch_5, test_batch (or the binary version, in cifar-10-batches-bin)",
    archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
)
CIFAR100 = Published(
    title="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    size="161 MB, 178 MB unpacked",
    folders=("cifar-100-python", "cifar-100-binary"),
    layout="meta, train, test (or the binary version, in cifar-100-binary)",
    archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
)


@dataclass(frozen=True, kw_only=True)
class _Version:
    """How one of the two data sets is stored: in which files, and what stands before the pixels of a binary record."""

    published: Published
    train: tuple[str, ...]
    test: str
    names: tuple[str, str]  # of the files of class names: python, binary
    names_key: str
    labels_key: str
    # labels in front of each binary record, with the number of classes; the last is the one that is used
    record: tuple[tuple[str, int], ...]

    @property
    def classes(self) -> int:
        return self.record[-1][1]


_TEN = _Version(
    published=CIFAR10,
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    names=("batches.meta", "batches.meta.txt"),
    names_key="label_names",
    labels_key="labels",
    record=(("label", 10),),
)
_HUNDRED = _Version(
    published=CIFAR100,
    train=("train",),
    test="test",
    names=("meta", "fine_label_names.txt"),
    names_key="fine_label_names",
    labels_key="fine_labels",
    record=(("coarse label", 20), ("fine label", 100)),
)


@data_set("cifar10")
def cifar10(folder: Path | None) -> Source:
    """Return CIFAR-10: 50,000 images in 10 classes to train on, 10,000 to test.

    Its files may hold fewer, a part, if all six hold equally many.
    """
    return _open("cifar10", _TEN, folder)


@data_set("cifar100")
def cifar100(folder: Path | None) -> Source:
    """Return CIFAR-100 with its 100 fine classes: 50,000 images to train on, 10,000 to test.

    Its files may hold fewer, a part, if there are five images to train on for each to test.
    """
    return _open("cifar100", _HUNDRED, folder)


def _open(name: str, version: _Version, folder: Path | None) -> Source:
    for place in version.published.places(folder):
        if (place / version.names[0]).exists() or (place / version.test).is_file():
            names, read, ending = _python_names(place, version), _python_batch, ""
        elif (place / version.names[1]).exists() or (place / f"{version.test}.bin").is_file():
            names, read, ending = _binary_names(place, version), _binary_batch, ".bin"
        else:
            continue
        return _source(
            name, version, names, [place / f"{stem}{ending}" for stem in (*version.train, version.test)], read
        )
    raise version.published.missing(folder)


_Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _source(
    name: str,
    version: _Version,
    names: tuple[str, ...],
    paths: list[Path],
    read: Callable[[Path, _Version], _Batch],
) -> Source:
    batches = [read(path, version) for path in paths]
    _check_counts(paths, [len(labels) for _, labels in batches])
    for place, (images, labels) in enumerate(batches):
        for other, (others, their_labels) in enumerate(batches[:place]):
            if np.array_equal(labels, their_labels) and np.array_equal(images, others):
                found = f"the same images as in {paths[other].name}"
                raise damaged(paths[place], "record 0", found, "images of its own")
    train = [images for images, _ in batches[:-1]], [labels for _, labels in batches[:-1]]
    return Source(
        name=name,
        train=ArraySplit(np.concatenate(train[0]), np.concatenate(train[1])),
        test=ArraySplit(*batches[-1]),
        class_names=names,
        size=(32, 32),
        channels=3,
    )


def _check_counts(paths: list[Path], counts: list[int]) -> None:
    # CIFAR-100's one file to train on is as long as CIFAR-10's five
    shares = [5 // (len(paths) - 1)] * (len(paths) - 1) + [1]
    wholes = [-(-count // share) for count, share in zip(counts, shares, strict=True)]
    whole = max(wholes, key=lambda whole: (wholes.count(whole), whole))
    for path, count, share in zip(paths, counts, shares, strict=True):
        if count != whole * share:
            place = f"byte {path.stat().st_size}, record {count}"
            found = f"the end after {count} images"
            raise damaged(path, place, found, f"{whole * share} images, to judge by the other files")


def _images(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # stored as three planes of rows
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _python_names(place: Path, version: _Version) -> tuple[str, ...]:
    path = place / version.names[0]
    meta = read_pickle(path, read_file(path, version.published))
    return _checked_names(path, f"key {version.names_key!r}", meta.get(version.names_key), version)


def _binary_names(place: Path, version: _Version) -> tuple[str, ...]:
    path = place / version.names[1]
    text = read_file(path, version.published).decode("latin-1")
    if not text.endswith("\n"):
        raise damaged(path, f"byte {len(text)}", "the end within a name", "a line for each name")
    return _checked_names(path, "line by line", [line.strip() for line in text.splitlines() if line.strip()], version)


def _checked_names(path: Path, place: str, names: object, version: _Version) -> tuple[str, ...]:
    expected = f"{version.classes} names of classes, all different"
    if not isinstance(names, list):
        raise damaged(path, place, f"{'nothing' if names is None else type(names).__name__}", expected)
    words = [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]
    texts = tuple(word for word in words if isinstance(word, str) and word.isprintable())
    if len(texts) != len(words) or len(texts) != version.classes or len(set(texts)) != version.classes:
        raise damaged(path, place, f"{len(words)} entries, {len(set(texts))} different names among them", expected)
    return texts


def _python_batch(path: Path, version: _Version) -> _Batch:
    batch = read_pickle(path, read_file(path, version.published))
    data, given = batch.get("data"), batch.get(version.labels_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        found = f"shape {data.shape} of {data.dtype}" if isinstance(data, np.ndarray) else _kind(data)
        raise damaged(path, "key 'data'", found, f"an array of uint8 of shape (images, {_PIXELS})")
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, list) or len(given) != len(data):
        found = f"{len(given)} labels" if isinstance(given, list) else _kind(given)
        raise damaged(path, f"key {version.labels_key!r}", found, f"a list of {len(data)} labels, one an image")
    for record, label in enumerate(given):
        if type(label) is not int or not 0 <= label < version.classes:
            found = f"label {label}" if type(label) is int else _kind(label)
            raise damaged(path, f"key {version.labels_key!r}, record {record}", found, _range(version.classes))
    return _images(data), np.array(given, np.int64)


def _binary_batch(path: Path, version: _Version) -> _Batch:
    content = np.frombuffer(read_file(path, version.published), np.uint8)
    ahead = len(version.record)
    length = ahead + _PIXELS
    count, rest = divmod(len(content), length)
    if rest or not count:
        found = f"the end after {rest} of its {length} bytes" if rest else "an empty file"
        raise damaged(path, f"byte {len(content)}, record {count}", found, f"records of {length} bytes each")
    records = content.reshape(count, length)
    for column, (name, classes) in enumerate(version.record):
        wrong = np.flatnonzero(records[:, column] >= classes)
        if wrong.size:
            record = int(wrong[0])
            place = f"byte {record * length + column}, record {record}"
            raise damaged(path, place, f"{name} {records[record, column]}", _range(classes))
    return _images(records[:, ahead:]), records[:, ahead - 1].astype(np.int64)


def _range(classes: int) -> str:
    return f"a label of 0 .. {classes - 1}"


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
