"""PyTorch's calibrated start: the oracle's figures and weights."""

import numpy as np
import pytest
import torch
from torch import nn

import sbp_torch
from tests import starts


def net(name):
    found = sbp_torch.Network(starts.SPECS[name])
    sbp_torch.import_weights(found, starts.WEIGHTS[name])
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", starts.SPECS)
def test_figures_and_weights_are_the_oracles(name, dtype):
    model = net(name).to(getattr(torch, dtype)).eval()
    found = sbp_torch.calibrate(model, torch.from_numpy(starts.images()))
    held = sbp_torch.export_weights(model)
    starts.assert_same(found, name, dtype, held)
    assert not model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    # and back
    sbp_torch.import_weights(model, held | found.before)
    back = sbp_torch.export_weights(model)
    assert all(np.array_equal(back[key], value) for key, value in starts.WEIGHTS[name].items())


def test_branches_stay_as_they_are():
    images = torch.from_numpy(starts.images())
    model = sbp_torch.Shortcut(net("residual"), ("layer1",), 4, sample=images)
    before = sbp_torch.export_weights(model)
    starts.assert_same(sbp_torch.calibrate(model, images), "residual")
    after = sbp_torch.export_weights(model)
    changed = {key.removeprefix("main.") for key in before if not np.array_equal(before[key], after[key])}
    assert changed == set(starts.oracle("residual").after)


class Own(nn.Module):
    """A net of a user's own: an identity path of spikes, a layer that runs twice, and a neuron behind dropout."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.twice = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.norm = nn.BatchNorm1d(12)
        self.neurons = nn.ModuleList([sbp_torch.LIF(threshold=2.0) for _ in range(4)])
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(12, 3)

    def forward(self, x):
        first = self.neurons[0](self.dropout(self.one(x).relu_()))
        second = self.neurons[1](self.two(first) + first)
        third = self.neurons[2](self.norm(self.twice(second).flatten(0, 1)).unflatten(0, x.shape[:2]))
        return self.head(self.neurons[3](self.twice(third))).mean(0)


def test_a_network_of_ones_own_is_brought_into_range_where_weights_set_the_rate():
    model = Own().eval()
    # each layer of neurons fires too little as it is
    images = torch.randn(3, 64, 6)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = sbp_torch.calibrate(model, images)
    layers = {layer.neuron: layer.layers for layer in found.layers}
    assert layers == {"neurons.0": ("one",), "neurons.1": (), "neurons.2": ("norm",), "neurons.3": ()}
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"one.weight", "one.bias", "norm.weight", "norm.bias"} - {
        name for name in before if not before[name].any()
    }
    rates = {}
    for name, module in model.named_modules():
        if isinstance(module, sbp_torch.LIF):
            module.register_forward_hook(lambda _, __, out, name=name: rates.update({name: out.mean().item()}))
    model.train()
    model.dropout.eval()
    model(images)
    assert {layer.neuron: layer.after for layer in found.layers} == pytest.approx(rates)
    assert rates["neurons.0"] >= 0.1
    assert rates["neurons.2"] >= 0.1
    model.load_state_dict(model.state_dict() | {name: torch.from_numpy(value) for name, value in found.before.items()})
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_mistakes_are_named():
    with pytest.raises(TypeError, match="model must be a torch module, got 3"):
        sbp_torch.calibrate(3, torch.ones(1, 2))
    with pytest.raises(ValueError, match="model must have LIF neurons"):
        sbp_torch.calibrate(nn.Linear(2, 2), torch.ones(1, 2))
