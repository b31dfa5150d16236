"""The plug-in for Tonic's data sets, against a module that behaves as Tonic does; Tonic itself is nowhere needed."""

import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from sbp_lab.data import open_data
from sbp_lab.events import Events

DTYPE = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])


class Dataset:
    """As in Tonic: files lie in a folder of the class's name, and what is not there is downloaded."""

    sensor_size = (9, 5, 2)
    downloads = 0

    def __init__(self, save_to, train=True):
        folder = Path(save_to, type(self).__name__)
        if not folder.is_dir():
            self.download()
        self.files = sorted(folder.glob("train*" if train else "test*"))
        self.targets = [file.stem.partition("_")[2] for file in self.files]

    def download(self):
        Dataset.downloads += 1

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        rows = [tuple(map(int, row.split())) for row in self.files[index].read_text().splitlines()]
        return np.array(rows, DTYPE), self.targets[index]


class Splits(Dataset):
    pass


class Sizeless(Dataset):
    sensor_size = None


class Whole(Dataset):
    def __init__(self, save_to):
        super().__init__(save_to)


@pytest.fixture
def data(tmp_path, monkeypatch):
    datasets = types.ModuleType("tonic.datasets")
    datasets.Splits, datasets.Sizeless, datasets.Whole, datasets.number = Splits, Sizeless, Whole, 3
    monkeypatch.setitem(sys.modules, "tonic", types.ModuleType("tonic"))
    monkeypatch.setitem(sys.modules, "tonic.datasets", datasets)
    for name in ("Splits", "Sizeless", "Whole"):
        (tmp_path / name).mkdir()
        for file in ("train0_cat", "train1_dog", "train2_cat", "test0_dog", "test1_cat"):
            # x, y, t, p; a time goes back
            (tmp_path / name / f"{file}.txt").write_text(f"8 4 20 1\n{ord(file[-5]) % 9} 1 10 0\n3 2 20 0\n")
    return tmp_path


def test_a_data_set_of_tonics_has_its_splits_classes_and_events_in_order(data):
    source = open_data("tonic/Splits", data)
    assert (source.name, source.class_names, source.size) == ("tonic/Splits", ("cat", "dog"), (5, 9))
    assert source.train.labels.tolist() == [0, 1, 0]
    assert source.test.labels.tolist() == [1, 0]
    first = ord("0") % 9
    assert source.train[0] == Events(t=[10, 20, 20], x=[first, 8, 3], y=[1, 4, 2], p=[0, 1, 0], size=(5, 9))
    assert source.train[-1] == source.train[2]
    with pytest.raises(IndexError):
        source.train[3]
    copy = pickle.loads(pickle.dumps(source.train))
    assert copy[1] == source.train[1]
    assert copy.digest() == source.train.digest() != source.test.digest()


def test_nothing_is_downloaded_where_files_are_missing(data):
    (data / "Splits").rename(data / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"sbp downloads nothing; .*tonic.datasets.Splits\(save_to="):
        open_data("tonic/Splits", data)
    assert Dataset.downloads == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tonic/Sizeless", "'tonic/Sizeless' must be of one sensor's size"),
        ("tonic/Whole", "'tonic/Whole' must have a split to train on and one to test"),
        ("tonic/Nothing", "tonic.datasets has no Nothing"),
        ("tonic/number", "tonic.datasets has no number"),
        ("tonic/a-b", "must be said with the class's name"),
    ],
)
def test_what_is_no_data_set_of_recordings_with_two_splits_is_refused(data, name, message):
    with pytest.raises(ValueError, match=message):
        open_data(name, data)


def test_splits_of_other_classes_or_without_a_recording_are_refused(data):
    for file in (data / "Splits").glob("test?_dog.txt"):
        file.unlink()
    with pytest.raises(ValueError, match="expected the same classes to train on and to test, found 'dog' in one"):
        open_data("tonic/Splits", data)
    (data / "Splits" / "test1_cat.txt").unlink()
    with pytest.raises(ValueError, match="expected recordings to test, found none"):
        open_data("tonic/Splits", data)


def test_without_tonic_all_else_works_and_its_data_sets_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    monkeypatch.setitem(sys.modules, "tonic.datasets", None)
    with pytest.raises(ValueError, match=r"needs Tonic, which is not installed \(it is under the GPL\)"):
        open_data("tonic/NMNIST", tmp_path)


def test_tonic_is_not_imported_with_sbp():
    code = "import sys, sbp_lab.data, sbp_lab.events; sys.exit('tonic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
