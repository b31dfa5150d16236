"""The loss of a shortcut network, where main and branch logits are kept apart."""

from __future__ import annotations

import tensorflow as tf

from sbp_core.composition import ShortcutOutput, compose_loss
from sbp_core.specs.losses import LossSpec, as_loss
from sbp_core.specs.shortcut import Combine
from sbp_tf import namespace


class ShortcutLoss:
    """The loss of main and branch logits (equations: :func:`sbp_core.composition.compose_loss`).

    "losses": ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; "logits": ``CE(main + coefficient * sum_l branch_l,
    y)`` (Guo et al. 2024, Eq. 6-10). A :class:`~sbp_core.LossSpec` says these and more: supervision of every time step,
    distillation of the branches and between time steps.

    Args:
        spec: a LossSpec, or the name of a composition.

    Raises:
        ValueError: another composition.
        TypeError: neither a LossSpec nor a name.

    Example:
        >>> import tensorflow as tf
        >>> zeros = tf.zeros((1, 2))
        >>> round(float(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), tf.constant([0]), 1.0)), 4)
        1.3863
        >>> distil = ShortcutLoss(LossSpec(distillation=0.5, temperature=3.0))
        >>> round(float(distil(ShortcutOutput(zeros, (zeros,)), tf.constant([0]), 1.0)), 4)
        1.0397
    """

    def __init__(self, spec: LossSpec | Combine = "losses") -> None:
        self.spec = as_loss(spec)

    def __call__(
        self, output: ShortcutOutput, labels: tf.Tensor, coefficient: float | tf.Tensor | tf.Variable
    ) -> tf.Tensor:
        """Return the composed loss, a scalar of the logits' dtype.

        Args:
            output: main logits ``(batch, classes)``, ``(time, batch, classes)`` where ``spec.timed``; and the
                branches'.
            labels: integer classes, ``(batch,)``.
            coefficient: the weight of the branches; a number or a scalar tensor.

        Raises:
            TypeError: ``output`` is not a ShortcutOutput, or the labels are not integers.
            ValueError: logits of another rank, or labels of another shape.
        """
        if not isinstance(output, ShortcutOutput):
            raise TypeError(f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}")
        labels = tf.convert_to_tensor(labels)
        if not labels.dtype.is_integer:
            raise TypeError(f"labels must be integer classes, got {labels.dtype.name}")
        main = tf.convert_to_tensor(output.main)
        self.spec.check_logits(tuple(main.shape), tuple(labels.shape))
        return compose_loss(
            self.spec,
            output,
            tf.cast(coefficient, main.dtype),
            labels=tf.cast(labels, tf.int64),
            cross_entropy=lambda logits: _cross_entropy(logits, labels),
            log_softmax=tf.nn.log_softmax,
            detach=tf.stop_gradient,
            xp=namespace,
        )


def _cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    targets = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))
