from types import SimpleNamespace

import pytest

from sbp_core import Evolutionary, Rectangle
from sbp_lab import recipes
from sbp_lab.batches import check_augment
from sbp_lab.data import DATASETS
from sbp_lab.optimizers import SGD, AdamW

SIZES = {
    "cifar10": ((32, 32), 10, 3),
    "cifar100": ((32, 32), 100, 3),
    "imagenet": ((224, 224), 1000, 3),
    "cifar10_dvs": ((128, 128), 10, 2),
    "digits": ((8, 8), 10, 1),
    "fashion_mnist": ((28, 28), 10, 1),
    "fashion_mnist_part": ((28, 28), 10, 1),
    "nmnist": ((34, 34), 10, 2),
}


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_names_data_that_there_is_and_a_network_that_fits_it_and_says_what_it_is(name):
    recipe = recipes.load(name)
    assert recipe.data in DATASETS
    size, classes, channels = SIZES[recipe.data]
    events = channels == 2
    check_augment(
        recipe.augment, SimpleNamespace(name=recipe.data, events=events, size=size), recipe.frames, recipe.size
    )
    network = recipe.network(size=size, num_classes=classes, in_channels=channels)
    assert network.num_classes == classes
    assert network.time_steps == recipe.time_steps
    assert 20 < len(recipes.about(name)) <= 120
    assert recipe.own or recipe.schedule == Evolutionary(initial=0.25)


# method.md: AdamW, 0.01 (ImageNet 0.004), cosine, 0.02, batch 128, 300 epochs
@pytest.mark.parametrize(
    ("name", "net", "time_steps", "rate"),
    [
        ("paper-cifar10-resnet18-t4", "resnet18", 4, 0.01),
        ("paper-cifar10-resnet19-t2", "resnet19", 2, 0.01),
        ("paper-cifar100-resnet18-t2", "resnet18", 2, 0.01),
        ("paper-cifar100-resnet18-t4", "resnet18", 4, 0.01),
        ("paper-cifar100-resnet34-t2", "resnet34", 2, 0.01),
        ("paper-cifar100-resnet34-t4", "resnet34", 4, 0.01),
        ("paper-cifar100-resnet19-t2", "resnet19", 2, 0.01),
        ("paper-imagenet-resnet18", "resnet18_imagenet", 4, 0.004),
        ("paper-imagenet-resnet34", "resnet34_imagenet", 4, 0.004),
        ("paper-cifar10dvs-resnet18", "resnet18", 10, 0.01),
    ],
)
def test_the_papers_rows_have_the_papers_settings(name, net, time_steps, rate):
    recipe = recipes.load(name)
    assert (recipe.net, recipe.time_steps, recipe.learning_rate, recipe.width) == (net, time_steps, rate, None)
    assert (recipe.optimizer, recipe.decay, recipe.epochs, recipe.batch_size) == (AdamW(), "cosine", 300, 128)
    assert recipe.optimizer.weight_decay == 0.02
    kinds = [each.kind for each in recipe.augment]
    if recipe.data.startswith("cifar10"):
        assert "auto_augment" in kinds or recipe.frames is not None
        assert "flip" in kinds or "event_flip" in kinds


def test_the_authors_recipes_have_their_public_settings():
    named = [name for name in recipes.names() if name.startswith("authors-")]
    assert len(named) == 4
    for name in named:
        recipe = recipes.load(name)
        assert (recipe.optimizer, recipe.learning_rate) == (SGD(weight_decay=1e-4, momentum=0.9), 0.1)
        assert (recipe.neuron.decay, recipe.neuron.threshold, recipe.neuron.detach_reset) == (0.25, 0.5, False)
        assert recipe.neuron.surrogate == Rectangle(width=1.0)
        assert [each.kind for each in recipe.augment][-2:] == ["auto_augment", "cutout"]


def test_a_name_that_is_not_shipped_is_answered_with_the_nearest_and_a_file_with_its_line(tmp_path):
    with pytest.raises(ValueError, match="got 'digit'; did you mean 'digits'"):
        recipes.load("digit")
    (tmp_path / "bad.toml").write_text("epochs = 3\nnet = resnet\n")
    with pytest.raises(ValueError, match=r"bad\.toml: .* line 2"):
        recipes.load(str(tmp_path / "bad.toml"))
    (tmp_path / "bad.toml").write_text("epochs = 0\n")
    with pytest.raises(ValueError, match=r"bad\.toml: epochs must be at least 1, got 0"):
        recipes.load(str(tmp_path / "bad.toml"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.toml"):
        recipes.load(str(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"binary\.toml: "):
        recipes.load(str(tmp_path / "binary.toml"))
