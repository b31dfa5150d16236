import math

import numpy as np
import pytest

from sbp_core import ResNetSpec
from sbp_lab.data import Dataset
from sbp_lab.methods import METHODS
from sbp_lab.trainers import StepResult
from sbp_lab.training.old import Recipe, batches, train

NETWORK = ResNetSpec(depths=(1, 1), widths=(4, 8), in_channels=1, num_classes=3, time_steps=2)


def dataset(train_count=10, test_count=4):
    generator = np.random.default_rng(0)
    return Dataset(
        name="made up",
        train_images=generator.standard_normal((train_count, 4, 4, 1)).astype(np.float32),
        train_labels=np.arange(train_count) % 3,
        test_images=np.zeros((test_count, 4, 4, 1), np.float32),
        test_labels=np.arange(test_count) % 3,
        num_classes=3,
    )


def recipe(**changes):
    fields = {"backend": "torch", "data": "digits", "network": NETWORK, "taps": ("layer1",), "epochs": 2}
    return Recipe(**fields | {"batch_size": 4} | changes)


class Recorder:
    """Stands in for a trainer and remembers what the loop asked of it."""

    def __init__(self, network, weights, options):
        self.weights, self.taps = weights, options.taps
        self.coefficients, self.learning_rates, self.images = [], [], []

    def train_step(self, images, labels, coefficient, learning_rate, step):
        self.coefficients.append(coefficient)
        self.learning_rates.append(learning_rate)
        self.images.append(images)
        return StepResult(float(len(self.coefficients)), 6.0, 3.0)

    def predict(self, images):
        # always says class 1
        return np.tile(np.array([0.0, 1.0, 0.0], np.float32), (len(images), 1))


def run(method, **changes):
    made = []

    def make(*arguments, **options):
        made.append(Recorder(*arguments, **options))
        return made[0]

    return train(recipe(**changes), method, 0, dataset(), make_trainer=make), made[0]


def test_the_coefficients_of_a_run_are_the_papers_from_the_first_step_to_the_last():
    _, vanilla = run("vanilla")
    _, shortcut = run("shortcut")
    _, evolutionary = run("evolutionary")
    # 10 images in batches of 4: 2 steps an epoch, I = 4
    assert vanilla.coefficients == [0.0] * 4
    assert shortcut.coefficients == [1.0] * 4
    assert evolutionary.coefficients == [0.25 * (1 - k / 4) for k in (1, 2, 3, 4)]


def test_the_learning_rate_starts_at_its_value_and_falls_along_half_a_cosine():
    _, trainer = run("vanilla", learning_rate=0.4)
    np.testing.assert_allclose(trainer.learning_rates, [0.2 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])


def test_only_methods_with_a_coefficient_have_branches():
    for name, method in METHODS.items():
        _, trainer = run(name)
        assert trainer.taps == (() if method.schedule is None else ("layer1",))


def test_every_method_starts_from_the_same_weights_and_sees_the_same_batches():
    _, vanilla = run("vanilla")
    _, shortcut = run("shortcut")
    for name, array in vanilla.weights.items():
        np.testing.assert_array_equal(array, shortcut.weights[f"main.{name}"])
    np.testing.assert_array_equal(np.stack(vanilla.images), np.stack(shortcut.images))


def test_the_curve_holds_means_over_the_steps_and_the_accuracy_of_what_is_predicted():
    done, _ = run("vanilla")
    assert [epoch.loss for epoch in done.epochs] == [1.5, 3.5]
    assert done.initial_loss == 1.0
    assert done.gradient_ratio == 2.0
    # of the test labels 0, 1, 2, 0 one is a 1
    assert done.accuracy == 0.25


def test_an_epoch_shows_no_image_twice_and_another_epoch_another_order():
    seen = {number: np.concatenate([x for x, _ in batches(dataset(12), 4, 7, number)]) for number in (1, 2)}
    for images in seen.values():
        assert len(np.unique(images.reshape(12, -1), axis=0)) == 12
    assert not np.array_equal(seen[1], seen[2])


def test_labels_stay_with_their_images():
    data = dataset(12)
    for images, labels in batches(data, 4, 0, 1):
        for image, label in zip(images, labels, strict=True):
            place = next(i for i, other in enumerate(data.train_images) if np.array_equal(other, image))
            assert data.train_labels[place] == label


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most 10, the training images of made up; got 11"):
        run("vanilla", batch_size=11)


def test_an_unknown_method_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="method must be one of 'vanilla', 'shortcut', 'evolutionary'; got 'vanila'"):
        run("vanila")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"taps": ("layer9",)}, r"tap 'layer9' does not exist.*stem, layer1, layer2"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"weight_decay": -1.0}, r"weight_decay must lie in \[0, 1\]"),
        ({"combine": "sum"}, "combine must be one of 'logits', 'losses'"),
    ],
)
def test_a_recipe_that_cannot_be_cooked_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_recipe_survives_json():
    assert Recipe.from_json(recipe().to_json()) == recipe()
