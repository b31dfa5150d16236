"""A still image is convolved once by the stem, whatever the number of time steps; frames are convolved each."""

import pytest
import torch

from sbp_torch import resnet18


@pytest.mark.parametrize("steps", [1, 4])
def test_the_first_convolution_sees_each_still_image_once(steps):
    net = resnet18(widths=(4, 4, 4, 4), time_steps=steps)
    seen = []
    net.stem.conv.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    assert seen == [2]
    net(torch.rand(steps, 2, 3, 8, 8))
    assert seen == [2, 2 * steps]
