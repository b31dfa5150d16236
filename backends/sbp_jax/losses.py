"""The loss of a shortcut network whose branches are kept apart."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sbp_core.composition import ShortcutOutput, check_output, compose_loss, soft_cross_entropy
from sbp_core.specs.losses import LossSpec, as_loss
from sbp_core.specs.shortcut import Combine
from sbp_jax.coefficient import scalar


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
        >>> zeros = jnp.zeros((1, 2))
        >>> round(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), jnp.array([0]), 1.0).item(), 4)
        1.3863
        >>> distil = ShortcutLoss(LossSpec(distillation=0.5, temperature=3.0))
        >>> round(distil(ShortcutOutput(zeros, (zeros,)), jnp.array([0]), 1.0).item(), 4)
        1.0397
    """

    def __init__(self, spec: LossSpec | Combine = "losses") -> None:
        self.spec = as_loss(spec)

    def __call__(self, output: ShortcutOutput, labels: jax.Array, coefficient: Any) -> jax.Array:
        """Return the composed loss, a scalar.

        Args:
            output: main logits ``(batch, classes)``, ``(time, batch, classes)`` where ``spec.timed``; and the
                branches'.
            labels: integer classes, ``(batch,)``, or soft ones as of mix-up, probabilities ``(batch, classes)``.
            coefficient: the weight of the branches, a number or a scalar array, traced or not.

        Raises:
            TypeError, ValueError: what does not fit (:func:`sbp_core.composition.check_output`).
        """
        labels = jnp.asarray(labels)
        soft = check_output(self.spec, output, coefficient, labels.shape, labels.dtype.name)

        def cross_entropy(logits: jax.Array) -> Any:
            if soft:
                return soft_cross_entropy(logits, labels.astype(logits.dtype), log_softmax=jax.nn.log_softmax, xp=jnp)
            targets = jnp.broadcast_to(labels, logits.shape[:-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

        loss: jax.Array = compose_loss(
            self.spec,
            output,
            scalar(coefficient, output.main.dtype),
            labels=jnp.argmax(labels, axis=-1) if soft else labels,
            cross_entropy=cross_entropy,
            log_softmax=jax.nn.log_softmax,
            detach=lax.stop_gradient,
            xp=jnp,
        )
        return loss
