"""The loss of a shortcut network, where main and branch logits are kept apart."""

from __future__ import annotations

import tensorflow as tf

from sbp_core.composition import ShortcutOutput, check_output, compose_loss, soft_cross_entropy
from sbp_core.specs.losses import LossSpec, as_loss
from sbp_core.specs.shortcut import Combine
from sbp_tf import namespace


class ShortcutLoss:
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
            labels: integer classes, ``(batch,)``, or soft ones as of mix-up, probabilities ``(batch, classes)``.
            coefficient: the weight of the branches; a number or a scalar tensor.

        Raises:
            TypeError, ValueError: what does not fit (:func:`sbp_core.composition.check_output`).
        """
        labels = tf.convert_to_tensor(labels)
        soft = check_output(self.spec, output, coefficient, labels.shape, labels.dtype.name)
        dtype = output.main.dtype

        def cross_entropy(logits: tf.Tensor) -> tf.Tensor:
            if soft:
                return soft_cross_entropy(logits, tf.cast(labels, dtype), log_softmax=tf.nn.log_softmax, xp=namespace)
            targets = tf.broadcast_to(labels, tf.shape(logits)[:-1])
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits))

        return compose_loss(
            self.spec,
            output,
            tf.cast(coefficient, dtype),
            labels=tf.argmax(labels, axis=-1) if soft else tf.cast(labels, tf.int64),
            cross_entropy=cross_entropy,
            log_softmax=tf.nn.log_softmax,
            detach=tf.stop_gradient,
            xp=namespace,
        )
