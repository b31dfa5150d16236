"""Images in folders, one folder a class, as ImageNet is laid out: each is read when it is asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import Published, damaged
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import Figures, FileSplit, Source

#: Files with other endings are passed over.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
#: Of ImageNet's training images, by which all of the field normalise (of levels 0 .. 1 there, 0 .. 255 here).
IMAGENET_FIGURES = Figures(
    mean=tuple(255 * mean for mean in (0.485, 0.456, 0.406)),
    deviation=tuple(255 * deviation for deviation in (0.229, 0.224, 0.225)),
)
# a damaged header may ask for gigabytes
_PIXELS_AT_MOST = 100_000_000
_USUAL = (224, 224)
_LAYOUT = "a folder for each class in train/, with its images in it; the same in val/, or in test/"
IMAGENET = Published(
    title="ImageNet (ILSVRC 2012)",
    url="https://image-net.org/download-images.php, after registration",
    size="train 138 GB, val 6.3 GB",
    folders=("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
    layout="train/n01440764/*.JPEG and 999 more, val/ sorted into the same 1,000 folders",
    archives=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
)


class FolderSplit(FileSplit):
    """Images in files, decoded to uint8 (height, width, 3) of the image's own size when asked for."""

    def read(self, path: Path) -> NDArray[Any]:
        """Return the image in the file at ``path``."""
        return read_image(path)


@data_set("folder")
def folder(folder: Path | None) -> Source:
    """Return the images below ``train/CLASS/``, and of ``val/CLASS/`` (where there is none, ``test/CLASS/``) to test.

    Classes are numbered by their folders' names in alphabetical order. Colours are normalised by ImageNet's figures.
    """
    if folder is None:
        raise FileNotFoundError(f"No folder of data was said (--data-folder DATA or SBP_DATA). It has {_LAYOUT}.")
    if not (folder / "train").is_dir():
        raise FileNotFoundError(f"There is no {folder / 'train'}. A data set of your own images has {_LAYOUT}.")
    return _source("folder", folder)


@data_set("imagenet")
def imagenet(folder: Path | None) -> Source:
    """Return ImageNet's 1.28 million images in 1,000 classes to train on, 50,000 to test."""
    for place in IMAGENET.places(folder):
        if (place / "train").is_dir():
            source = _source("imagenet", place)
            if source.num_classes != 1000:
                raise damaged(
                    place / "train", "its folders", f"{source.num_classes} of them", "ImageNet's 1,000 classes"
                )
            return replace(source, size=_USUAL)
    raise IMAGENET.missing(folder)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image in the file at ``path`` in red, green and blue: uint8 (height, width, 3).

    Raises:
        ValueError: the file is no image, or a damaged one, or has more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > _PIXELS_AT_MOST:
                found = f"{image.width} x {image.height} pixels"
                raise damaged(path, "its header", found, f"at most {_PIXELS_AT_MOST // 1_000_000} million")
            if image.mode.startswith(("I", "F")):
                raise damaged(path, "its header", f"mode {image.mode}", "at most 8 bits a channel")
            return np.array(image.convert("RGB"))
    except (FileNotFoundError, PermissionError):
        raise
    # Pillow's decoders raise nearly anything on damaged files: OSError, SyntaxError, struct.error, IndexError...
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        size = path.stat().st_size
        raise damaged(path, f"somewhere in its {size} bytes", f"a broken image ({error})", "a whole image") from error


def _source(name: str, place: Path) -> Source:
    classes = _classes(place / "train")
    test = next((place / part for part in ("val", "test") if (place / part).is_dir()), None)
    if test is None:
        raise FileNotFoundError(f"{place} has train/ but neither val/ nor test/; it should have {_LAYOUT}")
    strange = sorted(set(_classes(test)) - set(classes))
    if strange:
        raise damaged(test / strange[0], "its name", "a class that train/ has not", "the classes of train/")
    train = _split(place / "train", classes)
    return Source(
        name=name,
        train=train,
        test=_split(test, classes),
        class_names=classes,
        size=_size(train),
        channels=3,
        published=IMAGENET_FIGURES,
    )


def _classes(part: Path) -> tuple[str, ...]:
    with os.scandir(part) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise FileNotFoundError(f"{part} holds no folder of a class; there should be {_LAYOUT}")
    return tuple(names)


def _split(part: Path, classes: tuple[str, ...]) -> FolderSplit:
    files, labels = [], []
    for label, name in enumerate(classes):
        found = _images_below(part, name) if (part / name).is_dir() else []
        if not found and part.name == "train":
            raise FileNotFoundError(f"{part / name} holds no image ({' '.join(ENDINGS)})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise FileNotFoundError(f"{part} holds no image ({' '.join(ENDINGS)})")
    return FolderSplit(part, tuple(files), np.array(labels, np.int64))


def _images_below(part: Path, name: str) -> list[str]:
    found = []
    for folder, _, files in os.walk(part / name, onerror=_raise):
        below = Path(folder).relative_to(part).as_posix()
        found += [f"{below}/{file}" for file in files if file.lower().endswith(ENDINGS) and not file.startswith(".")]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _size(train: FolderSplit) -> tuple[int, int]:
    """Return the size that the first image of every class has, the field's 224 x 224 where they differ."""
    from PIL import Image

    firsts = np.flatnonzero(np.diff(train.labels, prepend=-1))
    sizes = set()
    for first in firsts:
        path = train.folder / train.files[first]
        try:
            with Image.open(path) as image:
                sizes.add((image.height, image.width))
        except Exception as error:
            raise damaged(path, "its header", f"a broken image ({error})", "an image") from error
        if len(sizes) > 1:
            return _USUAL
    return sizes.pop()
