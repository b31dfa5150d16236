import pickle
import sys

import numpy as np
import pytest

from sbp_lab.data import ArraySplit, FileSplit, Source, open_data
from sbp_lab.data.registry import DATASETS, data_set


def test_the_digits_are_scikit_learns_own_images_split_once_and_for_all():
    from sklearn.datasets import load_digits

    first, second = open_data("digits"), open_data("digits")
    assert first.checksum == second.checksum
    source, labels = load_digits(return_X_y=True)
    both = np.concatenate([first.train.images, first.test.images]).reshape(len(source), 64)
    given = sorted(map(tuple, np.column_stack([both, np.concatenate([first.train.labels, first.test.labels])])))
    assert given == sorted(map(tuple, np.column_stack([source, labels])))


def test_the_digits_are_split_as_they_always_were():
    # of the released version: results on digits stay comparable
    digits = open_data("digits")
    np.testing.assert_array_equal(digits.test.labels[:10], [7, 6, 3, 7, 7, 3, 2, 8, 9, 3])
    np.testing.assert_array_equal(digits.train.labels[:10], [3, 9, 1, 3, 1, 9, 4, 4, 2, 8])


def test_every_class_has_its_share_of_both_parts():
    digits = open_data("digits")
    train = np.bincount(digits.train.labels, minlength=10) / len(digits.train)
    test = np.bincount(digits.test.labels, minlength=10) / len(digits.test)
    np.testing.assert_allclose(train, test, atol=2 / 360)


class Stored(FileSplit):
    """Files of raw bytes: images of 2 x 2 x 3."""

    def read(self, path):
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(2, 2, 3)


def images(count=9, dtype=np.uint8):
    return np.random.default_rng(count).integers(0, 256, (count, 2, 2, 3)).astype(dtype)


def stored(folder, pictures):
    for index, picture in enumerate(pictures):
        (folder / f"{index}").write_bytes(picture.tobytes())
    return Stored(folder, tuple(map(str, range(len(pictures)))), np.zeros(len(pictures), np.int64))


def test_figures_are_those_of_all_training_pixels_channel_by_channel(tmp_path):
    pixels = images(600)  # more than are taken at once
    expected = pixels.astype(np.float64).reshape(-1, 3)
    labels = np.zeros(len(pixels), np.int64)
    for split in (ArraySplit(pixels, labels), ArraySplit(pixels.astype(np.float32), labels), stored(tmp_path, pixels)):
        source = Source(name="x", train=split, test=split, class_names=("a",), size=(2, 2), channels=3)
        np.testing.assert_allclose(source.mean, expected.mean(0), rtol=1e-12)
        np.testing.assert_allclose(source.deviation, expected.std(0), rtol=1e-12)


def test_a_checksum_follows_every_pixel_every_label_the_shape_and_which_split_is_which():
    pixels, labels = images(), np.arange(9) % 2
    other_pixel, other_label = pixels.copy(), labels.copy()
    other_pixel[8, 1, 1, 2] ^= 1
    other_label[8] ^= 1

    def checksum(train, test):
        return Source(name="x", train=train, test=test, class_names=("a", "b"), size=(2, 2), channels=3).checksum

    one, two = ArraySplit(pixels, labels), ArraySplit(images(4), labels[:4])
    wide = ArraySplit(pixels.reshape(9, 1, 4, 3), labels)
    sums = [checksum(one, two), checksum(ArraySplit(pixels.copy(), labels.astype(np.uint8)), two)]
    assert sums[0] == sums[1]
    changed = [(ArraySplit(other_pixel, labels), two), (ArraySplit(pixels, other_label), two), (wide, two), (two, one)]
    assert len({sums[0], *(checksum(*splits) for splits in changed)}) == 5


def test_the_layout_in_memory_does_not_move_a_checksum():
    pixels, labels = images(), np.zeros(9, np.int64)
    turned = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert not turned.flags.c_contiguous
    assert ArraySplit(pixels, labels).digest() == ArraySplit(turned, labels).digest()


def test_samples_cannot_be_written_to_and_the_callers_arrays_stay_as_they_were():
    pixels, labels = images(), np.zeros(9, np.int64)
    for split in (ArraySplit(pixels, labels), pickle.loads(pickle.dumps(ArraySplit(pixels, labels)))):
        for array in (split[0], split.images, split.labels):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
    pixels[0], labels[0] = 0, 1


def test_places_count_from_either_end_and_none_lies_beyond(tmp_path):
    pixels = images()
    for split in (ArraySplit(pixels, np.zeros(9, np.int64)), stored(tmp_path, pixels)):
        np.testing.assert_array_equal(split[-1], pixels[8])
        np.testing.assert_array_equal(split[np.int64(3)], pixels[3])
        for index in (9, -10):
            with pytest.raises(IndexError, match=f"no sample {index} of 9"):
                split[index]


def test_files_are_read_when_asked_for_and_pickled_as_names(tmp_path):
    split = stored(tmp_path, images())
    (tmp_path / "3").write_bytes(bytes(range(12)))
    assert split[3].ravel().tolist() == list(range(12))
    assert pickle.loads(pickle.dumps(split))[3].ravel().tolist() == list(range(12))


def test_of_very_many_files_the_checksum_takes_names_and_lengths(tmp_path, monkeypatch):
    split = stored(tmp_path, images())
    whole = split.digest()
    (tmp_path / "3").write_bytes(bytes(12))
    assert split.digest() != whole
    monkeypatch.setattr("sbp_lab.data.source._READ_AT_MOST", 9 * 12 - 1)
    light = split.digest()
    (tmp_path / "3").write_bytes(bytes(range(12)))
    assert split.digest() == light != whole
    (tmp_path / "3").write_bytes(bytes(13))
    assert split.digest() != light


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ArraySplit(np.zeros((2, 8, 8), np.uint8), np.zeros(2, int)),
            r"images must be .*got \(2, 8, 8\) of uint8",
        ),
        (lambda: ArraySplit(np.zeros((2, 8, 8, 1)), np.zeros(2, int)), r"of uint8 or float32, got .*float64"),
        (
            lambda: ArraySplit(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, int)),
            r"labels must be integers of shape \(2,\)",
        ),
        (lambda: ArraySplit(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2)), r"labels must be integers .*float64"),
        (lambda: Stored("x", ("a", "b"), np.zeros(3, int)), r"labels must be one a file, \(2,\), got \(3,\)"),
        (lambda: toy(labels=[0, 2]), r"toy: labels of train must lie in 0 \.\. 1, got 2 in sample 1"),
        (lambda: toy(labels=[0, -1]), r"got -1 in sample 1"),
        (lambda: toy(labels=[]), r"toy: train holds no sample"),
        (lambda: toy(class_names=()), r"class_names must not be empty"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def toy(labels=(0, 1), class_names=("a", "b")):
    def split(labels):
        return ArraySplit(np.zeros((len(labels), 2, 2, 1), np.uint8), np.array(labels, np.int64))

    return Source(name="toy", train=split(labels), test=split([0]), class_names=class_names, size=(2, 2))


def test_an_unknown_data_set_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match=r"data must be one of 'cifar10', .*got 'cifr10'; did you mean 'cifar10'\?"):
        open_data("cifr10")
    with pytest.raises(ValueError, match="lies in a folder of data, and none was said"):
        open_data("folder/flowers")


def test_a_data_set_of_ones_own_is_one_function(tmp_path, monkeypatch):
    (tmp_path / "my_birds.py").write_text(
        "import numpy as np\n"
        "from sbp_lab.data import ArraySplit, Source, data_set\n\n"
        "@data_set('my_birds')\n"
        "def birds(folder):\n"
        "    split = ArraySplit(np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]))\n"
        "    return Source(name='birds', train=split, test=split, class_names=('owl', str(folder)), size=(4, 4))\n\n"
        "def nothing(folder):\n"
        "    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert open_data("my_birds:birds", "somewhere").class_names == ("owl", "somewhere")
        assert open_data("my_birds").class_names == ("owl", "None")
        with pytest.raises(TypeError, match="data 'my_birds:nothing' must be opened as a Source, got NoneType"):
            open_data("my_birds:nothing")
        with pytest.raises(ValueError, match="my_birds has no function 'brids'"):
            open_data("my_birds:brids")
        with pytest.raises(ValueError, match="there is no module 'my_brids'"):
            open_data("my_brids:birds")
    finally:
        DATASETS.pop("my_birds", None)
        sys.modules.pop("my_birds", None)


def test_a_name_is_one_data_sets_and_can_be_told_from_a_path():
    with pytest.raises(ValueError, match=r"name must be new, but 'digits' is sbp_lab\.data\.digits\.digits"):
        data_set("digits")(lambda folder: toy())
    for name in ("", "a/b", "a:b", "a b"):
        with pytest.raises(ValueError, match="name must be a word"):
            data_set(name)
