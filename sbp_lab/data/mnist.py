"""MNIST, and Fashion-MNIST in the same format: 70,000 grey images of 28 x 28 in 10 classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbp_lab.data.files import Published, damaged
from sbp_lab.data.idx import read_idx
from sbp_lab.data.registry import data_set
from sbp_lab.data.source import ArraySplit, Source, Split

_LAYOUT = (
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz "
    "(unpacked, without .gz, is as good)"
)
#: Images of a class to train on and to test, in what is there for a quick trial.
PART = (200, 50)
MNIST = Published(
    title="MNIST",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    size="four files, 11 MB, 55 MB in memory",
    folders=("mnist", "MNIST", "MNIST/raw"),
    layout=_LAYOUT,
)
FASHION = Published(
    title="Fashion-MNIST",
    url="https://github.com/zalandoresearch/fashion-mnist (its folder data/fashion)",
    size="four files, 30 MB, 55 MB in memory",
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw"),
    layout=_LAYOUT,
)


@data_set("mnist")
def mnist(folder: Path | None) -> Source:
    """Return MNIST's handwritten digits: 60,000 images to train on, 10,000 to test."""
    return _open("mnist", MNIST, tuple("0123456789"), folder)


@data_set("fashion_mnist")
def fashion_mnist(folder: Path | None) -> Source:
    """Return Fashion-MNIST's pictures of clothes: 60,000 images to train on, 10,000 to test."""
    names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    return _open("fashion_mnist", FASHION, names, folder)


@data_set("fashion_mnist_part")
def fashion_mnist_part(folder: Path | None) -> Source:
    """Return the first images of each class of Fashion-MNIST, 200 to train on and 50 to test: for a quick trial."""
    whole = fashion_mnist(folder)
    return replace(whole, train=_first(whole.train, PART[0]), test=_first(whole.test, PART[1]))


def _open(name: str, published: Published, names: tuple[str, ...], folder: Path | None) -> Source:
    for place in published.places(folder):
        if any(_find(place, part, kind) for part in ("train", "t10k") for kind in ("images", "labels")):
            return Source(
                name=name,
                train=_split(place, "train", published, len(names)),
                test=_split(place, "t10k", published, len(names)),
                class_names=names,
                size=(28, 28),
            )
    raise published.missing(folder)


def _split(place: Path, part: str, published: Published, classes: int) -> ArraySplit:
    paths = [_find(place, part, kind) for kind in ("images", "labels")]
    for kind, path in zip(("images", "labels"), paths, strict=True):
        if path is None:
            raise FileNotFoundError(
                f"{place / _names(part, kind)[0]}.gz is missing: {published.title} is {published.layout}; "
                f"get it from {published.url} ({published.size})"
            )
    images_path, labels_path = (path for path in paths if path is not None)
    images, labels = read_idx(images_path, 28, 28), read_idx(labels_path)
    if len(images) != len(labels):
        raise damaged(
            labels_path,
            "byte 4",
            f"a count of {len(labels)}",
            f"{len(images)}, one label for each image of {images_path.name}",
        )
    _check_labels(labels_path, labels, classes)
    return ArraySplit(images[..., None], labels)


def _first(split: Split, count: int) -> ArraySplit:
    """Return the first samples of each class, in their order."""
    labels = split.labels
    places = np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))
    return ArraySplit(np.stack([np.asarray(split[place]) for place in places]), labels[places])


def _check_labels(path: Path, labels: NDArray[np.uint8], classes: int) -> None:
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        record = int(wrong[0])
        place = f"byte {8 + record}, record {record}"
        raise damaged(path, place, f"label {labels[record]}", f"a label of 0 .. {classes - 1}")


def _names(part: str, kind: str) -> tuple[str, str]:
    axes = 3 if kind == "images" else 1
    # the second is how some copies of the files are called
    return f"{part}-{kind}-idx{axes}-ubyte", f"{part}-{kind}.idx{axes}-ubyte"


def _find(place: Path, part: str, kind: str) -> Path | None:
    candidates = (place / f"{name}{ending}" for name in _names(part, kind) for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)
