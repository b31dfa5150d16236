"""The PyTorch trainer: eager, on the graphics processor if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

import sbp_torch
from sbp_core import NetworkSpec
from sbp_lab.trainers import Array, Labels, StepResult
from sbp_torch.kernels.fused import LEAST_ELEMENTS


class TorchTrainer:
    """See :class:`sbp_lab.trainers.Trainer`."""

    def __init__(
        self,
        spec: NetworkSpec,
        weights: Mapping[str, Array],
        *,
        taps: Sequence[str],
        combine: Literal["logits", "losses"],
        weight_decay: float,
    ) -> None:
        self._net = sbp_torch.Network(spec)
        self._kernels = [weight for weight in self._net.parameters() if weight.ndim > 1]
        self._model: nn.Module = self._net
        if taps:
            # the loss composes: it takes the coefficient as an argument
            self._model = sbp_torch.Shortcut(self._net, taps, spec.num_classes, combine="losses")
        sbp_torch.import_weights(self._model, weights)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device)
        self._loss = sbp_torch.ShortcutLoss(combine)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), weight_decay=weight_decay, fused=True)

    def train_step(self, images: Array, labels: Labels, coefficient: float, learning_rate: float) -> StepResult:
        """Make one step on a batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._backward(images, labels, coefficient)
        self._optimizer.step()
        norms = [_norm(weight.grad) for weight in (self._kernels[0], self._kernels[-1])]
        return StepResult(loss.item(), *norms)

    @torch.no_grad()
    def predict(self, images: Array) -> Array:
        """Return the main output's logits."""
        self._net.eval()
        logits: Array = self._net(self._images(images)).cpu().numpy()
        return logits

    def gradients(self, images: Array, labels: Labels, coefficient: float) -> dict[str, Array]:
        """Return the gradient of every weight of the main network by canonical name."""
        before = sbp_torch.export_weights(self._model)
        self._backward(images, labels, coefficient)
        # the pass has moved the running statistics
        sbp_torch.import_weights(self._model, before)
        return {
            name: parameter.grad.cpu().numpy()
            for name, parameter in self._net.named_parameters()
            if parameter.grad is not None
        }

    def _backward(self, images: Array, labels: Labels, coefficient: float) -> torch.Tensor:
        self._model.train()
        self._optimizer.zero_grad()
        output = self._model(self._images(images))
        if isinstance(output, torch.Tensor):
            output = sbp_torch.ShortcutOutput(output, ())
        loss: torch.Tensor = self._loss(output, torch.as_tensor(labels, device=self._device), coefficient)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _images(self, images: Array) -> torch.Tensor:
        # contiguous() keeps strides that one channel makes look like channels last, at which PyTorch's convolutions
        # write beyond their memory on some processors
        channels_first = torch.as_tensor(images, device=self._device).permute(0, 3, 1, 2)
        return channels_first.clone(memory_format=torch.contiguous_format)


def _norm(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.norm().item()


make_trainer = TorchTrainer


def devices() -> list[str]:
    """Return the devices that PyTorch sees."""
    return ["cpu", *(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))]


def neurons() -> str:
    """Return how a neuron is computed on each device (:func:`sbp_torch.implementation_for`)."""
    found = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        large, small = (sbp_torch.implementation_for(torch.empty(1, n, device=device)) for n in (LEAST_ELEMENTS, 1))
        found.append(f"{device}: {large}" if large == small else f"{device}: {large}, {small} for small input")
    return "; ".join(found)


def limit_threads() -> None:
    """Use one thread in this process."""
    torch.set_num_threads(1)
