"""A recipe's ``start``: the same weights in every framework, also with branches, and what a run begins with."""

import numpy as np
import pytest

from sbp_core import ResNetSpec, network_spec
from sbp_core.reference.networks import initial_weights
from sbp_core.signal import at_identity, identity_weights
from sbp_lab.data import open_data
from sbp_lab.recipe import Recipe
from sbp_lab.starts import calibrated, first_weights
from sbp_lab.training.setup import build

SMALL = Recipe(net="resnet20", width=4, time_steps=2, batch_size=16, method="shortcut", seed=3)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def deep_net(num_classes, in_channels, time_steps):
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "time_steps": time_steps}
    return ResNetSpec(depths=(1,), widths=(4,), **sizes)


def small_module():
    import torch

    return torch.nn.Linear(2, 2)


def test_a_run_starts_at_the_identity_with_its_branches_as_drawn(digits):
    recipe = SMALL.replace(start="identity")
    trainer = build(recipe, digits).trainer
    assert trainer.spec.neuron.threshold == 0.5
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    drawn = initial_weights(trainer.spec, 3, trainer.spec.default_taps)
    main = {name.removeprefix("main."): value for name, value in drawn.items() if name.startswith("main.")}
    wanted = identity_weights(trainer.spec, main)
    held = trainer.weights()
    assert all(np.array_equal(held[name], value) for name, value in wanted.items())
    first = first_weights(recipe, trainer.spec, digits, trainer.spec.default_taps)
    assert all(np.array_equal(first[name], drawn[name]) for name in drawn if name.startswith("branches."))


@pytest.mark.parametrize("backend", ["torch", "jax", "tf"])
def test_frameworks_calibrate_alike(digits, backend):
    pytest.importorskip({"torch": "torch", "jax": "jax", "tf": "tensorflow"}[backend])
    recipe = Recipe(net="mlp", time_steps=2, batch_size=16, method="vanilla", start="calibrated")
    spec = network_spec("mlp", size=(8, 8), hidden=(9, 9), time_steps=2, in_channels=1)
    drawn = initial_weights(spec, 0)
    wanted, found = (calibrated(recipe.replace(backend=name), spec, drawn, digits) for name in ("torch", backend))
    assert [layer.factor for layer in found.layers] == [layer.factor for layer in wanted.layers]
    # without batch norm hardly anything fires as drawn
    assert all(layer.before < 0.1 <= layer.after < 0.2 for layer in found.layers)


def test_a_network_of_ones_own_starts_so_if_it_is_a_spec(digits):
    recipe = SMALL.replace(net=f"{__name__}:deep_net", width=None, start="calibrated", method="vanilla")
    trainer = build(recipe, digits).trainer
    assert trainer.spec == at_identity(deep_net(10, 1, 2))
    assert (trainer.weights()["layer1.0.bn2.weight"] == np.float32(0.1)).all()
    with pytest.raises(ValueError, match="start must be 'default' with net="):
        build(recipe.replace(net=f"{__name__}:small_module"), digits)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="start must be one of 'default', 'identity', 'calibrated'"):
        Recipe(start="warm")
