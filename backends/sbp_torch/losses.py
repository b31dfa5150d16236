"""The loss of a shortcut network."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits, sum_losses


class ShortcutLoss(nn.Module):
    """Cross-entropy of main and branch logits, composed; the mean over the batch.

    ``combine="losses"``: ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; ``combine="logits"``:
    ``CE(main + coefficient * sum_l branch_l, y)`` (Guo et al. 2024, Eq. 6-10).

    Args:
        combine: which of the two.

    Raises:
        ValueError: another composition.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(1, 2)
        >>> round(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), torch.tensor([0]), 1.0).item(), 4)
        1.3863
    """

    def __init__(self, combine: Literal["logits", "losses"] = "losses") -> None:
        super().__init__()
        self.combine = validation.choice("combine", combine, ("logits", "losses"))

    def forward(self, output: ShortcutOutput, labels: Tensor, coefficient: Tensor | float) -> Tensor:
        """Return the composed loss, a scalar.

        Args:
            output: main logits ``(batch, classes)``, and the branches'.
            labels: integer classes, ``(batch,)``.
            coefficient: the weight of the branches; a number or a 0-d tensor.

        Raises:
            TypeError: ``output`` is not a ShortcutOutput, or ``labels`` are not integers.
        """
        if not isinstance(output, ShortcutOutput):
            raise TypeError(
                f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}; a Shortcut returns one "
                "in training with combine='losses'"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"labels must hold integer classes, got {labels.dtype}")
        if self.combine == "logits":
            return _cross_entropy(sum_logits(output.main, output.branches, coefficient), labels)
        branches = [_cross_entropy(branch, labels) for branch in output.branches]
        total: Tensor = sum_losses(_cross_entropy(output.main, labels), branches, coefficient)
        return total

    def extra_repr(self) -> str:
        """Return the composition, for printing."""
        return f"combine={self.combine!r}"


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels.long())
