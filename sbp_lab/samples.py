"""Files of a person's own as samples: images, arrays, recordings of event cameras, or folders of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.source import FileSplit, Sample, Source
from sbp_lab.events import DAVIS240, DAVIS346, DAVIS640, DVS128, Events, read_aedat2, read_aedat3, read_bin
from sbp_lab.inputs import Inputs

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
ARRAYS = (".npy", ".npz")
RECORDINGS = (".bin", ".aedat")
#: Names under which a .npz file may hold images.
_IMAGES = ("images", "test_images", "x_test", "x")
_EVENTS = ("t", "x", "y", "p")


class Samples:
    """Samples in files, read one by one: a split (:class:`sbp_lab.data.Split`) whose labels say nothing.

    Args:
        paths: files, or folders of them; what a folder holds of files of other kinds is left out.
        inputs: what the network was trained on.
        source: the data it was trained on, whose own reader is taken for recordings; None where it is not there.

    Raises:
        FileNotFoundError: there is no such file, or none that fits in a folder.
        ValueError: a file of another kind, or an array that does not fit.
    """

    def __init__(self, paths: Iterable[Path], inputs: Inputs, source: Source | None = None) -> None:
        self._inputs = inputs
        self._read_events = None if not inputs.events else _reader(inputs, source)
        self._arrays: dict[Path, NDArray[Any]] = {}
        self._places: list[tuple[Path, int | None]] = []
        for path in paths:
            for file in self._below(Path(path)):
                self._places += self._in(file)
        if not self._places:
            raise FileNotFoundError("there must be files to predict, got none")
        self.files = tuple(str(path) if at is None else f"{path}[{at}]" for path, at in self._places)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return zeros: nobody knows."""
        return np.zeros(len(self), np.int64)

    @property
    def endings(self) -> tuple[str, ...]:
        """Return what names of files may end in."""
        return (*(RECORDINGS if self._inputs.events else PICTURES), *ARRAYS)

    def place(self, index: int) -> tuple[Path, int | None]:
        """Return the file of a sample, and which of the file's it is; None where it is the only one."""
        return self._places[index]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample.

        Raises:
            ValueError: a damaged file, or one that does not fit; the message names it.
        """
        path, at = self._places[index]
        ending = path.suffix.lower()
        if self._read_events is not None:
            return self._read_events(path) if ending in RECORDINGS else _recording(path, self._inputs.size)
        if ending in PICTURES:
            return self._picture(path)
        array = self._array(path)
        return self._checked(path, array if at is None else array[at])

    def digest(self) -> str:
        """Return a sha256 of the files' names."""
        return hashlib.sha256("\0".join(self.files).encode()).hexdigest()

    def _below(self, path: Path) -> list[Path]:
        if path.is_dir():
            found = [
                Path(folder) / name
                for folder, _, names in os.walk(path)
                for name in names
                if name.lower().endswith(self.endings) and not name.startswith(".")
            ]
            if not found:
                raise FileNotFoundError(f"{path} holds no file that ends in {', '.join(self.endings)}")
            return sorted(found)
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}")
        if path.suffix.lower() not in self.endings:
            what = "recordings of events" if self._inputs.events else "images"
            raise ValueError(
                f"{path} must end in {', '.join(self.endings)}: the network was trained on {what}, of "
                f"{self._inputs.data}"
            )
        return [path]

    def _in(self, path: Path) -> list[tuple[Path, int | None]]:
        if self._inputs.events or path.suffix.lower() in PICTURES:
            return [(path, None)]
        array = self._array(path)
        channels = self._inputs.channels
        if array.ndim == 4 or (array.ndim == 3 and channels == 1 and array.shape[2] != 1):
            return [(path, at) for at in range(len(array))]
        return [(path, None)]

    def _array(self, path: Path) -> NDArray[Any]:
        if path not in self._arrays:
            self._arrays[path] = _images(path)
        return self._arrays[path]

    def _checked(self, path: Path, image: NDArray[Any]) -> NDArray[Any]:
        inputs = self._inputs
        found = image[..., None] if image.ndim == 2 else image
        if found.ndim != 3 or found.shape[2] != inputs.channels or 0 in found.shape:
            raise ValueError(
                f"{path} must hold images (height, width, {inputs.channels}), channels last, got {image.shape}"
            )
        if found.dtype != np.uint8:
            if found.dtype.kind not in "iuf":
                raise ValueError(f"{path} must hold numbers, got {found.dtype}")
            found = found.astype(np.float32)
            if not np.isfinite(found).all():
                raise ValueError(f"{path} must hold finite numbers, it has NaN or infinity")
        if inputs.high is not None and inputs.low is not None and inputs.low >= 0.0:
            highest = float(found.max())
            # far from what training saw: the scale is another
            if highest > 2.0 * inputs.high or 0.0 < highest <= 1.0 < inputs.high / 8.0:
                raise ValueError(
                    f"{path} must hold values as {inputs.data} has them, {inputs.low:g} to {inputs.high:g}; the "
                    f"highest is {highest:g}: is the scale another?"
                )
        return found

    def _picture(self, path: Path) -> NDArray[Any]:
        from PIL import Image

        modes = {1: "L", 3: "RGB"}
        inputs = self._inputs
        if inputs.channels not in modes:
            raise ValueError(f"{path} must be an .npy file: images of {inputs.data} have {inputs.channels} channels")
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"its mode is {image.mode}, and at most 8 bits a channel are expected")
                levels = np.array(image.convert(modes[inputs.channels]))
        except (FileNotFoundError, PermissionError):
            raise
        # Pillow's decoders raise nearly anything on damaged files
        except Exception as error:
            raise ValueError(f"{path} must be a whole image, it cannot be read: {error}") from error
        if levels.ndim == 2:
            levels = levels[..., None]
        if inputs.low is None or inputs.high is None or (inputs.low, inputs.high) == (0.0, 255.0):
            return levels
        if inputs.low < 0.0:
            raise ValueError(
                f"{path} has levels 0 .. 255, and {inputs.data} has values of {inputs.low:g} to {inputs.high:g}: which "
                "are which, nobody can tell; give an .npy file with values as in training"
            )
        return levels.astype(np.float32) * np.float32(inputs.high / 255.0)


def _images(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            name = next((name for name in _IMAGES if name in found.files), None)
            if name is None and len(found.files) == 1:
                name = found.files[0]
            if name is None:
                raise ValueError(f"it has {', '.join(found.files)}, and none is called {' or '.join(_IMAGES)}")
            array: NDArray[Any] = found[name]
            return array
    # NumPy's and zipfile's readers raise many kinds on damaged files
    except Exception as error:
        raise ValueError(f"{path} must hold an array of images: {error}") from error


def _recording(path: Path, size: tuple[int, int]) -> Events:
    """Return the recording in a .npz file with t, x, y and p, or in a structured .npy file."""
    try:
        found = np.load(path, allow_pickle=False)
        names = found.files if hasattr(found, "files") else (found.dtype.names or ())
        lacking = [name for name in _EVENTS if name not in names]
        if lacking:
            raise ValueError(f"it has {', '.join(names) or 'no names'}, and must have {', '.join(_EVENTS)}")
        t, x, y, p = (found[name] for name in _EVENTS)
        return Events(t=t, x=x, y=y, p=p, size=size)
    except Exception as error:
        raise ValueError(f"{path} must hold a recording, microseconds t, columns x, rows y, p: {error}") from error


def _reader(inputs: Inputs, source: Source | None) -> Callable[[Path], Sample]:
    """Return what reads a recording as the data set's own are read."""
    own = None if source is None else source.test
    if isinstance(own, FileSplit):
        return own.read
    known = _known(inputs)
    if known is not None:
        return known

    def by_ending(path: Path) -> Events:
        if path.suffix.lower() == ".bin":
            return read_bin(path, size=inputs.size)
        with path.open("rb") as file:
            if file.read(12).startswith(b"#!AER-DAT3"):
                return read_aedat3(path, size=inputs.size, order="sort")
        camera = next((each for each in (DVS128, DAVIS240, DAVIS346, DAVIS640) if each.size == inputs.size), None)
        if camera is None:
            raise ValueError(f"{path}: no camera of AEDAT 2.0 is known whose size is {inputs.size}")
        return read_aedat2(path, camera, order="sort")

    return by_ending


def _known(inputs: Inputs) -> Callable[[Path], Sample] | None:
    """Return the reader of a data set whose files say less than its reader knows."""
    from sbp_lab.data.cifar10_dvs import DvsSplit
    from sbp_lab.data.event_files import BinSplit

    none = (Path(), (), np.zeros(0, np.int64))
    split: FileSplit | None = None
    word = inputs.data.partition("/")[0]
    if word in ("cifar10_dvs", "cifar10_dvs_first"):
        split = DvsSplit(*none)  # its camera stood on its side
    elif word == "ncaltech101":
        split = BinSplit(*none, size=inputs.size, overflow=True)
    return None if split is None else split.read
