"""The loss of a shortcut network, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from keras import ops

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits, sum_losses
from sbp_keras.numerics import cross_entropy


class ShortcutLoss:
    """Cross-entropy of main and branch logits, composed.

    ``combine="losses"``: ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; ``combine="logits"``:
    ``CE(main + coefficient * sum_l branch_l, y)`` (Guo et al. 2024, Eq. 6-10).

    Args:
        combine: which of the two.

    Raises:
        ValueError: another composition.

    Example:
        >>> import numpy as np
        >>> zeros = ops.zeros((1, 2))
        >>> round(float(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), np.array([0]), 1.0)), 4)
        1.3863
    """

    def __init__(self, combine: Literal["logits", "losses"] = "losses") -> None:
        self.combine = validation.choice("combine", combine, ("logits", "losses"))

    def __call__(self, output: ShortcutOutput, labels: Any, coefficient: Any) -> Any:
        """Return the composed loss, a scalar.

        Args:
            output: main logits ``(batch, classes)``, and the branches'.
            labels: integer classes, ``(batch,)``.
            coefficient: the weight of the branches; a number or a scalar tensor.

        Raises:
            TypeError: ``output`` is not a ShortcutOutput.
        """
        if not isinstance(output, ShortcutOutput):
            raise TypeError(f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}")
        weight = ops.cast(coefficient, output.main.dtype)
        if self.combine == "logits":
            return cross_entropy(sum_logits(output.main, output.branches, weight), labels)
        branches = [cross_entropy(branch, labels) for branch in output.branches]
        return sum_losses(cross_entropy(output.main, labels), branches, weight)


def main_output(output: Any) -> Any:
    """Return the main logits of what a model gave, composed or not."""
    return output.main if isinstance(output, ShortcutOutput) else output


def branch_outputs(output: Any) -> Sequence[Any]:
    """Return the branches' logits of what a model gave, none if they were not kept apart."""
    return output.branches if isinstance(output, ShortcutOutput) else ()
