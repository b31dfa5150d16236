"""Arrays of your own, as ``numpy.savez`` writes them: images and labels to train on and to test."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import damaged
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import ArraySplit, Source

_NAMES = (("train_images", "train_labels", "test_images", "test_labels"), ("x_train", "y_train", "x_test", "y_test"))
_LAYOUT = (
    "one .npz file with the arrays train_images, train_labels, test_images, test_labels (or x_train, y_train, x_test, "
    "y_test): images (count, height, width, channels) or (count, height, width), uint8 or floating; labels (count,), "
    "integers from 0; class_names, text, may be there"
)


@data_set("npz")
def npz(folder: Path | None) -> Source:
    """Return the arrays of a .npz file: ``npz/mine.npz``, or ``npz`` where the folder of data holds one such file."""
    path = _find(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            return _source(path, archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise damaged(path, "the archive", f"broken zip ({error})", "a .npz file as numpy.savez writes it") from error


def _find(folder: Path | None) -> Path:
    if folder is None:
        raise FileNotFoundError(
            f"No folder of data was said (--data-folder DATA or SBP_DATA). In it belongs {_LAYOUT}."
        )
    if not folder.exists():
        raise FileNotFoundError(f"There is no {folder}. It should be {_LAYOUT}, or a folder with it.")
    if folder.is_file():
        return folder
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"There is no .npz file in {folder}. It should be {_LAYOUT}.")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise ValueError(f"{folder} holds {len(files)} .npz files ({names}): say which, as in npz/{files[0].name}")
    return files[0]


def _source(path: Path, archive: zipfile.ZipFile) -> Source:
    members = {name.removesuffix(".npy") for name in archive.namelist()}
    names = next((names for names in _NAMES if names[0] in members), _NAMES[0])
    for name in names:
        if name not in members:
            raise damaged(path, f"array {name!r}", f"only {', '.join(sorted(members)) or 'nothing'}", _LAYOUT)
    train_images, test_images = (_images(path, names[place], _read(path, archive, names[place])) for place in (0, 2))
    if train_images.shape[1:] != test_images.shape[1:] or train_images.dtype != test_images.dtype:
        found = f"{test_images.shape[1:]} of {test_images.dtype}"
        expected = f"{train_images.shape[1:]} of {train_images.dtype}, like {names[0]}"
        raise damaged(path, f"array {names[2]!r}", found, expected)
    train_labels = _labels(path, names[1], _read(path, archive, names[1]), len(train_images))
    test_labels = _labels(path, names[3], _read(path, archive, names[3]), len(test_images))
    classes = _class_names(path, archive, int(train_labels.max()) + 1)
    for name, labels in ((names[1], train_labels), (names[3], test_labels)):
        wrong = np.flatnonzero(labels >= len(classes))
        if wrong.size:
            place = f"array {name!r}, record {wrong[0]}"
            raise damaged(path, place, f"label {labels[wrong[0]]}", f"a label of 0 .. {len(classes) - 1}")
    return Source(
        name="npz",
        train=ArraySplit(train_images, train_labels),
        test=ArraySplit(test_images, test_labels),
        class_names=classes,
        size=(train_images.shape[1], train_images.shape[2]),
        channels=train_images.shape[3],
    )


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    place = f"array {name!r}"
    try:
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as file:
            shape, fortran, dtype = _header(file)
            if dtype.hasobject:
                raise damaged(path, place, "Python objects", "numbers or text: objects are pickles, and not read")
            length = member.file_size - file.tell()
            expected = math.prod(shape) * dtype.itemsize
            if length != expected:
                raise damaged(path, place, f"{length} bytes", f"{expected} for shape {shape} of {dtype}")
            content = file.read()  # to the end: the archive's own sum over the bytes is checked there
            array: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
            return array
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, SyntaxError, OverflowError, _Header) as error:
        raise damaged(path, place, f"a broken array ({error})", "an array as numpy.savez writes it") from error


class _Header(Exception):  # noqa: N818  (never leaves this module)
    pass


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(file)
    except (ValueError, TypeError) as error:
        raise _Header(str(error)) from error
    raise _Header(f"version {version}")


def _images(path: Path, name: str, images: NDArray[Any]) -> NDArray[Any]:
    place = f"array {name!r}"
    if images.dtype != np.uint8:
        if images.dtype.kind != "f":
            raise damaged(path, place, f"{images.dtype}", "uint8 (levels 0 .. 255) or floating numbers")
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            record = int(np.argwhere(~np.isfinite(images))[0, 0])
            raise damaged(path, f"{place}, record {record}", "infinity or NaN", "finite numbers within float32")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise damaged(path, place, f"shape {images.shape}", "(count, height, width, channels), or without channels")
    if images.shape[1] <= 4 < images.shape[3]:
        expected = "channels last: images.transpose(0, 2, 3, 1)"
        raise damaged(path, place, f"shape {images.shape}, whose channels seem to come first", expected)
    return images


def _labels(path: Path, name: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    place = f"array {name!r}"
    if labels.shape == (count, 1):  # as Keras has them
        labels = labels[:, 0]
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        expected = f"({count},) integers, one class an image"
        raise damaged(path, place, f"shape {labels.shape} of {labels.dtype}", expected)
    whole = labels.astype(np.int64)
    wrong = np.flatnonzero(whole < 0)
    if wrong.size:
        raise damaged(path, f"{place}, record {wrong[0]}", f"label {labels[wrong[0]]}", "a label of at least 0")
    return whole


def _class_names(path: Path, archive: zipfile.ZipFile, count: int) -> tuple[str, ...]:
    if "class_names.npy" not in archive.namelist():
        if count > 65536:
            raise damaged(path, "labels", f"label {count - 1}", "classes numbered from 0 without gaps")
        return tuple(map(str, range(count)))
    names = _read(path, archive, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < count:
        expected = f"({count},) texts, one a class"
        raise damaged(path, "array 'class_names'", f"shape {names.shape} of {names.dtype}", expected)
    return tuple(str(name) for name in names)
