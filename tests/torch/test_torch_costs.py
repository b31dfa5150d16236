"""What ``sbp inspect`` counts as synaptic operations is what SpikingJelly's counter counts on the same network."""

import numpy as np
import pytest
import torch

import sbp_torch
from sbp_core import CustomSpec, LIFSpec, network_spec
from sbp_core.costs import costs
from sbp_core.specs import layers as kinds
from sbp_core.specs.structure import sequence

op_counter = pytest.importorskip(
    "spikingjelly.activation_based.op_counter", reason="spikingjelly is not installed: see the Makefile's peers"
)
NEURON = LIFSpec(threshold=0.2)
POINTWISE = CustomSpec(
    layers=sequence(
        repeat=kinds.Repeat(time_steps=3),
        conv1=kinds.Conv(channels=8, kernel=1),
        neuron1=kinds.Neuron(spec=NEURON),
        conv2=kinds.Conv(channels=6, kernel=2, stride=2, padding=0),
        neuron2=kinds.Neuron(spec=NEURON),
        flatten=kinds.Flatten(),
        head=kinds.Linear(features=5),
        mean=kinds.TimeMean(),
    ),
    num_classes=5,
    in_channels=2,
    time_steps=3,
    size=(8, 8),
)


@pytest.mark.parametrize("spec", [POINTWISE, network_spec("mlp", time_steps=4, neuron=NEURON)], ids=["conv", "mlp"])
def test_synaptic_operations_are_those_of_spikingjellys_counter(spec):
    torch.manual_seed(0)
    net = sbp_torch.Network(spec).eval()
    images = torch.randn(3, spec.in_channels, *spec.image_size)
    counter = op_counter.SynOpCounter()
    with torch.no_grad(), op_counter.DispatchCounterMode([counter]):
        net(images)
    rows = costs(spec, weights=sbp_torch.export_weights(net), images=images.double().numpy())
    ours = sum(row.synaptic for row in rows)
    assert ours > 0
    # theirs is of the whole batch, ours of an image
    np.testing.assert_allclose(ours * len(images), counter.get_total(), rtol=1e-12)
