"""How branches join the main output, over plain operators and an array namespace, so any framework's arrays pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sbp_core.specs.losses import LossSpec


class ShortcutOutput(NamedTuple):
    """Logits of the main output, and of each branch in the order of the taps.

    Each ``(batch, classes)``, or with an axis of time where every step gives its own.
    """

    main: Any
    branches: tuple[Any, ...]


def sum_logits(main: Any, branches: Sequence[Any], coefficient: Any) -> Any:
    """Return ``o_final = b_n + lambda * sum_l b_l`` (Guo et al. 2024, Eq. 6 and 10); ``coefficient`` is lambda.

    The branches are multiplied by the coefficient even when it is 0: a branch that is skipped leaves its parameters
    without a gradient, and distributed training then fails at the next step.

    Example:
        >>> sum_logits(1.0, [2.0, 4.0], 0.25)
        2.5
    """
    return main + coefficient * _sum(branches)


def sum_losses(main: Any, branches: Sequence[Any], coefficient: Any) -> Any:
    """Return ``L = L_main + lambda * sum_l L_l``, the weighted sum of losses (the paper's introduction).

    Example:
        >>> sum_losses(1.0, [2.0, 4.0], 0.25)
        2.5
    """
    return main + coefficient * _sum(branches)


def compose_loss(
    spec: LossSpec,
    output: ShortcutOutput,
    coefficient: Any,
    *,
    cross_entropy: Callable[[Any], Any],
    log_softmax: Callable[[Any], Any],
    detach: Callable[[Any], Any],
    xp: Any,
) -> Any:
    r"""Return the loss of main and branch logits.

    With y the labels, lambda the coefficient, o the logits of all steps or, without ``per_step``, their mean::

        L = S(b_n + lambda * sum_l b_l)                      combine="logits"  (Guo et al. 2024, Eq. 6-10)
        L = S(b_n) + lambda * sum_l B(b_l)                   combine="losses"
        S(o) = C(o)
        S(o) = (1 - m) * mean_t C(o_t) + m * mean((o - phi)^2)           per_step (TET, Deng et al. 2022)
        C(o) = (1 - epsilon) * CE(o, y) - epsilon * mean_k log softmax(o)_k                    label smoothing
        B(b) = (1 - alpha) * S(b) + alpha * D(b_n, b)                    alpha = 0 unless distilled

    D is :func:`divergence`; the teacher b_n is detached in it if ``detach_teacher``.

    Args:
        spec: which of them.
        output: logits, ``(..., classes)``.
        coefficient: lambda.
        cross_entropy: logits to their mean cross-entropy with the labels, over all axes but the last.
        log_softmax: of the last axis.
        detach: stops the gradient.
        xp: the array namespace of the logits.

    Returns:
        A scalar.

    Example:
        >>> import numpy as np
        >>> output = ShortcutOutput(np.array([[1.0, 3.0]]), (np.array([[0.0, 2.0]]),))
        >>> ours = {"cross_entropy": np.mean, "log_softmax": abs, "detach": abs, "xp": np}     # not the real ones
        >>> float(compose_loss(LossSpec(combine="losses"), output, 0.5, **ours))
        2.5
    """

    def smoothed(logits: Any) -> Any:
        if not spec.label_smoothing:
            return cross_entropy(logits)
        even = -xp.mean(log_softmax(logits))
        return (1.0 - spec.label_smoothing) * cross_entropy(logits) + spec.label_smoothing * even

    def supervised(logits: Any) -> Any:
        if not spec.per_step:
            return smoothed(logits)
        level = xp.mean((logits - spec.level) ** 2)
        return (1.0 - spec.level_weight) * smoothed(logits) + spec.level_weight * level

    def branch_loss(logits: Any) -> Any:
        if not spec.distillation:
            return supervised(logits)
        distance = divergence(teacher, logits, spec.temperature, log_softmax=log_softmax, xp=xp)
        return (1.0 - spec.distillation) * supervised(logits) + spec.distillation * distance

    if spec.combine == "logits":
        return supervised(sum_logits(output.main, output.branches, coefficient))
    teacher = detach(output.main) if spec.detach_teacher else output.main
    return sum_losses(supervised(output.main), [branch_loss(logits) for logits in output.branches], coefficient)


def soft_cross_entropy(logits: Any, labels: Any, *, log_softmax: Callable[[Any], Any], xp: Any) -> Any:
    """Return ``mean(-sum_k y_k * log softmax(o)_k)`` over all axes but the last: ``CE`` of soft labels.

    A class that has no share of a label adds nothing, even where its logit is -inf.

    Args:
        logits: ``(..., classes)``.
        labels: probabilities, as many or broadcast over the leading axes.
        log_softmax: of the last axis.
        xp: the array namespace of the logits.

    Example:
        >>> import numpy as np
        >>> def log_softmax(x): return x - np.log(np.exp(x).sum(-1, keepdims=True))
        >>> float(soft_cross_entropy(np.zeros((1, 4)), np.full((1, 4), 0.25), log_softmax=log_softmax, xp=np).round(4))
        1.3863
    """
    return -xp.mean(xp.sum(labels * xp.where(labels != 0, log_softmax(logits), 0.0), axis=-1))


def divergence(teacher: Any, student: Any, temperature: float, *, log_softmax: Callable[[Any], Any], xp: Any) -> Any:
    """Return ``tau^2 * mean(KL(softmax(teacher / tau) || softmax(student / tau)))`` over all axes but the last.

    The factor keeps the gradient's size when tau changes (Hinton et al. 2015). A network whose deepest output teaches
    its branches is Zhang et al. 2019, "Be Your Own Teacher".

    Example:
        >>> import numpy as np
        >>> def log_softmax(x): return x - np.log(np.exp(x).sum(-1, keepdims=True))
        >>> logits = np.array([[1.0, 3.0]])
        >>> float(divergence(logits, logits + 5.0, 2.0, log_softmax=log_softmax, xp=np)) < 1e-15
        True
    """
    log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * xp.mean(xp.sum(xp.exp(log_p) * (log_p - log_q), axis=-1))


def _sum(items: Sequence[Any]) -> Any:
    if not items:
        return 0.0
    total = items[0]
    for item in items[1:]:
        total = total + item
    return total
