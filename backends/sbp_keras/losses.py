"""The loss of a shortcut network, for training loops of one's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from keras import ops

from sbp_core.composition import ShortcutOutput, compose_loss
from sbp_core.specs.losses import Combine, LossSpec, as_loss
from sbp_keras.numerics import cross_entropy, mean

_NAMESPACE = SimpleNamespace(mean=lambda x: mean(x, tuple(range(len(x.shape)))), sum=ops.sum, exp=ops.exp)


class ShortcutLoss:
    """The loss of main and branch logits (equations: :func:`sbp_core.composition.compose_loss`).

    "losses": ``CE(main, y) + coefficient * sum_l CE(branch_l, y)``; "logits": ``CE(main + coefficient * sum_l branch_l,
    y)`` (Guo et al. 2024, Eq. 6-10). A :class:`~sbp_core.LossSpec` says these and more: supervision of every time step,
    distillation of the branches from the main output.

    Args:
        spec: a LossSpec, or the name of a composition.

    Raises:
        ValueError: another composition.
        TypeError: neither a LossSpec nor a name.

    Example:
        >>> import numpy as np
        >>> zeros = ops.zeros((1, 2))
        >>> round(float(ShortcutLoss()(ShortcutOutput(zeros, (zeros,)), np.array([0]), 1.0)), 4)
        1.3863
        >>> distil = ShortcutLoss(LossSpec(distillation=0.5, temperature=3.0))
        >>> round(float(distil(ShortcutOutput(zeros, (zeros,)), np.array([0]), 1.0)), 4)
        1.0397
    """

    def __init__(self, spec: LossSpec | Combine = "losses") -> None:
        self.spec = as_loss(spec)

    def __call__(self, output: ShortcutOutput, labels: Any, coefficient: Any) -> Any:
        """Return the composed loss, a scalar.

        Args:
            output: main logits ``(batch, classes)``, ``(batch, time, classes)`` where ``spec.per_step``; and the
                branches'.
            labels: integer classes, ``(batch,)``.
            coefficient: the weight of the branches; a number or a scalar tensor.

        Raises:
            TypeError: ``output`` is not a ShortcutOutput, or the labels are not integers.
            ValueError: logits of another rank, or labels of another shape.
        """
        if not isinstance(output, ShortcutOutput):
            raise TypeError(f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}")
        main, labels = output.main, ops.convert_to_tensor(labels)
        if "int" not in str(labels.dtype):
            raise TypeError(f"labels must be integer classes, got {labels.dtype}")
        self.spec.check_logits(tuple(main.shape), tuple(labels.shape), batch_axis=0)
        if self.spec.per_step:
            labels = ops.repeat(ops.expand_dims(labels, 1), main.shape[1], axis=1)
        return compose_loss(
            self.spec,
            output,
            ops.cast(coefficient, main.dtype),
            cross_entropy=lambda logits: cross_entropy(logits, labels),
            log_softmax=ops.log_softmax,
            detach=ops.stop_gradient,
            xp=_NAMESPACE,
        )
