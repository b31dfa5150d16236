"""The loss of a shortcut network, where main and branch logits are kept apart."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from sbp_core import validation
from sbp_core.composition import ShortcutOutput, sum_logits, sum_losses


class ShortcutLoss:
    """Cross-entropy of main and branch logits, composed.

    ``combine="losses"``: ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; ``combine="logits"``:
    ``CE(main + coefficient * sum_l branch_l, y)`` (Guo et al. 2024, Eq. 6-10).

    Args:
        combine: which of the two.

    Raises:
        ValueError: another composition.

    Example:
        >>> import tensorflow as tf
        >>> zeros = tf.zeros((1, 2))
        >>> round(float(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), tf.constant([0]), 1.0)), 4)
        1.3863
    """

    def __init__(self, combine: Literal["logits", "losses"] = "losses") -> None:
        self.combine = validation.choice("combine", combine, ("logits", "losses"))

    def __call__(
        self, output: ShortcutOutput, labels: tf.Tensor, coefficient: float | tf.Tensor | tf.Variable
    ) -> tf.Tensor:
        """Return the composed loss, a scalar of the logits' dtype.

        Args:
            output: main logits ``(batch, classes)``, and the branches'.
            labels: integer classes, ``(batch,)``.
            coefficient: the weight of the branches; a number or a scalar tensor.

        Raises:
            TypeError: ``output`` is not a ShortcutOutput, or the labels are not integers.
            ValueError: labels of another shape.
        """
        if not isinstance(output, ShortcutOutput):
            raise TypeError(f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}")
        weight = tf.cast(coefficient, output.main.dtype)
        if self.combine == "logits":
            return _cross_entropy(sum_logits(output.main, output.branches, weight), labels)
        branches = [_cross_entropy(branch, labels) for branch in output.branches]
        return sum_losses(_cross_entropy(output.main, labels), branches, weight)


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer:
        raise TypeError(f"labels must be integer classes, got {labels.dtype.name}")
    if not labels.shape.is_compatible_with(logits.shape[:1]):
        raise ValueError(f"labels must have shape (batch,), {tuple(logits.shape[:1])}; got {tuple(labels.shape)}")
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
