"""How branches join the main output, over plain operators and an array namespace, so any framework's arrays pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sbp_core import validation
from sbp_core.specs.losses import LossSpec


class ShortcutOutput(NamedTuple):
    """Logits of the main output, and of each branch in the order of the taps.

    Each ``(batch, classes)``, or with an axis of time where every step gives its own.
    """

    main: Any
    branches: tuple[Any, ...]


def check_coefficient(coefficient: Any) -> None:
    """Raise unless it is a finite number, or an array without axes, whose value is not looked at: it may be traced.

    Raises:
        TypeError: neither.
        ValueError: a number that is not finite, or an array with axes.

    Example:
        >>> import numpy as np
        >>> check_coefficient(np.ones(2))
        Traceback (most recent call last):
        ...
        ValueError: coefficient must be a scalar, got shape (2,)
    """
    shape = getattr(coefficient, "shape", None)
    if shape is None:
        validation.finite("coefficient", coefficient)
    elif len(shape):
        raise ValueError(f"coefficient must be a scalar, got shape {tuple(shape)}")


def check_output(
    spec: LossSpec,
    output: object,
    coefficient: Any,
    labels: Sequence[int | None],
    labels_dtype: object,
    *,
    batch_axis: int = -2,
) -> bool:
    """Return whether the labels are soft; raise unless logits, branches and labels fit the loss and each other.

    Args:
        spec: the loss.
        output: what the loss is of.
        coefficient: the branches' weight.
        labels: the labels' shape, as of :meth:`~sbp_core.LossSpec.check_logits`; None is a size not known.
        labels_dtype: their dtype; its text ends in its name.
        batch_axis: which axis of the logits the labels have.

    Raises:
        TypeError: ``output`` is not a ShortcutOutput; labels of a dtype that their shape does not go with; a
            coefficient that is no number.
        ValueError: logits of another rank, labels or branches of another shape, or a coefficient that is not a finite
            scalar.

    Example:
        >>> import numpy as np
        >>> output = ShortcutOutput(np.zeros((2, 10)), (np.zeros((2, 9)),))
        >>> check_output(LossSpec(), output, 0.5, (2,), "int64")
        Traceback (most recent call last):
        ...
        ValueError: branches must have the shape of the main logits, (2, 10); branch 0 has (2, 9)
    """
    if not isinstance(output, ShortcutOutput):
        raise TypeError(
            f"output must be a ShortcutOutput(main, branches), got {type(output).__name__}; a Shortcut returns one in "
            "training with combine='losses'"
        )
    check_coefficient(coefficient)
    main = tuple(output.main.shape)
    soft = spec.check_logits(main, tuple(labels), labels_dtype=str(labels_dtype), batch_axis=batch_axis)
    for place, branch in enumerate(output.branches):
        shape = tuple(branch.shape)
        sizes = zip(shape, main, strict=False)
        if len(shape) != len(main) or any(None not in pair and pair[0] != pair[1] for pair in sizes):
            raise ValueError(f"branches must have the shape of the main logits, {main}; branch {place} has {shape}")
    return soft


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
    labels: Any,
    cross_entropy: Callable[[Any], Any],
    log_softmax: Callable[[Any], Any],
    detach: Callable[[Any], Any],
    xp: Any,
    time_axis: int = 0,
) -> Any:
    r"""Return the loss of main and branch logits.

    With y the labels, lambda the coefficient, o the logits of all steps or, without ``per_step``, their mean::

        L = S(b_n + lambda * sum_l b_l)                      combine="logits"  (Guo et al. 2024, Eq. 6-10)
        L = S(b_n) + lambda * sum_l B(b_l)                   combine="losses"
        S(o) = C(o)
        S(o) = (1 - m) * mean_t C(o_t) + m * mean((o - phi)^2)           per_step (TET, Deng et al. 2022)
        S(o) = ... + beta * E(o_1, ..., o_T)                             where steps learn from each other
        C(o) = (1 - epsilon) * CE(o, y) - epsilon * mean_k log softmax(o)_k                    label smoothing
        B(b) = (1 - alpha) * S(b) + alpha * D(r, b)                      alpha = 0 unless distilled

    D is :func:`divergence`. Its teacher r is b_n. Or, ``teacher="right"``, it is the mean of those of b_n, b_1, b_2 ...
    whose largest logit is y's, D is the mean over the samples that have any, and b_n has B for S (Zhao et al. 2025,
    Enhanced Self-Distillation, as in the authors' code: labels and teacher weigh 1 and 0.3 there, or 0.7 and 0.3; that
    they sum to 1, and lambda, are ours). With p_t = softmax(o_t) and c_t the mean over the batch of the largest of p_t,
    E is::

        D(o_s, o_w)    s = argmax_t c_t, w = argmin_t c_t      "strong" (Ding et al. 2025, Eq. 4-7; tau = 2, beta = 1)
        D(o_w, o_s)                                            "weak"   (Eq. 9-10)
        D(r, o_t)      r the mean of a sample's steps that are right, over its steps that are wrong     "right"

    Steps that tie are averaged. "right" is ours, after Dong et al. 2023, Temporal Knowledge Sharing, whose right steps
    teach, and Sun et al. 2026, SeAl, which leaves the steps that are right alone. Teachers are detached if
    ``detach_teacher``; Ding et al. do not say.

    Args:
        spec: which of them.
        output: logits, ``(..., classes)``.
        coefficient: lambda.
        labels: integer classes, ``(batch,)``, of soft labels the largest; for the teachers that are right.
        cross_entropy: logits to their mean cross-entropy with the labels, over all axes but the last.
        log_softmax: of the last axis.
        detach: stops the gradient.
        xp: the array namespace of the logits.
        time_axis: 0 or 1, where logits of three axes have time.

    Returns:
        A scalar.

    Example:
        >>> import numpy as np
        >>> output = ShortcutOutput(np.array([[1.0, 3.0]]), (np.array([[0.0, 2.0]]),))
        >>> ours = {"cross_entropy": np.mean, "log_softmax": abs, "detach": abs, "xp": np}     # not the real ones
        >>> float(compose_loss(LossSpec(combine="losses"), output, 0.5, labels=np.array([1]), **ours))
        2.5
    """

    def distance(teacher: Any, student: Any, among: Any = None) -> Any:
        teacher = detach(teacher) if spec.detach_teacher else teacher
        return divergence(teacher, student, spec.temperature, among=among, log_softmax=log_softmax, xp=xp)

    def right(logits: Any) -> Any:
        wanted = xp.expand_dims(labels, axis=time_axis) if len(logits.shape) == 3 else labels
        return xp.argmax(logits, axis=-1) == wanted

    def held(logits: Any) -> Any:
        return xp.mean(logits, axis=time_axis) if spec.timed and not spec.per_step else logits

    def smoothed(logits: Any) -> Any:
        if not spec.label_smoothing:
            return cross_entropy(logits)
        even = -xp.mean(log_softmax(logits))
        return (1.0 - spec.label_smoothing) * cross_entropy(logits) + spec.label_smoothing * even

    def between_steps(logits: Any) -> Any:
        if spec.step_teacher == "right":
            says = right(logits)
            teacher, found = _mean_of(logits, says, time_axis, xp)
            return distance(teacher, logits, found & ~says)
        sure = xp.exp(xp.max(log_softmax(logits), axis=-1))
        sure = xp.mean(sure, axis=1 - time_axis, keepdims=True)
        strong, _ = _mean_of(logits, sure == xp.max(sure, axis=time_axis, keepdims=True), time_axis, xp)
        weak, _ = _mean_of(logits, sure == xp.min(sure, axis=time_axis, keepdims=True), time_axis, xp)
        return distance(strong, weak) if spec.step_teacher == "strong" else distance(weak, strong)

    def supervised(logits: Any) -> Any:
        value = smoothed(held(logits))
        if spec.per_step:
            level = xp.mean((logits - spec.level) ** 2)
            value = (1.0 - spec.level_weight) * value + spec.level_weight * level
        return value + spec.step_distillation * between_steps(logits) if spec.step_distillation else value

    def taught(logits: Any, teacher: Any, among: Any = None) -> Any:
        learnt = distance(teacher, held(logits), among)
        return (1.0 - spec.distillation) * supervised(logits) + spec.distillation * learnt

    main, branches = output
    if spec.combine == "logits":
        return supervised(sum_logits(main, branches, coefficient))
    if not spec.distillation:
        return sum_losses(supervised(main), [supervised(logits) for logits in branches], coefficient)
    if spec.teacher == "main":
        return sum_losses(supervised(main), [taught(logits, held(main)) for logits in branches], coefficient)
    heads = xp.stack([held(logits) for logits in (main, *branches)])
    teacher, found = _mean_of(heads, xp.stack([right(held(logits)) for logits in (main, *branches)]), 0, xp)
    first, *others = (taught(logits, teacher[0], found[0]) for logits in (main, *branches))
    return sum_losses(first, others, coefficient)


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


def divergence(
    teacher: Any, student: Any, temperature: float, *, among: Any = None, log_softmax: Callable[[Any], Any], xp: Any
) -> Any:
    """Return ``tau^2 * mean(KL(softmax(teacher / tau) || softmax(student / tau)))`` over all axes but the last.

    The factor keeps the gradient's size when tau changes (Hinton et al. 2015). A network whose deepest output teaches
    its branches is Zhang et al. 2019, "Be Your Own Teacher".

    Args:
        teacher: logits, ``(..., classes)``.
        student: logits of the same shape, or one that broadcasts with it.
        temperature: tau.
        among: of which rows the mean is taken, bool, ``(...)``; 0 where it is none. All, unless given.
        log_softmax: of the last axis.
        xp: the array namespace of the logits.

    Example:
        >>> import numpy as np
        >>> def log_softmax(x): return x - np.log(np.exp(x).sum(-1, keepdims=True))
        >>> logits = np.array([[1.0, 3.0]])
        >>> float(divergence(logits, logits + 5.0, 2.0, log_softmax=log_softmax, xp=np)) < 1e-15
        True
    """
    log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    rows = xp.sum(xp.exp(log_p) * (log_p - log_q), axis=-1)
    if among is None:
        return temperature**2 * xp.mean(rows)
    ones = xp.ones_like(rows)
    counted = xp.where(among, ones, 0.0 * ones)
    share = xp.mean(counted)
    # the mean of ones is 1; but a mean of Keras's is a replica's share of it, and a quotient of two would not be
    return temperature**2 * xp.mean(counted * rows) * xp.mean(ones) / xp.where(share > 0.0, share, xp.ones_like(share))


def _mean_of(logits: Any, chosen: Any, axis: int, xp: Any) -> tuple[Any, Any]:
    """Return the mean of the chosen rows along an axis, which is kept, 0 where there are none; and whether there are.

    Args:
        logits: ``(..., classes)``.
        chosen: bool, ``(...)``, or what broadcasts.
        axis: not the last.
        xp: the array namespace.
    """
    ones = xp.ones_like(logits[..., :1])
    weight = xp.where(chosen[..., None], ones, 0.0 * ones)
    count = xp.sum(weight, axis=axis, keepdims=True)
    total = xp.sum(weight * logits, axis=axis, keepdims=True)
    return total / xp.where(count > 0.0, count, xp.ones_like(count)), count[..., 0] > 0.0


def _sum(items: Sequence[Any]) -> Any:
    if not items:
        return 0.0
    total = items[0]
    for item in items[1:]:
        total = total + item
    return total
