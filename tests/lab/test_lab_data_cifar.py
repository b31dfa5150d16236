"""CIFAR's two versions, written here to the authors' page: https://www.cs.toronto.edu/~kriz/cifar.html."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.data import open_data

CLASSES = {"cifar10": 10, "cifar100": 100}
REAL_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
    "cifar100": ("cifar-100-python", "cifar-100-binary"),
}
BATCHES = {
    "cifar10": {**{f"data_batch_{k}": 4 for k in range(1, 6)}, "test_batch": 4},
    "cifar100": {"train": 20, "test": 4},
}


def draw(name):
    """Return {file: (rows of 3,072 bytes, labels, coarse labels)} of a small data set."""
    rng = np.random.default_rng(len(name))
    return {
        stem: (
            rng.integers(0, 256, (count, 3072), np.uint8),
            rng.integers(0, CLASSES[name], count).tolist(),
            rng.integers(0, 20, count).tolist(),
        )
        for stem, count in BATCHES[name].items()
    }


def class_names(name):
    return [f"class{k}" for k in range(CLASSES[name])]


def python2_pickle(value):
    """Pickle as Python 2's cPickle did for the authors: text of bytes, arrays by numpy.core.multiarray."""
    if isinstance(value, dict):
        return b"}(" + b"".join(python2_pickle(k) + python2_pickle(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2_pickle, value)) + b"e"
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode("latin-1")
    count, width = value.shape
    empty = b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\nq\x02(K\x00tU\x01btRq\x03"
    dtype = b"cnumpy\ndtype\nq\x04(U\x02u1K\x00K\x01tRq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + python2_pickle(count) + python2_pickle(width) + b"t"
    content = value.tobytes()
    return empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"


def python_files(name, folder, dump=lambda value: b"\x80\x02" + python2_pickle(value) + b"."):
    folder.mkdir(parents=True)
    fine = "labels" if name == "cifar10" else "fine_labels"
    for stem, (rows, labels, coarse) in draw(name).items():
        batch = {"batch_label": stem, fine: labels, "data": rows, "filenames": [f"{k}.png" for k in range(len(rows))]}
        (folder / stem).write_bytes(dump(batch | ({} if name == "cifar10" else {"coarse_labels": coarse})))
    meta, key = ("batches.meta", "label_names") if name == "cifar10" else ("meta", "fine_label_names")
    (folder / meta).write_bytes(dump({key: class_names(name), "num_vis": 3072}))


def binary_files(name, folder):
    folder.mkdir(parents=True)
    for stem, (rows, labels, coarse) in draw(name).items():
        with (folder / f"{stem}.bin").open("wb") as file:
            for row, label, group in zip(rows, labels, coarse, strict=True):
                file.write(bytes([label] if name == "cifar10" else [group, label]) + row.tobytes())
    names = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
    (folder / names).write_text("\n".join(class_names(name)) + "\n\n")


def with_bytes_for_text(value):
    """Return ``value`` with bytes for text, as Python 3 reads the authors' files and might write them again."""
    if isinstance(value, dict):
        return {with_bytes_for_text(k): with_bytes_for_text(v) for k, v in value.items()}
    if isinstance(value, list):
        return list(map(with_bytes_for_text, value))
    return value.encode() if isinstance(value, str) else value


WRITERS = {
    "python 2": python_files,
    "python 3, protocol 2": lambda n, f: python_files(n, f, lambda v: pickle.dumps(with_bytes_for_text(v), 2)),
    "python 3, protocol 4": lambda n, f: python_files(n, f, lambda v: pickle.dumps(v, 4)),
    "python 3, protocol 5": lambda n, f: python_files(n, f, lambda v: pickle.dumps(v, 5)),
    "binary": binary_files,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", CLASSES)
def test_every_pixel_and_label_is_where_the_format_says(name, writer, tmp_path):
    WRITERS[writer](name, tmp_path / FOLDERS[name][writer == "binary"])
    source = open_data(name, tmp_path)
    files = draw(name)
    *train, test = files
    expected_train = [(row, label) for stem in train for row, label in zip(*files[stem][:2], strict=True)]
    for split, expected in ((source.train, expected_train), (source.test, list(zip(*files[test][:2], strict=True)))):
        assert len(split) == len(expected)
        for index, (row, label) in enumerate(expected):
            image = split[index]
            assert image.shape == (32, 32, 3)
            assert image.dtype == np.uint8
            # the page: 1,024 red, then green, then blue entries, row by row
            for y, x, colour in ((0, 0, 0), (0, 31, 1), (31, 0, 2), (7, 19, 1)):
                assert image[y, x, colour] == row[1024 * colour + 32 * y + x]
            assert split.labels[index] == label
    assert source.class_names == tuple(class_names(name))
    assert (source.name, source.num_classes, source.size, source.channels) == (name, CLASSES[name], (32, 32), 3)


@pytest.mark.parametrize("name", CLASSES)
def test_both_versions_are_the_same_data_with_the_same_checksum(name, tmp_path):
    python_files(name, tmp_path / "one" / FOLDERS[name][0])
    binary_files(name, tmp_path / "two" / FOLDERS[name][1])
    one, two = open_data(name, tmp_path / "one"), open_data(name, tmp_path / "two")
    assert one.checksum == two.checksum
    changed = tmp_path / "two" / FOLDERS[name][1] / f"{next(iter(BATCHES[name]))}.bin"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert open_data(name, tmp_path / "two").checksum != one.checksum


def test_the_folder_itself_may_be_given_and_a_place_below_it_named(tmp_path):
    binary_files("cifar10", tmp_path / "elsewhere")
    assert open_data("cifar10", tmp_path / "elsewhere").checksum == open_data("cifar10/elsewhere", tmp_path).checksum


def test_missing_files_are_answered_with_where_to_get_them_and_how_to_lay_them_out(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_data("cifar10", tmp_path)
    for words in (
        "cifar-10-python.tar.gz",
        "163 MB",
        str(tmp_path / "cifar-10-batches-py"),
        "data_batch_1",
        "test_batch",
    ):
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match="no folder of data was said"):
        open_data("cifar100")
    (tmp_path / "cifar-100-python.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"still packed: cd .* && tar -xf cifar-100-python\.tar\.gz"):
        open_data("cifar100", tmp_path)


@pytest.mark.parametrize("gone", ["data_batch_3", "batches.meta", "test_batch"])
def test_one_missing_file_is_named(gone, tmp_path):
    python_files("cifar10", tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / gone).unlink()
    with pytest.raises(FileNotFoundError, match=f"{gone} is missing.*163 MB"):
        open_data("cifar10", tmp_path)


def damage(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        (
            "cifar10",
            "data_batch_2.bin",
            lambda b: b[:-1],
            r"byte 12291, record 3: expected records of 3073 bytes each, found the end",
        ),
        ("cifar10", "data_batch_2.bin", lambda b: b[: 3 * 3073], r"byte 9219, record 3: expected 4 images"),
        ("cifar10", "test_batch.bin", lambda b: b[: 3 * 3073], r"record 3: expected 4 images"),
        ("cifar10", "data_batch_5.bin", lambda b: b + b[:3073], r"byte 15365, record 5: expected 4 images"),
        ("cifar10", "data_batch_4.bin", lambda b: b"", r"byte 0, record 0: expected records .* found an empty file"),
        (
            "cifar10",
            "data_batch_1.bin",
            lambda b: b[:3073] + b"\x0a" + b[3074:],
            r"byte 3073, record 1: expected a label of 0 \.\. 9, found label 10",
        ),
        ("cifar10", "batches.meta.txt", lambda b: b[:-8], r"expected 10 names of classes"),
        ("cifar100", "train.bin", lambda b: b[: 19 * 3074], r"record 19: expected 20 images"),
        ("cifar100", "test.bin", lambda b: b[: 3 * 3074], r"record 3: expected 4 images"),
        (
            "cifar100",
            "test.bin",
            lambda b: b[:3074] + b"\x14" + b[3075:],
            r"byte 3074, record 1: expected a label of 0 \.\. 19, found coarse label 20",
        ),
        (
            "cifar100",
            "test.bin",
            lambda b: b[:3075] + b"\x64" + b[3076:],
            r"byte 3075, record 1: expected a label of 0 \.\. 99, found fine label 100",
        ),
    ],
)
def test_a_damaged_binary_file_is_named_with_the_place(name, file, change, message, tmp_path):
    folder = tmp_path / FOLDERS[name][1]
    binary_files(name, folder)
    damage(folder / file, change)
    with pytest.raises(ValueError, match=message) as error:
        open_data(name, tmp_path)
    assert str(error.value).startswith(str(folder / file))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_cut_anywhere_is_named_and_nothing_of_it_is_used(writer, tmp_path):
    folder = tmp_path / FOLDERS["cifar10"][writer == "binary"]
    WRITERS[writer]("cifar10", folder)
    for path in sorted(folder.glob("*batch*2*")) + sorted(folder.glob("*.meta*")):
        whole = path.read_bytes()
        # the text of names ends in two ends of line, of which one is enough
        for length in range(0, len(whole) - 1, max(1, len(whole) // 25)):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=path.name):
                open_data("cifar10", tmp_path)
        path.write_bytes(whole)


def test_a_batch_that_is_a_copy_of_another_is_found(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    binary_files("cifar10", folder)
    (folder / "test_batch.bin").write_bytes((folder / "data_batch_2.bin").read_bytes())
    with pytest.raises(ValueError, match=r"test_batch\.bin.* found the same images as in data_batch_2\.bin"):
        open_data("cifar10", tmp_path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_asks_for_a_function_is_refused_and_not_run(protocol, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    python_files("cifar10", folder)
    content = pickle.dumps({"data": Evil(tmp_path / "touched")}, protocol)
    (folder / "data_batch_4").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"data_batch_4, byte \d+: expected plain data, found the function .*not called"
    ):
        open_data("cifar10", tmp_path)
    assert not (tmp_path / "touched").exists()
    pickle.loads(content)
    assert (tmp_path / "touched").exists(), "the file was harmless, so the test says nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1, 2]}, r"key 'labels': expected a list of 4 labels, one an image, found 3 labels"),
        ({"labels": [0, 1, 2, 10]}, r"key 'labels', record 3: expected a label of 0 \.\. 9, found label 10"),
        ({"labels": [0, 1, 2, -1]}, r"record 3: .*found label -1"),
        ({"labels": [0, 1, "2", 3]}, r"record 2: .*found str"),
        ({"labels": [0, True, 2, 3]}, r"record 1: .*found bool"),
        ({"labels": None}, r"found nothing"),
        ({"data": np.zeros((4, 3071), np.uint8)}, r"key 'data': .*found shape \(4, 3071\) of uint8"),
        ({"data": np.zeros((4, 3072), np.int8)}, r"key 'data': .*of int8"),
        ({"data": [1, 2]}, r"key 'data': .*found list"),
    ],
)
def test_a_python_batch_that_does_not_fit_is_named_with_the_place(change, message, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    python_files("cifar10", folder)
    rows, labels, _ = draw("cifar10")["data_batch_1"]
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": rows, "labels": labels} | change, 2))
    with pytest.raises(ValueError, match=message) as error:
        open_data("cifar10", tmp_path)
    assert str(folder / "data_batch_1") in str(error.value)


def real(*folders):
    data = os.environ.get("SBP_DATA")
    if not data:
        pytest.skip(f"SBP_DATA is not set: it is the folder with {' and '.join(folders)}")
    lacking = [folder for folder in folders if not (Path(data) / folder).is_dir()]
    if lacking:
        pytest.skip(f"{data} (SBP_DATA) has no {' and no '.join(lacking)}")
    return Path(data)


def test_the_real_files_of_both_versions_hold_the_same_images():
    data = real(*FOLDERS["cifar10"])
    python, binary = (open_data(f"cifar10/{folder}", data) for folder in FOLDERS["cifar10"])
    assert python.checksum == binary.checksum
    assert python.class_names == binary.class_names == REAL_NAMES
    # the published figures, of all 50,000 images, in levels of 0 .. 1: a part's are near
    np.testing.assert_allclose(python.mean, 255 * np.array([0.4914, 0.4822, 0.4465]), rtol=0.02)
    np.testing.assert_allclose(python.deviation, 255 * np.array([0.2470, 0.2435, 0.2616]), rtol=0.02)


def test_the_real_python_files_read_as_pickle_reads_them():
    data = real("cifar-10-batches-py")
    with (data / "cifar-10-batches-py" / "data_batch_1").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    source = open_data("cifar10/cifar-10-batches-py", data)
    for index in (0, 1, len(batch[b"labels"]) - 1):
        image = batch[b"data"][index].reshape(3, 32, 32)
        np.testing.assert_array_equal(source.train[index], np.stack(list(image), -1))
        assert source.train.labels[index] == batch[b"labels"][index]
