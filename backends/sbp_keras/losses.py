"""The loss of a shortcut network: for training loops of one's own, and of what was compiled."""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from sbp_core.composition import ShortcutOutput, check_output, compose_loss, soft_cross_entropy
from sbp_core.specs.losses import Combine, LossSpec, as_loss
from sbp_keras.numerics import cross_entropy, mean


def _average(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    found = mean(x, tuple(range(len(x.shape))) if axis is None else (axis,))
    return ops.expand_dims(found, axis) if keepdims else found


#: Names of the array API, as far as the core's formula needs them.
_ARRAYS = {
    "argmax": ops.argmax,
    "exp": ops.exp,
    "expand_dims": ops.expand_dims,
    "max": ops.max,
    "min": ops.min,
    "ones_like": ops.ones_like,
    "stack": ops.stack,
    "sum": ops.sum,
    "where": ops.where,
}
_NAMESPACE = SimpleNamespace(mean=_average, **_ARRAYS)


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
            output: main logits ``(batch, classes)``, ``(batch, time, classes)`` where ``spec.timed``; and the
                branches'.
            labels: integer classes, ``(batch,)``, or soft ones as of mix-up, probabilities ``(batch, classes)``.
            coefficient: the weight of the branches; a number or a scalar tensor.

        Raises:
            TypeError, ValueError: what does not fit (:func:`sbp_core.composition.check_output`).
        """
        labels = ops.convert_to_tensor(labels)
        dtype = keras.backend.standardize_dtype(labels.dtype)
        soft = check_output(self.spec, output, coefficient, labels.shape, dtype, batch_axis=0)
        if soft:
            labels = ops.cast(labels, output.main.dtype)

        def entropy(logits: Any) -> Any:
            wanted = ops.expand_dims(labels, 1) if len(logits.shape) == 3 else labels
            if soft:
                return soft_cross_entropy(logits, wanted, log_softmax=ops.log_softmax, xp=_NAMESPACE)
            return cross_entropy(logits, ops.broadcast_to(wanted, ops.shape(logits)[:-1]))

        return compose_loss(
            self.spec,
            output,
            ops.convert_to_tensor(coefficient, output.main.dtype),
            labels=classes_of(labels),
            cross_entropy=entropy,
            log_softmax=ops.log_softmax,
            detach=ops.stop_gradient,
            xp=_NAMESPACE,
            time_axis=1,
        )


def classes_of(labels: Any) -> Any:
    """Return the class of each label, ``(batch,)``: integer classes as they are, of shares the largest.

    Args:
        labels: as Keras's losses take them: ``(batch,)``, ``(batch, 1)``, or one-hot or soft, ``(batch, classes)``.

    Raises:
        ValueError: labels of another rank, or of several outputs.

    Example:
        >>> import numpy as np
        >>> ops.convert_to_numpy(classes_of(np.array([[0.1, 0.9], [1.0, 0.0]]))).tolist()
        [1, 0]
    """
    arrays = keras.tree.flatten(labels)
    if len(arrays) != 1 or len(arrays[0].shape) not in (1, 2):
        shapes = [tuple(each.shape) for each in arrays]
        raise ValueError(
            f"labels must be one array, (batch,) or (batch, classes), where those that are right teach; got {shapes}"
        )
    (given,) = arrays
    given = ops.convert_to_tensor(given)
    if len(given.shape) == 2:
        return ops.argmax(given, axis=-1) if given.shape[1] != 1 else ops.cast(given[:, 0], "int32")
    return ops.cast(given, "int32")


class StepLoss:
    """The compiled loss of logits ``(batch, classes)``, or ``(batch, time, classes)``: of these the mean over steps.

    Every step is a sample of its own to the compiled loss, with its sample's label.

    Args:
        compiled: labels, logits and weights to the compiled loss, a scalar.
        given: the loss as it was given to ``compile``.
        labels: of the samples.
        weights: of the samples, or of each step, ``(batch, time)``.
        mask: which steps count, ``(batch, time)``; a sample's valid steps share the weight of all of its steps.
        smoothing: share of every label that is spread evenly over the classes.
    """

    def __init__(
        self,
        compiled: Callable[[Any, Any, Any], Any],
        given: Any,
        labels: Any,
        weights: Any,
        mask: Any,
        smoothing: float,
    ) -> None:
        self._compiled, self._labels, self._weights, self._smoothing = compiled, labels, weights, smoothing
        self._share = None
        if mask is not None:
            valid = ops.cast(mask, keras.backend.floatx())
            count = ops.sum(valid, axis=1, keepdims=True)
            self._share = valid * (ops.sum(ops.ones_like(valid), axis=1, keepdims=True) / ops.maximum(count, 1.0))
        reductions = {getattr(loss, "reduction", None) == "sum" for loss in keras.tree.flatten(given)}
        if len(reductions) > 1:
            raise ValueError("the losses given to compile() must all sum over the batch, or none; some do")
        self._sums = reductions.pop()
        self.namespace = SimpleNamespace(mean=self._mean, **_ARRAYS)

    def __call__(self, logits: Any) -> Any:
        """Return the loss, a scalar."""
        labels, weights, rows, steps = self._labels, self._weights, logits, None
        if len(logits.shape) == 3:
            batch, steps, classes = ops.shape(logits)
            rows = ops.reshape(logits, (-1, classes))
            labels = keras.tree.map_structure(lambda y: _repeated(y, batch, steps), labels)
            weights = keras.tree.map_structure(lambda w: self._of_steps(w, batch, steps), weights)
            if self._share is not None and weights is None:
                weights = ops.reshape(self._share, (-1,))
        loss = self._compiled(labels, rows, weights)
        if self._smoothing:
            even = -mean(ops.cast(ops.log_softmax(rows), self.dtype(rows)), (1,))
            first = keras.tree.flatten(weights)[0]
            if first is not None:
                even = even * ops.reshape(ops.cast(first, even.dtype), (-1,))
            spread = ops.sum(even) if self._sums else _mean(even)
            loss = (1.0 - self._smoothing) * ops.cast(loss, spread.dtype) + self._smoothing * spread
        if self._sums and steps is not None:
            loss = loss / ops.cast(steps, loss.dtype)
        return ops.cast(loss, self.dtype(logits))

    @staticmethod
    def dtype(logits: Any) -> str:
        """Return the dtype of a loss of these logits: Keras computes losses in ``floatx``."""
        return "float64" if keras.backend.standardize_dtype(logits.dtype) == "float64" else keras.backend.floatx()

    def _mean(self, values: Any, axis: int | None = None, keepdims: bool = False) -> Any:
        """Return the mean of ``(batch, ...)``, of masked logits over the steps that count; or over an axis."""
        if axis is not None:
            return _average(values, axis, keepdims)
        if self._share is not None:
            share = ops.cast(self._share, values.dtype)
            values = values * ops.reshape(share, (*ops.shape(share), *[1] * (len(values.shape) - 2)))
        return _mean(ops.cast(values, self.dtype(values)))

    def _of_steps(self, weights: Any, batch: Any, steps: Any) -> Any:
        """Return the weight of each step, ``(batch * time,)``."""
        if weights is None:
            return None
        weights = ops.convert_to_tensor(weights)
        shape = tuple(weights.shape)
        known = isinstance(steps, int)
        if len(shape) not in (1, 2) or (len(shape) == 2 and known and shape[1] not in (None, 1, steps)):
            raise ValueError(
                f"sample_weight must have shape (batch,), or (batch, time) with the {steps} steps of the logits; got "
                f"{shape}"
            )
        weights = ops.expand_dims(weights, 1) if len(shape) == 1 else weights
        weights = ops.broadcast_to(weights, (batch, steps))
        if self._share is not None:
            weights = ops.cast(weights, self._share.dtype) * self._share
        return ops.reshape(weights, (-1,))


def _repeated(labels: Any, batch: Any, steps: Any) -> Any:
    labels = ops.convert_to_tensor(labels)
    rest = ops.shape(labels)[1:]
    return ops.reshape(ops.broadcast_to(ops.expand_dims(labels, 1), (batch, steps, *rest)), (-1, *rest))


def _mean(values: Any) -> Any:
    """Return the mean, as the replicas of a strategy share that of a Keras loss."""
    ones = ops.ones((1,), values.dtype)
    share = _Itself(name="share", dtype=keras.backend.standardize_dtype(values.dtype))(ones, ones)
    # not all of it as a Keras loss, which divides in float32 on PyTorch (Keras 3.15)
    return _average(values) * share


class _Itself(keras.losses.Loss):
    """The mean of what it is given."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return ``y_pred``."""
        return y_pred
