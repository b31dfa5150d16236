"""The loss of a shortcut network."""

from __future__ import annotations

import array_api_compat.torch as xp
from torch import Tensor, nn
from torch.nn import functional

from sbp_core.composition import ShortcutOutput, check_output, compose_loss, soft_cross_entropy
from sbp_core.specs.losses import LossSpec, as_loss
from sbp_core.specs.shortcut import Combine


class ShortcutLoss(nn.Module):
    """The loss of main and branch logits (equations: :func:`sbp_core.composition.compose_loss`).

    "losses": ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; "logits": ``CE(main + coefficient * sum_l branch_l,
    y)`` (Guo et al. 2024, Eq. 6-10). A :class:`~sbp_core.LossSpec` says these and more: supervision of every time step,
    distillation of the branches and between time steps, label smoothing.

    Args:
        spec: a LossSpec, or the name of a composition.

    Raises:
        ValueError: another composition.
        TypeError: neither a LossSpec nor a name.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(1, 2)
        >>> round(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), torch.tensor([0]), 1.0).item(), 4)
        1.3863
        >>> distil = ShortcutLoss(LossSpec(distillation=0.5, temperature=3.0))
        >>> round(distil(ShortcutOutput(zeros, (zeros,)), torch.tensor([0]), 1.0).item(), 4)
        1.0397
    """

    def __init__(self, spec: LossSpec | Combine = "losses") -> None:
        super().__init__()
        self.spec = as_loss(spec)

    def forward(self, output: ShortcutOutput, labels: Tensor, coefficient: Tensor | float) -> Tensor:
        """Return the composed loss, a scalar.

        Args:
            output: main logits ``(batch, classes)``, ``(time, batch, classes)`` where ``spec.timed``; and the
                branches'.
            labels: integer classes, ``(batch,)``, or soft ones as of mix-up, probabilities ``(batch, classes)``.
            coefficient: the weight of the branches; a number or a 0-d tensor.

        Raises:
            TypeError, ValueError: what does not fit (:func:`sbp_core.composition.check_output`).
        """
        soft = check_output(self.spec, output, coefficient, labels.shape, labels.dtype)

        def log_softmax(logits: Tensor) -> Tensor:
            return functional.log_softmax(logits, dim=-1)

        def cross_entropy(logits: Tensor) -> Tensor:
            if soft:
                mean: Tensor = soft_cross_entropy(logits, labels.to(logits.dtype), log_softmax=log_softmax, xp=xp)
                return mean
            targets = labels.long().expand(logits.shape[:-1]).flatten()
            return functional.cross_entropy(logits.flatten(0, -2), targets)

        loss: Tensor = compose_loss(
            self.spec,
            output,
            coefficient,
            labels=labels.argmax(-1) if soft else labels,
            cross_entropy=cross_entropy,
            log_softmax=log_softmax,
            detach=Tensor.detach,
            xp=xp,
        )
        return loss

    def extra_repr(self) -> str:
        """Return the spec, for printing."""
        return repr(self.spec)
