"""A network of SpikingJelly's becomes one of ours that computes the same: compared with the package itself."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sbp_torch
from sbp_core import presets
from sbp_core.specs.networks import network_spec
from sbp_torch.spikingjelly import neuron_spec, places

pytest.importorskip("spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from zoo_spikingjelly import NETS, built, compare, lif, ms, narrow_vgg, qkformer, spikformer, spiking, theirs


@pytest.mark.parametrize("name", NETS)
def test_spikes_logits_gradients_and_statistics_are_theirs(name):
    found = compare(NETS[name])
    assert found.parameters[0] == found.parameters[1]
    assert found.silent == 0
    assert found.neurons[0] == found.neurons[1]
    assert max(found.evaluation, found.training, found.still) <= 1e-10
    assert found.gradients <= 1e-9
    assert found.statistics <= 1e-10


def zoo(name, make, **fields):
    return pytest.param(lambda: (make(), network_spec(name, **fields)), id=name)


LIF = presets.spikingjelly_lif(tau=2.0, detach_reset=True)
PLIF = presets.spikingjelly_lif(learn_decay=True)


@pytest.mark.parametrize(
    "pair",
    [
        zoo("resnet18", lambda: theirs("model.spiking_resnet").spiking_resnet18(**lif()), stem="imagenet", neuron=LIF),
        zoo("sew_resnet18", lambda: theirs("model.sew_resnet").sew_resnet18(cnf="AND", **lif()), join="and", neuron=LIF),
        zoo("ms_resnet18", lambda: theirs("model.ms_resnet").ms_resnet18()),
        zoo("max_resnet18", lambda: theirs("model.ms_resnet").max_resnet18()),
        zoo("spikformer_cifar", lambda: theirs("model.spikformer").spikformer_cifar10()),
        zoo("qkformer_imagenet", lambda: theirs("model.qkformer").qkformer_10_384(detach_reset=True), bias=True),
        zoo(
            "dvs_gesture",
            lambda: theirs("model.parametric_lif_net").DVSGestureNet(
                spiking_neuron=theirs("neuron").ParametricLIFNode
            ),
            neuron=PLIF,
        ),
    ],
)
def test_their_published_sizes_are_the_zoos(pair):
    net, wanted = pair()
    steps = getattr(net, "T", wanted.time_steps)
    classes = {"num_classes": 1000} if wanted.num_classes == 10 and hasattr(net, "fc") else {}
    if "imagenet" in str(wanted) or wanted.kind == "ms_resnet":
        classes = {"num_classes": sbp_torch.from_spikingjelly(net).spec.num_classes}
    found = sbp_torch.from_spikingjelly(net, time_steps=steps).spec
    assert found == wanted.replace(time_steps=steps, **classes)
