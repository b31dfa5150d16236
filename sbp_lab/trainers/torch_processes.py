"""Several processes that train one PyTorch network, each with its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sbp_lab.trainers.processes import LeftAloneError
from sbp_torch import LIF


class TorchProcesses:
    """See :class:`sbp_lab.trainers.processes.Processes`; over ``torch.distributed``, which must be initialised.

    Args:
        make_trainer: makes a trainer that is told of these processes.
    """

    def __init__(self, make_trainer: Callable[..., Any]) -> None:
        self.index, self.count = dist.get_rank(), dist.get_world_size()
        self._make_trainer = make_trainer

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum over all processes."""
        tensor = torch.tensor(values)
        with _left_alone():
            dist.all_reduce(tensor)
        return tensor.numpy()

    def largest(self, value: int) -> int:
        """Return the largest value that a process gave."""
        tensor = torch.tensor(value)
        with _left_alone():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def from_first(self, value: Any) -> Any:
        """Return what the first process gave."""
        held = [value if self.index == 0 else None]
        with _left_alone():
            dist.broadcast_object_list(held, device=torch.device("cpu"))
        return held[0]

    def make_trainer(self, network: Any, weights: Any, options: Any) -> Any:
        """Make this process's trainer."""
        return self._make_trainer(network, weights, options, self)

    def device(self) -> torch.device:
        """Return the device of this process."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", self.index)) % torch.cuda.device_count())

    def distributed(self, model: nn.Module, *, unused: bool) -> nn.Module:
        """Return the model with the mean of all processes' gradients.

        Args:
            model: on its device.
            unused: whether it may have parameters that a step does not reach.
        """
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=unused)

    def total(self, figures: Tensor) -> Tensor:
        """Return the sum over all processes, on the figures' device."""
        with _left_alone():
            dist.all_reduce(figures)
        return figures

    def whole(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the batch of which each process has rows, one part after the other."""
        parts: list[Any] = [None] * self.count
        with _left_alone():
            dist.all_gather_object(parts, rows)
        return np.concatenate(parts)


@contextmanager
def joined(make_trainer: Callable[..., Any]) -> Iterator[TorchProcesses]:
    """Join the processes that torchrun started; a group that the caller has joined already is used, and left alone."""
    if dist.is_initialized():
        yield TorchProcesses(make_trainer)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield TorchProcesses(make_trainer)
    # not after an error: what still holds the model would wait for the group, and the others have ended or will
    dist.barrier()
    dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each one's loss depends on each one's part: the gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(_BatchNorm):
    """Batch norm by the statistics of all processes' samples, on any device: ``nn.SyncBatchNorm`` refuses the CPU.

    Every process must have as many samples as the others.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input; in evaluation by the running statistics."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _total(x.sum(axes)) / count
        centred = x - _over(mean, x)
        variance = _total(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach(), count)
        y = centred * _over(torch.rsqrt(variance + self.eps), x)
        if self.affine:
            y = y * _over(self.weight, x) + _over(self.bias, x)
        return y.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input must have at least 2 axes, got {input.ndim}")

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (count / max(count - 1, 1))).to(self.running_var.dtype), share)


class SyncedLIF(LIF):
    """A neuron whose start follows the potentials of all processes' samples."""

    def over_processes(self, sums: Tensor) -> Tensor:
        """Return the sum over all processes."""
        dist.all_reduce(sums)
        return sums


def synchronised(module: nn.Module) -> nn.Module:
    """Return the module with what averages over a batch replaced by what averages over those of all processes.

    That are PyTorch's own batch norms, and neurons whose start follows; parameters and buffers are the same.

    Example:
        >>> net = synchronised(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        >>> type(net[1]).__name__, len(list(net.parameters()))
        ('SyncedBatchNorm', 4)
    """
    if isinstance(module, _BatchNorm) and type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        made = SyncedBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        made._parameters, made._buffers = module._parameters, module._buffers
        return made.train(module.training)
    if isinstance(module, LIF) and module.spec.initial_follows:
        neuron = SyncedLIF(module.spec, implementation=module.implementation)
        neuron._parameters, neuron._buffers = module._parameters, module._buffers
        return neuron.train(module.training)
    for name, child in module.named_children():
        new = synchronised(child)
        if new is not child:
            setattr(module, name, new)
    return module


def _total(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]  # torch's
    return total


def _over(channels: Tensor, x: Tensor) -> Tensor:
    return channels.reshape(1, -1, *[1] * (x.ndim - 2))


@contextmanager
def _left_alone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LeftAloneError(f"another of the {dist.get_world_size()} processes has ended ({error})") from None
