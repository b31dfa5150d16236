"""Optimisers for Keras that do as PyTorch's do, to rounding, where Keras's own have other definitions.

Keras's AdamW adds epsilon before the second moment's bias is corrected, its SGD keeps the learning rate in the momentum
and knows decoupled weight decay alone. These also measure the gradient, clip it by the norm of all of it, sum it over
the parts of a batch, and leave everything as it was where it is not finite.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sbp_lab.optimizers import SGD, AdamW, Optimizer


class Rule(keras.optimizers.Optimizer):
    """What all of them share.

    Args:
        watched: places among the trained weights of the first and the last kernel.
        clip_norm: largest norm of the gradient of all weights.
        parts: calls that make one step.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, watched: Sequence[int], clip_norm: float | None, parts: int) -> None:
        super().__init__(learning_rate=1.0)
        self._watched, self._clip_norm, self._parts = tuple(watched), clip_norm, parts
        self.slots: dict[str, list[Any]] = {}
        self.norms: list[Any] = []
        self.taken: Any = None
        self._sums: list[Any] = []
        self._done: Any = None
        self._now: Any = None

    def build(self, variables: Any) -> None:
        """Add the slots."""
        if not self.built:
            self.slots = {
                name: [self.add_variable_from_reference(variable, name) for variable in variables]
                for name in self.slot_names
            }
            self.norms = [self.add_variable((), initializer="zeros", name=name) for name in ("all", "first", "last")]
            self.taken = self.add_variable((), dtype="int32", initializer="zeros", name="taken")
            if self._parts > 1:
                self._sums = [self.add_variable_from_reference(variable, "sum") for variable in variables]
                self._done = self.add_variable((), dtype="int32", initializer="zeros", name="done")
        super().build(variables)

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        """Measure and clip the gradient, and make the step if the batch is complete."""
        if not self.built:
            self.build(trainable_variables)
        last: Any = True
        if self._parts > 1:
            sums = [held + grad for held, grad in zip(self._sums, grads, strict=True)]
            last = ops.equal(self._done + 1, self._parts)
            for held, total in zip(self._sums, sums, strict=True):
                self.assign(held, ops.where(last, ops.zeros_like(total), total))
            self.assign(self._done, ops.where(last, 0, self._done + 1))
            grads = [total / self._parts for total in sums]
        squares = [ops.sum(ops.square(grad)) for grad in grads]
        norm = ops.sqrt(ops.sum(ops.stack(squares)))
        ends = [ops.sqrt(squares[place]) for place in self._watched]
        for variable, value in zip(self.norms, [norm, *ends], strict=True):
            self.assign(variable, value)
        self._now = ops.logical_and(last, ops.isfinite(norm))
        if self._clip_norm is not None:
            factor = ops.minimum(ops.ones_like(norm), self._clip_norm / norm)
            grads = [grad * factor for grad in grads]
        self.assign(self.taken, self.taken + ops.cast(self._now, "int32"))
        return super().apply(grads, trainable_variables)

    def set(self, variable: Any, value: Any) -> Any:
        """Assign, where this is the time for a step; return what the variable then is."""
        value = ops.where(self._now, value, ops.convert_to_tensor(variable))
        self.assign(variable, value)
        return value


class AdamWRule(Rule):
    """AdamW as in :class:`sbp_lab.optimizers.AdamW`."""

    slot_names = ("m", "v")

    def __init__(self, spec: AdamW, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._spec = spec

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make the step of one weight."""
        spec, place = self._spec, self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        taken = ops.cast(self.taken, variable.dtype)
        one = ops.cast(1.0, variable.dtype)
        m = self.set(self.slots["m"][place], self.slots["m"][place] * spec.beta1 + gradient * (1.0 - spec.beta1))
        squares = self.slots["v"][place] * spec.beta2 + ops.square(gradient) * (1.0 - spec.beta2)
        v = self.set(self.slots["v"][place], squares)
        corrected = ops.sqrt(v) / ops.sqrt(one - ops.power(ops.cast(spec.beta2, variable.dtype), taken))
        move = m / (one - ops.power(ops.cast(spec.beta1, variable.dtype), taken)) / (corrected + spec.epsilon)
        self.set(variable, variable * (one - rate * spec.weight_decay) - rate * move)


class SGDRule(Rule):
    """SGD as in :class:`sbp_lab.optimizers.SGD`."""

    def __init__(self, spec: SGD, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._spec = spec
        self.slot_names = ("momentum",) if spec.momentum else ()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make the step of one weight."""
        spec = self._spec
        gradient = ops.cast(gradient, variable.dtype) + spec.weight_decay * variable
        if spec.momentum:
            held = self.slots["momentum"][self._get_variable_index(variable)]
            momentum = self.set(held, spec.momentum * held + gradient)
            gradient = gradient + spec.momentum * momentum if spec.nesterov else momentum
        self.set(variable, variable - ops.cast(learning_rate, variable.dtype) * gradient)


class Gradients(keras.optimizers.Optimizer):
    """Puts the gradient in the place of every weight."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1.0)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Write the gradient."""
        self.assign(variable, gradient)


def rule(spec: Optimizer, watched: Sequence[int], clip_norm: float | None, parts: int) -> Rule:
    """Return the optimiser of a spec.

    Raises:
        ValueError: of another kind.
    """
    if isinstance(spec, AdamW):
        return AdamWRule(spec, watched, clip_norm, parts)
    if isinstance(spec, SGD):
        return SGDRule(spec, watched, clip_norm, parts)
    raise ValueError(f"optimizer must be AdamW or SGD, got {spec!r}")
