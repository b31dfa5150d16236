"""Cross-entropy and the compositions of branches, with gradients by hand, in float64 NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sbp_core.composition import ShortcutOutput, compose_loss, sum_logits
from sbp_core.specs.losses import LossSpec

Float64 = NDArray[np.float64]


#: Integer classes, ``(batch,)``, or probabilities, ``(batch, classes)``.
Labels = NDArray[np.integer] | Float64


def cross_entropy(logits: Float64, labels: Labels) -> tuple[float, Float64]:
    """Return the mean cross-entropy of ``logits``, ``(batch, classes)``, and its gradient ``(softmax - y) / batch``.

    Soft labels y need not sum to 1: their gradient is ``(sum_k y_k * softmax - y) / batch``.

    Example:
        >>> import numpy as np
        >>> value, gradient = cross_entropy(np.zeros((1, 2)), np.array([0]))
        >>> round(value, 6), gradient.tolist()
        (0.693147, [[-0.5, 0.5]])
    """
    log_softmax = _log_softmax(logits)
    if labels.ndim == 2:
        share = np.multiply(labels, log_softmax, where=labels != 0, out=np.zeros_like(log_softmax))
        total = labels.sum(-1, keepdims=True)
        return float(-share.sum(-1).mean()), (total * np.exp(log_softmax) - labels) / len(labels)
    rows = np.arange(len(labels))
    residual = np.exp(log_softmax)
    residual[rows, labels] -= 1.0
    return float(-log_softmax[rows, labels].mean()), residual / len(labels)


def loss_of(
    spec: LossSpec, main: Float64, branches: Sequence[Float64], labels: Labels, coefficient: float
) -> tuple[float, Float64, tuple[Float64, ...]]:
    """Return the loss of a spec and its gradients with respect to the main and the branches' logits.

    Value by :func:`~sbp_core.composition.compose_loss`. With N rows of logits (time and batch), p and q the softened
    classes of teacher and student::

        dS/do = (1 - m) * dC/do + m * 2 * (o - phi) / (N * classes)
        dC/do = ((1 - epsilon) * (softmax(o) - y) + epsilon * (softmax(o) - 1 / classes)) / N
        dD/db   = tau * (q - p) / N
        dD/db_n = tau * p * (log p - log q - KL) / N          0 if the teacher is detached

    Args:
        spec: the composition.
        main: ``(batch, classes)``, or ``(time, batch, classes)`` where ``spec.per_step``.
        branches: the same shape each.
        labels: integer classes, ``(batch,)``, or probabilities, ``(batch, classes)``.
        coefficient: lambda.
    """
    value = compose_loss(
        spec,
        ShortcutOutput(main, tuple(branches)),
        coefficient,
        cross_entropy=lambda logits: _mean_cross_entropy(logits, labels)[0],
        log_softmax=_log_softmax,
        detach=np.copy,
        xp=np,
    )
    if spec.combine == "logits":
        gradient = _supervised_gradient(spec, sum_logits(main, branches, coefficient), labels)
        return float(value), gradient, tuple(coefficient * gradient for _ in branches)
    grad_main = _supervised_gradient(spec, main, labels)
    grad_branches = []
    share = spec.distillation
    for branch in branches:
        to_teacher, to_student = _divergence_gradients(main, branch, spec.temperature)
        supervised = _supervised_gradient(spec, branch, labels)
        grad_branches.append(coefficient * ((1.0 - share) * supervised + share * to_student))
        if not spec.detach_teacher:
            grad_main = grad_main + coefficient * share * to_teacher
    return float(value), grad_main, tuple(grad_branches)


def _mean_cross_entropy(logits: Float64, labels: Labels) -> tuple[float, Float64]:
    rows = logits.reshape(-1, logits.shape[-1])
    value, gradient = cross_entropy(rows, np.concatenate([labels] * (len(rows) // len(labels))))
    return value, gradient.reshape(logits.shape)


def _supervised_gradient(spec: LossSpec, logits: Float64, labels: Labels) -> Float64:
    _, gradient = _mean_cross_entropy(logits, labels)
    if spec.label_smoothing:
        even = (np.exp(_log_softmax(logits)) - 1.0 / logits.shape[-1]) * (logits.shape[-1] / logits.size)
        gradient = (1.0 - spec.label_smoothing) * gradient + spec.label_smoothing * even
    if not spec.per_step:
        return gradient
    return (1.0 - spec.level_weight) * gradient + spec.level_weight * 2.0 * (logits - spec.level) / logits.size


def _divergence_gradients(teacher: Float64, student: Float64, temperature: float) -> tuple[Float64, Float64]:
    log_p, log_q = _log_softmax(teacher / temperature), _log_softmax(student / temperature)
    p, difference = np.exp(log_p), log_p - log_q
    divergence = (p * difference).sum(-1, keepdims=True)
    scale = temperature / (teacher.size // teacher.shape[-1])
    return scale * p * (difference - divergence), scale * (np.exp(log_q) - p)


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(-1, keepdims=True)
    found: Float64 = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found
