"""The reference network's adjoint equals finite differences of its smooth twin; its training moves what it should."""

import numpy as np
import pytest

from sbp_core import LIFSpec, LossSpec, ResNetSpec, Step
from sbp_core.backend import Batch, MomentumSGD, ShortcutNetwork
from sbp_core.reference import losses
from sbp_core.reference import network as reference
from sbp_core.reference.networks import initial_weights

SEED = 20261124
SMALL = {"depths": (1, 1), "widths": (2, 3), "num_classes": 3, "in_channels": 2, "time_steps": 2}
NETWORKS = {
    "cifar": ResNetSpec(**SMALL, neuron=LIFSpec(surrogate="gaussian", learn_decay=True, learn_initial=True)),
    "imagenet": ResNetSpec(**SMALL, stem="imagenet", neuron=LIFSpec(surrogate="gaussian", reset="soft")),
    "current, delayed": ResNetSpec(
        **SMALL, neuron=LIFSpec(surrogate="gaussian", synaptic_decay=0.4, output_delay=1, decay=0.8)
    ),
}
LOSSES = (LossSpec(combine="logits"), LossSpec(distillation=0.3, detach_teacher=False))


def made(spec, loss=LOSSES[0], branch="linear"):
    network = ShortcutNetwork(spec, ("stem", "layer1"), loss, branch)
    random = np.random.default_rng(SEED)
    drawn = initial_weights(spec, SEED, network.taps, branch)
    weights = {name: np.float64(value) + random.uniform(0.0, 0.3, value.shape) for name, value in drawn.items()}
    batch = Batch(random.normal(size=(2, 2, 8, 8)), np.array([0, 2]))
    return network, weights, batch


@pytest.mark.parametrize("branch", ["linear", "convolutional"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.combine)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_every_parameter_equals_finite_differences_of_the_smooth_twin(name, loss, branch):
    network, weights, (images, labels) = made(NETWORKS[name], loss, branch)
    labels = np.eye(3)[labels] * 0.8 + 0.1 if branch == "convolutional" else labels

    def objective(weights):
        twin = reference.ReferenceNetwork(network, weights, smooth=True)
        return losses.loss_of(loss, *twin.forward(images, training=True), labels, 0.7)[0]

    twin = reference.ReferenceNetwork(network, weights, smooth=True)
    reference.differentiate(twin, images, labels, 0.7)
    assert set(twin.gradients) == {name for name in weights if ".running_" not in name}
    random, h = np.random.default_rng(SEED), 1e-5
    for parameter, gradient in twin.gradients.items():
        direction = random.normal(size=gradient.shape)
        up, down = (objective(weights | {parameter: weights[parameter] + sign * h * direction}) for sign in (1, -1))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9), parameter


def test_running_statistics_move_by_the_momentum_and_the_unbiased_variance():
    network, weights, batch = made(NETWORKS["cifar"])
    step = reference.network_step(network, weights, batch, 0.5)
    started = reference.ReferenceNetwork(network, weights)
    started.forward(batch.images, training=True)
    x = started.outputs["stem.conv"]
    values = np.moveaxis(x, 1, 0).reshape(2, -1)
    old_mean, old_var = (weights[f"main.stem.bn.running_{part}"] for part in ("mean", "var"))
    np.testing.assert_allclose(step.statistics["main.stem.bn.running_mean"], 0.9 * old_mean + 0.1 * values.mean(1))
    expected = 0.9 * old_var + 0.1 * values.var(1, ddof=1)
    np.testing.assert_allclose(step.statistics["main.stem.bn.running_var"], expected)


def test_a_start_that_follows_moves_a_tenth_to_the_last_potentials_of_the_neurons_that_fired():
    neuron = LIFSpec(decay=0.8, reset="soft", initial_potential=0.4, initial_follows=True)
    network, weights, batch = made(NETWORKS["cifar"].replace(neuron=neuron))
    assert initial_weights(network.spec, 0)["stem.neuron.running_potential"] == np.float32(0.4)
    step = reference.network_step(network, weights, batch, 0.5)
    started = reference.ReferenceNetwork(network, weights)
    started.forward(batch.images, training=True)
    x, start = started.outputs["stem.repeat"], float(weights["main.stem.neuron.running_potential"])
    # neuron by neuron, by the equations alone
    ended = []
    for currents in x.reshape(len(x), -1).T:
        potential, spikes = start, 0
        for current in currents:
            potential = 0.8 * potential + current
            spikes += potential > 1.0
            potential -= potential > 1.0
        ended += [potential] * bool(spikes)
    assert 0 < len(ended) < x[0].size
    moved = start + 0.1 * (np.mean(ended) - start)
    assert step.statistics["main.stem.neuron.running_potential"] == pytest.approx(moved, rel=1e-12)
    assert started.weights["main.stem.neuron.running_potential"] == pytest.approx(moved, rel=1e-12)
    started.forward(batch.images, training=False)
    assert started.weights["main.stem.neuron.running_potential"] == pytest.approx(moved, rel=1e-12)
    # a threshold that nothing reaches leaves it where it is
    silent = network._replace(spec=network.spec.replace(neuron=neuron.replace(threshold=1e3)))
    for name, value in reference.network_step(silent, weights, batch, 0.5).statistics.items():
        if name.endswith(".running_potential"):
            assert value == weights[name]


def test_training_moves_each_parameter_by_its_velocity():
    network, weights, batch = made(NETWORKS["cifar"])
    schedule = Step(initial=0.8, factor=0.5, milestones=(0.5,), total_steps=2)
    optimizer = MomentumSGD(learning_rate=0.5, momentum=0.25)
    found, margin = reference.train(network, weights, [batch, batch], schedule, optimizer)
    first = reference.network_step(network, weights, batch, float(schedule(1)))
    moved = {name: weights[name] - 0.5 * gradient for name, gradient in first.gradients.items()}
    second = reference.network_step(network, moved | first.statistics, batch, float(schedule(2)))
    assert found.losses == (first.value, second.value)
    assert margin > 0.0
    for name, gradient in second.gradients.items():
        velocity = 0.25 * first.gradients[name] + gradient
        np.testing.assert_allclose(found.weights[name], moved[name] - 0.5 * velocity, rtol=1e-12, atol=1e-12)
    for name, value in second.statistics.items():
        np.testing.assert_allclose(found.weights[name], value, rtol=1e-12)
