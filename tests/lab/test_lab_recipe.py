import math
import tomllib
from dataclasses import fields

import numpy as np
import pytest

from sbp_core import Constant, Evolutionary, LIFSpec, LossSpec, Rectangle, Triangle
from sbp_lab.events import Frames
from sbp_lab.optimizers import SGD, AdamW, LearningRate
from sbp_lab.recipe import Recipe

# nothing as it is unless told otherwise, and None where that is not so
OTHER = Recipe(
    backend="jax",
    data="n_mnist",
    net="vggsnn",
    width=8,
    time_steps=3,
    neuron=LIFSpec(decay=0.25, reset="none", input_gain="complement", surrogate=Rectangle(width=3.0)),
    norm="tdbn",
    blocks="sew",
    method="shortcut",
    coefficient=Constant(value=0.1, total_steps=None),
    taps=("stage1", "stage2"),
    loss=LossSpec(combine="losses", label_smoothing=0.1),
    optimizer=SGD(momentum=0.1 + 0.2, nesterov=True),
    learning_rate=1e-300,
    warm_up=0.5,
    decay="step",
    milestones=(0.1, 2 / 3),
    epochs=7,
    batch_size=12,
    frames=Frames(by="count", steps=3),
    precision="bfloat16",
    compile=True,
    clip_norm=1.0,
    accumulate=3,
    ema=0.999,
    seed=11,
)


@pytest.mark.parametrize("recipe", [Recipe(), OTHER, Recipe(size=(14, 14), neuron=LIFSpec(surrogate="triangle"))])
def test_a_recipe_comes_back_from_toml_as_it_was(recipe):
    again = Recipe.from_toml(recipe.to_toml())
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert hash(again) == hash(recipe)


def test_what_another_reader_of_toml_sees_is_every_field_under_its_name():
    content = tomllib.loads(OTHER.to_toml())
    # OTHER leaves two fields as None
    assert set(content) == {"schema"} | {field.name for field in fields(Recipe)} - {"size", "augment"} | {"augment"}
    assert content["optimizer"] == {"kind": "sgd", "weight_decay": 1e-4, "momentum": 0.1 + 0.2, "nesterov": True}
    assert content["milestones"] == [0.1, 2 / 3]


def test_what_toml_leaves_out_is_as_in_a_recipe_without_arguments():
    text = """
        coefficient = "evolutionary"
        [neuron]
        surrogate = "triangle"
        [optimizer]
        kind = "sgd"
        momentum = 0.5
    """
    assert Recipe.from_toml(text) == Recipe(
        coefficient=Evolutionary(), neuron=LIFSpec(surrogate=Triangle()), optimizer=SGD(momentum=0.5)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 0", "epochs must be at least 1, got 0"),
        ("epochs = 2.5", "epochs must be an integer, got 2.5"),
        ("epoch = 3", "unknown field 'epoch'; did you mean 'epochs'?"),
        ("xyzzy = 3", "unknown field 'xyzzy'; a recipe has backend, data, net"),
        ("epochs = 3\nlearning_rate = fast", "line 2"),
        (
            'schema = "sbp.recipe/2"',
            "schema must be 'sbp.recipe/1', which this version of sbp reads",
        ),
        ('kind = "lif"', "kind must be 'recipe', got 'lif'"),
        ('net = "resnet8"', "net must be one of"),
        ('net = "my-module:net"', "net must be a network of the zoo or module:function, got 'my-module:net'"),
        ('net = "mine:net"\nwidth = 8', "width must be left out with a network of your own"),
        ("net = 5", "net must be a name, got 5"),
        ('backend = "pytorch"', "got 'pytorch'; did you mean 'torch'?"),
        ('method = "vanila"', "did you mean 'vanilla'?"),
        ('method = "vanilla"\ncoefficient = "evolutionary"', "coefficient must be left out with method='vanilla'"),
        ('coefficient = "evolutionry"', "coefficient must be one of"),
        ('optimizer = "sdg"', "got 'sdg'; did you mean 'sgd'?"),
        ("optimizer = {}", "optimizer must be a Optimizer, got None"),
        ("[optimizer]\nmomentum = 0.1", "optimizer: kind must be one of 'adamw', 'sgd'"),
        ('[optimizer]\nkind = "sgd"\nmomentum = 2', "optimizer: momentum must lie in [0, 1], got 2"),
        ('[optimizer]\nkind = "sgd"\nmomentum = 0\nnesterov = true', "nesterov must be False where momentum is 0"),
        ("[neuron]\ndecay = 1.5", "neuron: decay must lie in [0, 1], got 1.5"),
        ('[neuron.surrogate]\nkind = "rectangle"\nwidth = -1', "neuron: surrogate: width must be greater than 0"),
        ('[neuron]\nsurrogate = "rectangel"', "neuron: surrogate must be one of"),
        ('augment = ["flipp"]', "augment[0] must be one of"),
        ('augment = "flip"', "augment must be a tuple of augmentations, got 'flip'"),
        ("learning_rate = 0", "learning_rate must be greater than 0"),
        ('learning_rate = "fast"', "learning_rate must be a real number"),
        ("epochs = 5\nwarm_up = 5", "warm_up must be less than epochs=5, got 5"),
        ('decay = "linear"', "decay must be one of 'cosine', 'constant', 'step'; got 'linear'"),
        ("milestones = [0.7, 0.5]", "milestones must increase"),
        ("size = [8]", "size must be height and width, got (8,)"),
        ("batch_size = 10\naccumulate = 3", "accumulate must divide batch_size=10, got 3"),
        ("ema = 1.0", "ema must be less than 1"),
        ('precision = "float64"', "precision must be one of"),
        ("clip_norm = -1", "clip_norm must be greater than 0"),
        ("compile = 1", "compile must be True or False, got 1"),
        ("seed = -1", "seed must be at least 0"),
        ('taps = ["layer1", "layer1"]', "taps must not repeat a name"),
        ('taps = "layer1"', "taps must be a sequence of names"),
        ("time_steps = 2\n[frames]\nsteps = 3", "time_steps must be frames.steps=3, got 2"),
        ("size = [8, 8]\n[frames]\nsteps = 4", "size must be left out with frames"),
    ],
)
def test_a_wrong_field_is_answered_with_its_name_its_value_and_what_is_allowed(text, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        Recipe.from_toml(text)
    assert message in str(caught.value)


def cosine(step, total):
    return 0.5 * (1.0 + math.cos(math.pi * step / total))


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.float32, None])
def test_the_learning_rate_rises_in_a_line_and_falls_along_half_a_cosine(dtype):
    rates = Recipe(learning_rate=0.4, warm_up=1.5, epochs=4).learning_rates(total_steps=40, steps_per_epoch=10)
    for step in range(41):
        wanted = 0.4 * (step + 1) / 15 if step < 15 else 0.4 * cosine(step - 15, 25)
        got = rates(step if dtype is None else np.asarray(step, dtype))
        assert float(got) == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_without_a_warm_up_the_first_step_has_the_highest_rate():
    rates = Recipe(learning_rate=0.4).learning_rates(total_steps=10, steps_per_epoch=5)
    assert [rates(step) for step in range(10)] == pytest.approx([0.4 * cosine(step, 10) for step in range(10)])


def test_steps_fall_to_a_tenth_past_each_milestone_and_constant_stays():
    steps = LearningRate(initial=1.0, total_steps=24, warm_up_steps=4, decay="step", milestones=(0.5, 0.75))
    assert [steps(4), steps(14), steps(15), steps(19), steps(20)] == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])
    constant = LearningRate(initial=0.3, total_steps=5, decay="constant")
    assert {constant(step) for step in range(6)} == {0.3}


def test_the_network_of_a_recipe_has_its_neuron_its_width_and_its_steps_and_the_frames_size():
    neuron = LIFSpec(decay=0.25, surrogate="triangle")
    net = Recipe(net="vgg11", width=4, time_steps=3, neuron=neuron, frames=Frames(steps=3, size=(48, 48))).network(
        size=(128, 128), num_classes=10, in_channels=2
    )
    assert {spec for _, spec in net.neurons()} == {neuron}
    assert (net.time_steps, net.in_channels, net.num_classes) == (3, 2, 10)
    assert next(iter(net.tap_channels.values())) == 4


def test_a_tap_that_the_network_has_not_is_answered_with_those_that_it_has():
    with pytest.raises(ValueError, match="tap 'layr1' does not exist; did you mean 'layer1'"):
        Recipe(taps=("layr1",), width=2).network(size=(8, 8), num_classes=10, in_channels=1)


def test_optimisers_say_which_field_is_wrong():
    for make, message in [
        (lambda: AdamW(beta2=1.0), "beta2 must be less than 1"),
        (lambda: AdamW(epsilon=0.0), "epsilon must be greater than 0"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay must lie in"),
        (lambda: SGD(nesterov=1), "nesterov must be True or False"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            make()
