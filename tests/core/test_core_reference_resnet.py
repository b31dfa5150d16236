"""The reference network's adjoint equals finite differences of its smooth twin, and its layers equal plain loops."""

import numpy as np
import pytest

from sbp_core import LIFSpec, LossSpec, ResNetSpec, Step
from sbp_core.backend import Batch, MomentumSGD, ShortcutNetwork
from sbp_core.reference import losses, resnet
from sbp_core.reference.networks import initial_weights

SEED = 20261124
SMALL = {"depths": (1, 1), "widths": (2, 3), "num_classes": 3, "in_channels": 2, "time_steps": 2}
NETWORKS = {
    "cifar": ResNetSpec(**SMALL, neuron=LIFSpec(surrogate="gaussian", learn_decay=True)),
    "imagenet": ResNetSpec(**SMALL, stem="imagenet", neuron=LIFSpec(surrogate="gaussian", reset="soft")),
    "current, delayed": ResNetSpec(
        **SMALL, neuron=LIFSpec(surrogate="gaussian", synaptic_decay=0.4, output_delay=1, decay=0.8)
    ),
}
LOSSES = (LossSpec(combine="logits"), LossSpec(distillation=0.3, detach_teacher=False))


def made(spec, loss=LOSSES[0]):
    network = ShortcutNetwork(spec, ("stem", "layer1"), loss)
    random = np.random.default_rng(SEED)
    drawn = initial_weights(spec, SEED, network.taps)
    weights = {name: np.float64(value) + random.uniform(0.0, 0.3, value.shape) for name, value in drawn.items()}
    batch = Batch(random.normal(size=(2, 2, 8, 8)), np.array([0, 2]))
    return network, weights, batch


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.combine)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_every_parameter_equals_finite_differences_of_the_smooth_twin(name, loss):
    network, weights, (images, labels) = made(NETWORKS[name], loss)

    def objective(weights):
        twin = resnet.ReferenceNetwork(network, weights, smooth=True)
        return losses.loss_of(loss, *twin.forward(images, training=True), labels, 0.7)[0]

    twin = resnet.ReferenceNetwork(network, weights, smooth=True)
    resnet.differentiate(twin, images, labels, 0.7)
    assert set(twin.gradients) == {name for name in weights if ".running_" not in name}
    random, h = np.random.default_rng(SEED), 1e-5
    for parameter, gradient in twin.gradients.items():
        direction = random.normal(size=gradient.shape)
        up, down = (objective(weights | {parameter: weights[parameter] + sign * h * direction}) for sign in (1, -1))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9), parameter


def test_a_convolution_equals_plain_loops():
    spec = NETWORKS["imagenet"]
    network, weights, (images, _) = made(spec)
    kernel = weights["main.stem.conv.weight"]
    found, _ = resnet.ReferenceNetwork(network, weights)._convolution("main.stem.conv", images, 2)
    padded = np.pad(images, [(0, 0), (0, 0), (3, 3), (3, 3)])
    for image, out, row, column in np.ndindex(found.shape):
        window = padded[image, :, 2 * row : 2 * row + 7, 2 * column : 2 * column + 7]
        assert found[image, out, row, column] == pytest.approx(np.sum(window * kernel[out]), abs=1e-12)


def test_max_pooling_gives_the_gradient_to_the_first_of_equals():
    x = np.zeros((1, 1, 1, 4, 4))
    x[..., 1:3, 1:3] = 1.0
    pooled, back = resnet._max_pool(x)
    assert pooled.ravel().tolist() == [1.0, 1.0, 1.0, 1.0]
    assert back(np.ones_like(pooled))[0, 0, 0].tolist() == [[0, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_running_statistics_move_by_the_momentum_and_the_unbiased_variance():
    network, weights, batch = made(NETWORKS["cifar"])
    step = resnet.network_step(network, weights, batch, 0.5)
    x, _ = resnet.ReferenceNetwork(network, weights)._convolution("main.stem.conv", batch.images, 1)
    values = np.moveaxis(x, 1, 0).reshape(2, -1)
    old_mean, old_var = (weights[f"main.stem.bn.running_{part}"] for part in ("mean", "var"))
    np.testing.assert_allclose(step.statistics["main.stem.bn.running_mean"], 0.9 * old_mean + 0.1 * values.mean(1))
    expected = 0.9 * old_var + 0.1 * values.var(1, ddof=1)
    np.testing.assert_allclose(step.statistics["main.stem.bn.running_var"], expected)


def test_training_moves_each_parameter_by_its_velocity():
    network, weights, batch = made(NETWORKS["cifar"])
    schedule = Step(initial=0.8, factor=0.5, milestones=(0.5,), total_steps=2)
    optimizer = MomentumSGD(learning_rate=0.5, momentum=0.25)
    found, margin = resnet.train(network, weights, [batch, batch], schedule, optimizer)
    first = resnet.network_step(network, weights, batch, float(schedule(1)))
    moved = {name: weights[name] - 0.5 * gradient for name, gradient in first.gradients.items()}
    second = resnet.network_step(network, moved | first.statistics, batch, float(schedule(2)))
    assert found.losses == (first.value, second.value)
    assert margin > 0.0
    for name, gradient in second.gradients.items():
        velocity = 0.25 * first.gradients[name] + gradient
        np.testing.assert_allclose(found.weights[name], moved[name] - 0.5 * velocity, rtol=1e-12, atol=1e-12)
    for name, value in second.statistics.items():
        np.testing.assert_allclose(found.weights[name], value, rtol=1e-12)
