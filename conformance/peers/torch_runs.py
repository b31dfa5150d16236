"""What the peers on PyTorch share: run over time and differentiate; the gradient of a spike function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comparison import Array


def run_steps(forward: Callable[[torch.Tensor], torch.Tensor], x: Array, cotangent: Array) -> tuple[Array, Array]:
    """Return the spikes of ``forward`` and the gradient of ``sum(spikes * cotangent)`` with respect to ``x``."""
    inputs = torch.tensor(x, requires_grad=True)
    spikes = forward(inputs)
    (gradient,) = torch.autograd.grad((spikes * torch.tensor(cotangent)).sum(), inputs)
    return spikes.detach().numpy(), gradient.numpy()


def gradient_of(spike: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Array], Array]:
    """Return a function that gives the derivative of ``spike`` at each point."""

    def gradient(x: Array) -> Array:
        inputs = torch.tensor(x, requires_grad=True)
        (found,) = torch.autograd.grad(spike(inputs).sum(), inputs)
        return found.numpy()

    return gradient
