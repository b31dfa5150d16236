import zipfile

import numpy as np
import pytest

from sbp_lab.data import open_data


def arrays(**changes):
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (6, 5, 4, 3), np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (3, 5, 4, 3), np.uint8),
        "test_labels": np.array([2, 1, 0], np.uint8),
    } | changes


def short(given):
    return {"x_train": given["train_images"], "y_train": given["train_labels"][:, None]} | {
        "x_test": given["test_images"],
        "y_test": given["test_labels"][:, None],
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [dict, short])
def test_arrays_come_back_as_they_were_saved(save, names, tmp_path):
    given = arrays()
    save(tmp_path / "mine.npz", **names(given))
    for source in (
        open_data("npz", tmp_path),
        open_data("npz/mine.npz", tmp_path),
        open_data("npz", tmp_path / "mine.npz"),
    ):
        for part, split in (("train", source.train), ("test", source.test)):
            np.testing.assert_array_equal(
                np.stack(list(map(split.__getitem__, range(len(split))))), given[f"{part}_images"]
            )
            np.testing.assert_array_equal(split.labels, given[f"{part}_labels"])
        assert (source.size, source.channels, source.class_names) == ((5, 4), 3, ("0", "1", "2"))


def test_grey_images_get_a_channel_and_floating_numbers_stay_so(tmp_path):
    images = np.linspace(-1, 1, 6 * 20).reshape(6, 5, 4)
    np.savez(tmp_path / "mine.npz", **arrays(train_images=images, test_images=np.asfortranarray(images[:3])))
    source = open_data("npz", tmp_path)
    np.testing.assert_array_equal(source.train[5], images[5, ..., None].astype(np.float32))
    np.testing.assert_array_equal(source.test[1], images[1, ..., None].astype(np.float32))
    assert source.train[5].dtype == np.float32
    np.testing.assert_allclose((source.mean[0], source.deviation[0]), (images.mean(), images.std()), atol=1e-8)


def test_class_names_may_be_there(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays(class_names=np.array(["cat", "dog", "eel", "fox"])))
    source = open_data("npz", tmp_path)
    assert source.class_names == ("cat", "dog", "eel", "fox")
    assert source.num_classes == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((6, 5, 4, 3), np.int64)}, r"array 'train_images': expected uint8 .*found int64"),
        ({"train_images": np.zeros((6, 3, 32, 32), np.uint8)}, r"expected \(5, 4, 3\)|channels last"),
        (
            {"test_images": np.zeros((3, 5, 5, 3), np.uint8)},
            r"array 'test_images': expected \(5, 4, 3\) of uint8, like train_images",
        ),
        ({"test_images": np.zeros((3, 5, 4, 3), np.float32)}, r"found \(5, 4, 3\) of float32"),
        ({"train_images": np.zeros((6, 5), np.uint8)}, r"found shape \(6, 5\)"),
        ({"train_images": np.full((6, 5, 4, 3), [0, 1, np.nan])}, r"record 0: expected finite"),
        (
            {"train_labels": np.zeros(5, np.int64)},
            r"array 'train_labels': expected \(6,\) integers.*found shape \(5,\)",
        ),
        ({"train_labels": np.eye(6)}, r"found shape \(6, 6\) of float64"),
        ({"train_labels": np.array([0, 1, -1, 0, 1, 2])}, r"array 'train_labels', record 2: .*found label -1"),
        (
            {"test_labels": np.array([0, 1, 3])},
            r"array 'test_labels', record 2: expected a label of 0 \.\. 2, found label 3",
        ),
        ({"train_labels": np.array([0, 1, 2, 0, 1, 2**40])}, r"classes numbered from 0"),
        ({"class_names": np.array(["cat", "dog"])}, r"array 'class_names': expected \(3,\) texts"),
        ({"train_labels": np.array([object()] * 6)}, r"array 'train_labels': .*found Python objects"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, message, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message) as error:
        open_data("npz", tmp_path)
    assert str(error.value).startswith(str(tmp_path / "mine.npz"))


def test_missing_arrays_and_files_are_answered_with_what_belongs_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \.npz file in .*train_images, train_labels"):
        open_data("npz", tmp_path)
    given = arrays()
    del given["test_labels"]
    np.savez(tmp_path / "mine.npz", **given)
    with pytest.raises(ValueError, match=r"array 'test_labels': .*found only test_images, train_images, train_labels"):
        open_data("npz", tmp_path)
    np.savez(tmp_path / "other.npz", **given)
    with pytest.raises(ValueError, match=r"2 \.npz files \(mine\.npz, other\.npz\): say which, as in npz/mine\.npz"):
        open_data("npz", tmp_path)


def test_an_array_whose_length_is_not_its_shapes_is_named(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays())
    with zipfile.ZipFile(tmp_path / "mine.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["train_images.npy"] = members["train_images.npy"][:-1]
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(
        ValueError, match=r"array 'train_images': expected 360 for shape \(6, 5, 4, 3\).*found 359 bytes"
    ):
        open_data("npz", tmp_path)
