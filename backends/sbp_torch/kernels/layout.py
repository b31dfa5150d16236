"""How a tensor with time outermost lies in memory, so that dense input of any axis order is read in place."""

from __future__ import annotations

import torch
from torch import Tensor


class Layout:
    """Views of ``(time, batch, ...)`` as ``(time, neurons)``, without a copy where the memory is dense.

    Channels-last input is read as it lies. An input that is one step expanded over time is read as one row.
    """

    def __init__(self, x: Tensor) -> None:
        strides = x[0].stride()
        order = sorted(range(x.ndim - 1), key=lambda axis: (-strides[axis], axis))
        dense = x[0].permute(order).is_contiguous()
        if not dense or (len(x) > 1 and x.stride(0) not in (0, x[0].numel())):
            order = list(range(x.ndim - 1))
        self.step_order = order
        self.order = [0, *(axis + 1 for axis in order)]
        self.neurons = x[0].numel()

    def flat(self, x: Tensor) -> Tensor:
        """Return ``(time, neurons)``, or ``(1, neurons)`` of an input that is the same at each step."""
        return self.whole(x[:1] if len(x) > 1 and x.stride(0) == 0 else x)

    def whole(self, x: Tensor) -> Tensor:
        """Return ``(time, neurons)``, each step written out."""
        return x.detach().permute(self.order).contiguous().view(len(x), -1)

    def flat_step(self, part: Tensor) -> Tensor:
        """Return one step's values, ``(neurons,)``."""
        return part.detach().permute(self.step_order).contiguous().view(-1)

    def empty(self, x: Tensor) -> Tensor:
        """Return a new tensor like ``x`` that lies as the layout says."""
        return _permuted_empty(x, self.order)

    def empty_step(self, x: Tensor) -> Tensor:
        """Return a new tensor like one step of ``x`` that lies as the layout says."""
        return _permuted_empty(x[0], self.step_order)


def _permuted_empty(like: Tensor, order: list[int]) -> Tensor:
    # not a permuted view of a tensor: what a Function returns may be changed in place, a view of it may not
    strides, step = [0] * like.ndim, 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(1, like.shape[axis])
    return torch.empty_strided(like.shape, strides, dtype=like.dtype, device=like.device)
