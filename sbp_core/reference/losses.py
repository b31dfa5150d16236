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

    Value by :func:`~sbp_core.composition.compose_loss`. With N rows of logits (time and batch; of a distance those that
    count), p and q the softened classes of teacher r and student::

        dS/do = (1 - m) * dC/do + m * 2 * (o - phi) / (N * classes) + beta * dE/do
        dC/do = ((1 - epsilon) * (softmax(o) - y) + epsilon * (softmax(o) - 1 / classes)) / N
        dD/db = tau * (q - p) / N
        dD/dr = tau * p * (log p - log q - KL) / N          0 if the teacher is detached

    The gradient of a mean, over steps or over the outputs that are right, is shared evenly among them.

    Args:
        spec: the composition.
        main: ``(batch, classes)``, or ``(time, batch, classes)`` where ``spec.timed``.
        branches: the same shape each.
        labels: integer classes, ``(batch,)``, or probabilities, ``(batch, classes)``.
        coefficient: lambda.
    """
    value = compose_loss(
        spec,
        ShortcutOutput(main, tuple(branches)),
        coefficient,
        labels=_classes(labels),
        cross_entropy=lambda logits: _mean_cross_entropy(logits, labels)[0],
        log_softmax=_log_softmax,
        detach=np.copy,
        xp=np,
    )
    if spec.combine == "logits":
        gradient = _supervised_gradient(spec, sum_logits(main, branches, coefficient), labels)
        return float(value), gradient, tuple(coefficient * gradient for _ in branches)
    heads = np.stack([main, *branches])
    total = np.zeros_like(heads)
    for place, head in enumerate(heads):
        weight = coefficient if place else 1.0
        share = spec.distillation if place or spec.teacher == "right" else 0.0
        total[place] += weight * (1.0 - share) * _supervised_gradient(spec, head, labels)
        if share:
            total += weight * share * _taught_gradient(spec, heads, place, labels)
    return float(value), total[0], tuple(total[1:])


def _classes(labels: Labels) -> NDArray[np.integer]:
    found: NDArray[np.integer] = labels.argmax(-1) if labels.ndim == 2 else labels.astype(np.int64)
    return found


def _mean_cross_entropy(logits: Float64, labels: Labels) -> tuple[float, Float64]:
    rows = logits.reshape(-1, logits.shape[-1])
    value, gradient = cross_entropy(rows, np.concatenate([labels] * (len(rows) // len(labels))))
    return value, gradient.reshape(logits.shape)


def _supervised_gradient(spec: LossSpec, logits: Float64, labels: Labels) -> Float64:
    averaged = spec.timed and not spec.per_step
    held = logits.mean(0) if averaged else logits
    _, gradient = _mean_cross_entropy(held, labels)
    if spec.label_smoothing:
        even = (np.exp(_log_softmax(held)) - 1.0 / held.shape[-1]) * (held.shape[-1] / held.size)
        gradient = (1.0 - spec.label_smoothing) * gradient + spec.label_smoothing * even
    if averaged:
        gradient = np.stack([gradient / len(logits)] * len(logits))
    if spec.per_step:
        pull = 2.0 * (logits - spec.level) / logits.size
        gradient = (1.0 - spec.level_weight) * gradient + spec.level_weight * pull
    return gradient + spec.step_distillation * _steps_gradient(spec, logits, labels)


def _taught_gradient(spec: LossSpec, heads: Float64, student: int, labels: Labels) -> Float64:
    """Return the gradient of one head's distance to its teacher with respect to every head."""
    averaged = spec.timed and not spec.per_step
    held = heads.mean(1) if averaged else heads
    teaches = np.zeros(held.shape[:-1])
    teaches[0] = 1.0
    if spec.teacher == "right":
        teaches = _shares(held.argmax(-1) == _classes(labels))
    teacher = (teaches[..., None] * held).sum(0)
    to_teacher, to_student = _divergence_gradients(teacher, held[student], teaches.sum(0) > 0.0, spec.temperature)
    total = np.zeros_like(held)
    total[student] += to_student
    if not spec.detach_teacher:
        total += teaches[..., None] * to_teacher
    return np.repeat(total[:, None], heads.shape[1], 1) / heads.shape[1] if averaged else total


def _steps_gradient(spec: LossSpec, logits: Float64, labels: Labels) -> Float64:
    """Return the gradient of what the steps of logits, ``(time, batch, classes)``, learn from each other."""
    if not spec.step_distillation:
        return np.zeros_like(logits)
    if spec.step_teacher == "right":
        right = logits.argmax(-1) == _classes(labels)
        teaches = _shares(right)
        learns = np.ones_like(teaches)
        student, among = logits, right.any(0) & ~right
    else:
        sure = np.exp(_log_softmax(logits)).max(-1).mean(-1)
        ends = [_shares(sure == sure.max())[:, None], _shares(sure == sure.min())[:, None]]
        teaches, learns = ends if spec.step_teacher == "strong" else reversed(ends)
        student = (learns[..., None] * logits).sum(0)
        among = np.ones(student.shape[:-1], bool)
    teacher = (teaches[..., None] * logits).sum(0)
    to_teacher, to_student = _divergence_gradients(teacher, student, among, spec.temperature)
    gradient = learns[..., None] * to_student
    if not spec.detach_teacher:
        gradient = gradient + teaches[..., None] * to_teacher.reshape(-1, *teacher.shape).sum(0)
    return gradient


def _shares(chosen: NDArray[np.bool_]) -> Float64:
    """Return the weights of a mean over the chosen along the first axis."""
    found: Float64 = chosen / np.maximum(chosen.sum(0), 1)
    return found


def _divergence_gradients(
    teacher: Float64, student: Float64, among: NDArray[np.bool_], temperature: float
) -> tuple[Float64, Float64]:
    log_p, log_q = _log_softmax(teacher / temperature), _log_softmax(student / temperature)
    p, difference = np.exp(log_p), log_p - log_q
    divergence = (p * difference).sum(-1, keepdims=True)
    scale = temperature * among[..., None] / max(among.sum(), 1)
    return scale * p * (difference - divergence), scale * (np.exp(log_q) - p)


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(-1, keepdims=True)
    found: Float64 = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found
