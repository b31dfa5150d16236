"""idx files, written here to the format's description on MNIST's page: big-endian magic, sides, then bytes."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.data import mnist, open_data

STEMS = {"train": 7, "t10k": 3}


def draw(part):
    rng = np.random.default_rng(STEMS[part])
    return rng.integers(0, 256, (STEMS[part], 28, 28), np.uint8), rng.integers(0, 10, STEMS[part], np.uint8)


def contents(part, copies=1):
    images, labels = (np.concatenate([drawn] * copies) for drawn in draw(part))
    return {
        f"{part}-images-idx3-ubyte": struct.pack(">4I", 2051, len(images), 28, 28) + images.tobytes(),
        f"{part}-labels-idx1-ubyte": struct.pack(">2I", 2049, len(labels)) + labels.tobytes(),
    }


def write(folder, packed=False, rename=lambda name: name, copies=1):
    folder.mkdir(parents=True)
    for part in STEMS:
        for name, content in contents(part, copies).items():
            path = folder / (rename(name) + ".gz" * packed)
            path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize(
    ("name", "folder", "packed", "rename"),
    [
        ("mnist", "mnist", True, str),
        ("mnist", "MNIST/raw", False, str),
        ("mnist", ".", False, lambda name: name.replace("-idx", ".idx")),
        ("fashion_mnist", "fashion-mnist", True, str),
        ("fashion_mnist", "FashionMNIST/raw", False, str),
        # what a browser unpacked by itself, under its old name
        ("mnist", "mnist", False, lambda name: name + ".gz"),
    ],
)
def test_every_pixel_and_label_is_read_from_where_people_have_the_files(name, folder, packed, rename, tmp_path):
    write(tmp_path / "data" / folder, packed, rename)
    source = open_data(name, tmp_path / "data")
    for part, split in (("train", source.train), ("t10k", source.test)):
        images, labels = draw(part)
        np.testing.assert_array_equal(np.stack([split[index] for index in range(len(split))]), images[..., None])
        np.testing.assert_array_equal(split.labels, labels)
    assert (source.size, source.channels, source.num_classes) == ((28, 28), 1, 10)


def test_a_part_of_fashion_mnist_is_the_first_of_each_class_in_their_order(tmp_path, monkeypatch):
    write(tmp_path / "fashion-mnist", copies=2)
    monkeypatch.setattr(mnist, "PART", (1, 2))
    source = open_data("fashion_mnist_part", tmp_path)
    for part, split, count in (("train", source.train, 1), ("t10k", source.test, 2)):
        images, labels = (np.concatenate([drawn, drawn]) for drawn in draw(part))
        kept = [place for place, label in enumerate(labels) if list(labels[:place]).count(label) < count]
        assert len(kept) == sum(min(count, each) for each in np.bincount(labels))
        np.testing.assert_array_equal(split.images, images[kept][..., None])
        np.testing.assert_array_equal(split.labels, labels[kept])


def test_packed_or_not_the_checksum_is_the_same(tmp_path):
    write(tmp_path / "one" / "mnist", packed=True)
    write(tmp_path / "two" / "mnist")
    assert open_data("mnist", tmp_path / "one").checksum == open_data("mnist", tmp_path / "two").checksum


def test_missing_files_are_answered_with_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"zalandoresearch/fashion-mnist .*30 MB.*train-images-idx3-ubyte\.gz"):
        open_data("fashion_mnist", tmp_path)
    write(tmp_path / "mnist", packed=True)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte\.gz is missing.*ossci-datasets"):
        open_data("mnist", tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "train-images-idx3",
            lambda b: b[:-1],
            r"byte 5503( unpacked)?, record 6: .*7 records of 784 bytes.*found the end",
        ),
        ("train-images-idx3", lambda b: b + b"\0", r"byte 5504( unpacked)?, record 7: .*found more bytes"),
        ("train-images-idx3", lambda b: b[:9], r"byte 9: expected a header of 16 bytes, found the end"),
        ("train-images-idx3", lambda b: b"", r"byte 0: .*found 0 bytes"),
        ("train-images-idx3", lambda b: b"\0\0\x09" + b[3:], r"byte 0: expected 0x00000803.*found 0x00000903"),
        (
            "train-images-idx3",
            lambda b: b[:11] + b"\x1d" + b[12:],
            r"byte 8: expected images of 28 x 28, found .*29 x 28",
        ),
        ("train-images-idx3", lambda b: b[:4] + b"\xff" * 4 + b[8:], r"4294967295 records"),
        ("train-images-idx3", lambda b: b[:4] + bytes(4) + b[8:], r"byte 4: .*found a count of 0"),
        (
            "train-labels-idx1",
            lambda b: b[:7] + b"\x06" + b[8:-1],
            r"byte 4: expected 7, one label for each image of train-images",
        ),
        (
            "train-labels-idx1",
            lambda b: b[:9] + b"\x0a" + b[10:],
            r"byte 9, record 1: expected a label of 0 \.\. 9, found label 10",
        ),
        # one of the other's: mislabelled
        (
            "train-labels-idx1",
            lambda b: contents("train")["train-images-idx3-ubyte"],
            r"byte 0: expected 0x00000801.*found 0x00000803",
        ),
        ("t10k-labels-idx1", lambda b: contents("train")["train-labels-idx1-ubyte"], r"byte 4: expected 3"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
# read by pieces: larger than the files, and such that one ends where the file does
@pytest.mark.parametrize("piece", [1 << 20, 784])
def test_a_damaged_file_is_named_with_the_place(file, change, message, packed, piece, tmp_path, monkeypatch):
    monkeypatch.setattr("sbp_lab.data.idx._CHUNK", piece)
    write(tmp_path / "mnist")
    path = tmp_path / "mnist" / f"{file}-ubyte"
    content = change(path.read_bytes())
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=message) as error:
        open_data("mnist", tmp_path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-1],
        lambda b: b[: len(b) // 2],
        lambda b: b[:10],
        lambda b: b[:40] + bytes(9) + b[49:],
        lambda b: b + b"x",
    ],
)
def test_broken_gzip_is_named(change, tmp_path):
    write(tmp_path / "mnist", packed=True)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz, byte \d+ at the latest: expected gzip"):
        open_data("mnist", tmp_path)


def test_the_real_files_are_read():
    data = os.environ.get("SBP_DATA")
    if not data or not (Path(data) / "fashion-mnist").is_dir():
        pytest.skip("SBP_DATA is not set, or its folder has no fashion-mnist")
    source = open_data("fashion_mnist", data)
    with gzip.open(Path(data) / "fashion-mnist" / "t10k-images-idx3-ubyte.gz") as file:
        content = file.read()
    assert len(source.test) == 10_000
    assert bytes(source.test[9_999].ravel()) == content[-784:]
    np.testing.assert_array_equal(np.bincount(source.test.labels), [1000] * 10)
    # the published figures, in levels of 0 .. 1: a part's are near
    np.testing.assert_allclose((source.mean, source.deviation), 255 * np.array([[0.2860], [0.3530]]), rtol=0.01)
