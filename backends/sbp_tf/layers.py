"""Neurons as modules."""

# mypy: allow-subclassing-any
from __future__ import annotations

import math
from typing import Any, ClassVar

import tensorflow as tf

from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_tf.neurons import lif


class LIF(tf.Module):
    """The canonical neuron over time, ``(time, batch, ...)`` to the same shape (equations: :class:`~sbp_core.LIFSpec`).

    Each call starts afresh unless a state is passed. The defaults are the neuron of Guo et al. 2024, Eq. 1-3. A learnt
    decay is the scalar variable ``decay_logit``, with ``decay = sigmoid(decay_logit)``; otherwise that is None.

    Args:
        spec: the neuron; or give its fields as keywords instead.
        dtype: of ``decay_logit``. The neuron itself runs in the dtype of its input.
        name: of the module.
        **fields: fields of :class:`~sbp_core.LIFSpec`.

    Raises:
        ValueError: both a spec and fields, or a field out of range.
        TypeError: not a spec.

    Example:
        >>> import tensorflow as tf
        >>> LIF(decay=0.5)(tf.constant([[0.75], [0.75], [0.75]])).numpy().ravel().tolist()
        [0.0, 1.0, 0.0]
    """

    _defaults: ClassVar[Any] = LIFSpec

    def __init__(
        self,
        spec: LIFSpec | None = None,
        *,
        dtype: tf.DType = tf.float32,
        name: str | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(name=name)
        if spec is not None and fields:
            raise ValueError(f"give either a spec or fields, got spec={spec!r} and {', '.join(sorted(fields))}")
        if spec is not None and not isinstance(spec, LIFSpec):
            raise TypeError(f"spec must be a LIFSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec: LIFSpec = spec if spec is not None else self._defaults(**fields)
        self.decay_logit = None
        if self.spec.learn_decay:
            start = math.log(self.spec.decay / (1.0 - self.spec.decay))
            self.decay_logit = tf.Variable(start, dtype=dtype, name="decay_logit")

    def __call__(
        self, x: tf.Tensor, state: LIFState | None = None, *, return_state: bool = False
    ) -> tf.Tensor | tuple[tf.Tensor, LIFState]:
        """Return the output; ``(output, state)`` where a state is passed or asked for (errors: :func:`lif`)."""
        decay = None if self.decay_logit is None else tf.sigmoid(self.decay_logit)
        output, final = lif(x, self.spec, state, decay=decay)
        return (output, final) if return_state or state is not None else output


class IF(LIF):
    """The integrate-and-fire neuron, :class:`LIF` with decay 1 (Guo et al. 2024, Eq. 1 with tau = 1)."""

    _defaults = LIFSpec.integrate_and_fire


class LeakyIntegrator(LIF):
    """A read-out that never fires: :class:`LIF` that gives its potential."""

    _defaults = LIFSpec.leaky_integrator


class PLIF(LIF):
    """The PLIF neuron, which learns its decay, one scalar a layer (Fang et al. 2021; ``LIFSpec.parametric``)."""

    _defaults = LIFSpec.parametric


class CurrentLIF(LIF):
    """A :class:`LIF` neuron whose input passes a decaying synaptic current."""

    _defaults = LIFSpec.current_based
