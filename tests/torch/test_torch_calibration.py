"""PyTorch's calibrated start: the oracle's figures and weights."""

import numpy as np
import pytest
import torch

import sbp_torch
from tests import starts


def net(name):
    found = sbp_torch.Network(starts.SPECS[name])
    sbp_torch.import_weights(found, starts.WEIGHTS[name])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", starts.SPECS)
def test_figures_and_weights_are_the_oracles(name, dtype):
    model = net(name).to(dtype).eval()
    found = sbp_torch.calibrate(model, torch.from_numpy(starts.images()))
    starts.assert_same(found, name)
    held = sbp_torch.export_weights(model)
    for key, value in starts.WEIGHTS[name].items():
        np.testing.assert_allclose(held[key], starts.oracle(name).after.get(key, value), rtol=3e-7)
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


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="model must be a Network or a Shortcut of one, got Linear"):
        sbp_torch.calibrate(torch.nn.Linear(2, 2), torch.ones(1, 2))
