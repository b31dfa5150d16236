import numpy as np
import pytest

from sbp_lab import data


def test_the_digits_are_scikit_learns_own_images_split_once_and_for_all():
    from sklearn.datasets import load_digits

    first, second = data.load("digits"), data.load("digits")
    np.testing.assert_array_equal(first.train_images, second.train_images)
    source, labels = load_digits(return_X_y=True)
    both = np.concatenate([first.train_images, first.test_images]).reshape(len(source), 64).astype(np.float64)
    # undo the normalisation: pixels are whole numbers from 0 to 16, and 0 and 16 both occur
    pixels = np.rint((both - both.min()) / (both.max() - both.min()) * 16)
    given = sorted(map(tuple, np.column_stack([pixels, np.concatenate([first.train_labels, first.test_labels])])))
    assert given == sorted(map(tuple, np.column_stack([source, labels])))


def test_the_training_images_are_normalised_and_the_test_images_by_the_same_figures():
    digits = data.load("digits")
    assert digits.train_images.dtype == np.float32
    assert abs(digits.train_images.mean(dtype=np.float64)) < 1e-6
    assert abs(digits.train_images.std(dtype=np.float64) - 1.0) < 1e-6
    # a pixel of value 0 has the same place in both, which it had not if each had figures of its own
    assert digits.train_images.min() == digits.test_images.min()


def test_every_class_has_its_share_of_both_parts():
    digits = data.load("digits")
    train = np.bincount(digits.train_labels, minlength=10) / len(digits.train_labels)
    test = np.bincount(digits.test_labels, minlength=10) / len(digits.test_labels)
    np.testing.assert_allclose(train, test, atol=2 / 360)


def test_an_unknown_data_set_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match=r"data must be one of 'digits'; got 'didgits'"):
        data.load("didgits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((2, 8, 8), np.float32)}, "train_images must be"),
        ({"test_labels": np.zeros(3, np.int64)}, "test_labels must have shape"),
        ({"train_labels": np.array([0, 10])}, "train_labels must lie in 0 .. 9"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, message):
    parts = {
        "train_images": np.zeros((2, 8, 8, 1), np.float32),
        "train_labels": np.zeros(2, np.int64),
        "test_images": np.zeros((2, 8, 8, 1), np.float32),
        "test_labels": np.zeros(2, np.int64),
    }
    with pytest.raises(ValueError, match=message):
        data.Dataset(name="made up", num_classes=10, **parts | changes)
