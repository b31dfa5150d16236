"""Networks of every kind of layer equal the oracle: spikes, logits, gradients, running statistics."""

import pickle
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import sbp_torch
from sbp_core import CustomSpec, Evolutionary
from sbp_core.backend import MomentumSGD
from sbp_core.reference import network as reference
from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.structure import sequence
from sbp_torch.engine import TorchEngine
from sbp_torch.joins import JOINS
from sbp_torch.layers import LAYERS
from tests.networks import NETS, SPECS, STEPS, drawn

MODES = ["eager", "compiled"]


def step(name, *, mode="eager", soft=False):
    """Return what the adapter and the oracle make of a step of training."""
    network = NETS[name]
    weights, (images, labels) = drawn(name, soft=soft)
    engine = TorchEngine()
    given = engine.array(images, "float64")
    targets = engine.array(labels, "float64" if soft else None)
    built = engine.network(network, weights, given, "float64", mode)
    expected = reference.network_step(network, weights, (images, labels), 0.75)
    return built, given, targets, expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETS)
def test_a_step_of_training_equals_the_oracle(name, mode):
    if mode == "compiled" and name not in ("vgg", "attention"):
        pytest.skip("two nets with nearly all kinds of layer between them are compiled")
    built, images, labels, expected = step(name, mode=mode, soft=name == "vgg")
    loss, logits = built.differentiate(images, labels, 0.75)
    assert float(loss.detach()) == pytest.approx(expected.value, abs=1e-11)
    for found, wanted in zip(logits, expected.logits, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-11)
    statistics = built.weights()
    for path, wanted in expected.statistics.items():
        np.testing.assert_allclose(statistics[path], wanted, rtol=0, atol=1e-11, err_msg=path)
    np.testing.assert_allclose(built.evaluate(images).numpy(), expected.evaluated, rtol=0, atol=1e-11)
    for part, spikes in built.blocks(images).items():
        assert np.array_equal(spikes.numpy(), expected.spikes[part]), part
    gradients = built.gradients()
    assert set(expected.gradients) == {path for path in gradients if ".running_" not in path}
    for path, wanted in expected.gradients.items():
        np.testing.assert_allclose(
            gradients[path], wanted, rtol=0, atol=1e-11 * max(1.0, np.abs(wanted).max()), err_msg=path
        )


def test_training_moves_every_weight_as_the_oracle_does():
    network = NETS["attention"]
    weights, batch = drawn("attention")
    schedule, optimizer = Evolutionary(initial=0.5, total_steps=4), MomentumSGD(learning_rate=0.01, momentum=0.5)
    expected, margin = reference.train(network, weights, [batch] * 3, schedule, optimizer)
    assert margin > 1e-9
    engine = TorchEngine()
    images, labels = engine.array(batch.images, "float64"), engine.array(batch.labels, None)
    built = engine.network(network, weights, images, "float64", "eager")
    train = built.trainer(schedule, optimizer)
    assert [float(train(images, labels)[0].detach()) for _ in range(3)] == pytest.approx(expected.losses, abs=1e-11)
    for path, found in built.weights().items():
        np.testing.assert_allclose(found, expected.weights[path], rtol=0, atol=1e-10, err_msg=path)


def test_every_kind_of_layer_has_a_module():
    def ours(family):
        return {kind for kind in family.families().values() if kind.__module__.startswith("sbp_core.")}

    assert set(LAYERS) == ours(kinds.LayerSpec)
    assert set(JOINS) == ours(joins.JoinSpec)


@pytest.mark.parametrize("name", SPECS)
def test_names_and_shapes_are_those_of_the_spec_and_it_can_be_pickled(name):
    spec = SPECS[name]
    net = pickle.loads(pickle.dumps(sbp_torch.Network(spec)))
    state = {path: tuple(value.shape) for path, value in net.state_dict().items() if "num_batches" not in path}
    assert state == spec.parameter_shapes()
    assert list(sbp_torch.export_weights(net)) == list(spec.parameter_shapes())


def test_modules_are_those_of_pytorch_so_that_tools_know_them():
    net = sbp_torch.Network(SPECS["vgg"])
    assert type(net.features.conv) is nn.Conv2d
    assert type(net.features.bn) is nn.BatchNorm2d
    assert type(net.head) is nn.Linear
    assert float(net.features.bn.weight[0].detach()) == pytest.approx(0.8)
    # batch norm over time and batch is what conversion keeps, for time is not among its axes
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert type(converted.features.bn) is nn.SyncBatchNorm


def test_dropout_drops_the_same_at_every_step():
    torch.manual_seed(0)
    layers = sequence(
        stem=sequence(drop=kinds.Dropout(rate=0.5), neuron=kinds.Neuron()),
        pool=kinds.GlobalPool(),
        mean=kinds.TimeMean(),
    )
    net = sbp_torch.Network(CustomSpec(layers=layers, num_classes=64, in_channels=64, time_steps=STEPS))
    dropped = net.stem.drop(torch.ones(STEPS, 8, 64, 2, 2))
    assert torch.equal(dropped[0], dropped[-1])
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < float((dropped == 0).double().mean()) < 0.6
    assert torch.equal(net.eval().stem.drop(dropped), dropped)


def test_per_step_leaves_the_mean_out():
    spec = SPECS["vgg"]
    net = sbp_torch.Network(spec).eval()
    apart = sbp_torch.Network(spec, per_step=True).eval()
    apart.load_state_dict(net.state_dict())
    images = torch.randn(2, 2, 8, 6)
    assert apart(images).shape == (STEPS, 2, 4)
    assert torch.equal(apart(images).mean(0), net(images))
    endless = CustomSpec(
        layers=sequence(flat=kinds.Flatten(), head=kinds.Linear(features=2)), size=(2, 2), num_classes=2, in_channels=1
    )
    with pytest.raises(ValueError, match="per_step must be False: the custom does not end in a mean over time"):
        sbp_torch.Network(endless, per_step=True)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg", (2, 2, 8, 8), r"images must be of size \(8, 6\), as the custom says; got \(8, 8\)"),
        ("frames only", (2, 2, 8, 8), "images must be event frames, with an axis of time"),
        ("vgg", (2, 3, 8, 6), "images must have 2 channels, got 3"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        sbp_torch.Network(SPECS[name])(torch.ones(shape))


def test_an_image_too_small_for_the_pools_names_the_layer():
    layers = sequence(
        stem=sequence(conv=kinds.Conv(channels=2), pool=kinds.MaxPool(kernel=4)),
        flat=kinds.GlobalPool(),
        repeat=kinds.Repeat(time_steps=2),
        neuron=kinds.Neuron(),
        mean=kinds.TimeMean(),
    )
    net = sbp_torch.Network(CustomSpec(layers=layers, num_classes=2, time_steps=2))
    with pytest.raises(ValueError, match=r"layer 'stem.pool': a window of 4 .* does not fit into maps of \(2, 3, 3\)"):
        net(torch.ones(1, 3, 3, 3))


def test_a_layer_without_a_module_says_so():
    @dataclass(frozen=True, kw_only=True)
    class Softplus(kinds.LayerSpec):
        kind: ClassVar[str] = "softplus of a PyTorch test"

        def output(self, shape):
            return shape

    layers = sequence(act=Softplus(), flat=kinds.GlobalPool())
    spec = CustomSpec(layers=layers, num_classes=3)
    with pytest.raises(TypeError, match="layer 'act': PyTorch has no module for the kind 'softplus of a PyTorch test'"):
        sbp_torch.Network(spec)
    LAYERS[Softplus] = lambda layer, path, shape: nn.Softplus()
    try:
        assert sbp_torch.Network(spec)(torch.zeros(4, 1, 3, 2, 2))[0, 0, 0].item() == pytest.approx(np.log(2))
    finally:
        del LAYERS[Softplus]
