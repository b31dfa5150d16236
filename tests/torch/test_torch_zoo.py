"""Every network of the zoo builds, is tapped by stages, and is healthy at birth: no layer silent or saturated."""

import pytest
import torch

import sbp_torch
from sbp_core import network_spec, presets
from sbp_core.specs.networks import ZOO

# what the published initialisation leaves silent, and the option that mends it: see docs/zoo.md
MENDED = {
    "resnet19": {"hidden_initial": "kaiming"},
    "dvs_gesture": {
        "hidden_initial": "kaiming",
        "neuron": presets.spikingjelly_lif(learn_decay=True, decay_input=False),
    },
    "mlp": {"hidden_initial": "kaiming"},
    "spikformer_cifar": {"scale": 1.0},
    "spikformer_imagenet": {"scale": 1.0},
    "qkformer_imagenet": {"scale": 1.0},
}


def rates(spec):
    """Return the firing rate of every layer of neurons in one batch, by its path."""
    torch.manual_seed(0)
    net = sbp_torch.Network(spec)
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, sbp_torch.LIF):
            module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out.mean().item()}))
    size = [64 if extent is None else extent for extent in spec.image_size]
    model = sbp_torch.Shortcut(net, "stages", spec.num_classes)
    lead = (spec.time_steps, 4) if spec.image_size != (None, None) and spec.in_channels == 2 else (4,)
    logits = model(torch.randn(*lead, spec.in_channels, *size))
    assert logits.shape == (4, spec.num_classes)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    return found


@pytest.mark.parametrize("name", ZOO)
def test_no_layer_of_neurons_is_silent_or_saturated_at_birth(name):
    found = rates(network_spec(name, **MENDED.get(name, {})).with_width(16 if name == "mlp" else 8))
    assert len(found) > 1
    assert min(found.values()) > 0.0, {layer: rate for layer, rate in found.items() if rate == 0.0}
    assert max(found.values()) < 0.9


@pytest.mark.parametrize("name", ["resnet19", "dvs_gesture"])
def test_what_the_docs_say_is_silent_is_so(name):
    assert min(rates(network_spec(name).with_width(8)).values()) == 0.0
