"""The loss of a shortcut network whose branches are kept apart."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits, sum_losses


class ShortcutLoss:
    """Mean cross-entropy of main and branch logits, composed.

    ``combine="losses"``: ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; ``combine="logits"``:
    ``CE(main + coefficient * sum_l branch_l, y)`` (Guo et al. 2024, Eq. 6-10).

    Args:
        combine: which of the two.

    Raises:
        ValueError: another composition.

    Example:
        >>> zeros = jnp.zeros((1, 2))
        >>> round(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), jnp.array([0]), 1.0).item(), 4)
        1.3863
    """

    def __init__(self, combine: Literal["logits", "losses"] = "losses") -> None:
        self.combine = validation.choice("combine", combine, ("logits", "losses"))

    def __call__(self, output: ShortcutOutput, labels: jax.Array, coefficient: Any) -> jax.Array:
        """Return the composed loss, a scalar.

        Args:
            output: main logits ``(batch, classes)``, and the branches'.
            labels: integer classes, ``(batch,)``.
            coefficient: the weight of the branches, a number or a scalar array, traced or not.

        Raises:
            TypeError: ``output`` is not a ShortcutOutput, or labels that are not integers.
            ValueError: labels of another shape.
        """
        if not isinstance(output, ShortcutOutput):
            raise TypeError(f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}")
        labels = jnp.asarray(labels)
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels must be integers, got {labels.dtype.name}")
        if labels.shape != output.main.shape[:-1]:
            raise ValueError(f"labels must have shape {output.main.shape[:-1]}, got {labels.shape}")
        weight = jnp.asarray(coefficient, output.main.dtype)
        if self.combine == "logits":
            return _cross_entropy(sum_logits(output.main, output.branches, weight), labels)
        branches = [_cross_entropy(branch, labels) for branch in output.branches]
        total: jax.Array = sum_losses(_cross_entropy(output.main, labels), branches, weight)
        return total


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()
