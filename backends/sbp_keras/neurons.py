"""Spiking neurons as Keras layers: the time loop is inside the layer, over axis 1."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import keras
from keras import ops

from sbp_core import dynamics
from sbp_core.inputs import check_input
from sbp_core.specs.neurons import LIFSpec, LIFState
from sbp_keras import native, numerics


@keras.saving.register_keras_serializable(package="sbp")
class LIF(keras.layers.Layer):
    """The canonical neuron over time, ``(batch, time, ...)`` to the same shape (equations: :class:`~sbp_core.LIFSpec`).

    Each call starts afresh unless a state is passed. The defaults are the neuron of Guo et al. 2024, Eq. 1-3. A learnt
    decay is the scalar weight ``decay_logit``, with ``decay = sigmoid(decay_logit)``; a learnt start is
    ``initial_potential``. A start that follows is the weight ``running_potential``, which is not trainable: each call
    in training moves it, but one that is given a state, which neither uses nor moves it, and that of a frozen layer.
    Samples whose last step is masked, and spikes of masked steps, take no part in it.

    A state holds the parts of :class:`~sbp_core.LIFState` that the neuron has, each of shape ``(batch, ...)``, as a
    named tuple: ``potential``, then ``current``, ``spikes`` and ``complementary`` where it has them.

    Args:
        spec: the neuron, or its ``to_dict()``; or give the spec's fields as keywords instead.
        return_state: return ``(output, state)``. A call that is given a state does so too.
        name: of the layer.
        dtype: dtype or dtype policy of the layer; the neuron runs in its compute dtype.
        trainable: whether a learnt decay or start is.
        activity_regularizer: as in every Keras layer; on spikes it bounds the firing rate.
        **fields: fields of :class:`~sbp_core.LIFSpec`.

    Raises:
        ValueError: both a spec and fields, a field out of range; in a call: a wrong shape, no time step, or
            a state that does not fit.
        TypeError: not a spec; in a call: integers.

    Example:
        >>> import numpy as np
        >>> spikes = LIF(decay=0.5)(np.full((1, 3, 1), 0.75, "float32"))
        >>> ops.convert_to_numpy(spikes).ravel().tolist()
        [0.0, 1.0, 0.0]
    """

    #: Where time is, for whoever asks the network's layers.
    time_axis: ClassVar[Literal[1]] = 1
    _defaults: ClassVar[Any] = LIFSpec

    def __init__(
        self,
        spec: LIFSpec | Mapping[str, Any] | None = None,
        *,
        return_state: bool = False,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        activity_regularizer: Any = None,
        **fields: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable, activity_regularizer=activity_regularizer)
        if spec is not None and fields:
            raise ValueError(f"give either a spec or fields, got spec={spec!r} and {', '.join(sorted(fields))}")
        if isinstance(spec, Mapping):
            spec = LIFSpec.from_dict(spec)
        if spec is not None and not isinstance(spec, LIFSpec):
            raise TypeError(f"spec must be a LIFSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec: LIFSpec = spec if spec is not None else self._defaults(**fields)
        self.return_state = return_state
        self.supports_masking = True
        # looked up once: torch.compile breaks its graph at an import
        self._lif, self._initial_state = native.adapter().lif, native.adapter().initial_state

    def build(self, input_shape: Any) -> None:
        """Create the weights of what is learnt."""
        self.decay_logit: Any = None
        if self.spec.learn_decay:
            start = math.log(self.spec.decay / (1.0 - self.spec.decay))
            # autocast off: the sigmoid is taken in the weight's own precision
            self.decay_logit = self.add_weight(
                name="decay_logit", shape=(), initializer=numerics.Constant(start), autocast=False
            )
        self.initial_potential: Any = None
        if self.spec.learn_initial:
            first = numerics.Constant(self.spec.start["potential"])
            self.initial_potential = self.add_weight(
                name="initial_potential", shape=(), initializer=first, autocast=False
            )
        self.running_potential: Any = None
        if self.spec.initial_follows:
            first = numerics.Constant(self.spec.start["potential"])
            self.running_potential = self.add_weight(
                name="running_potential", shape=(), initializer=first, trainable=False, autocast=False
            )
        self.built = True

    def call(self, inputs: Any, state: Any = None, training: bool | None = None, mask: Any = None) -> Any:
        """Run the neuron over axis 1 of ``inputs``, from ``state`` or afresh."""
        self._check(inputs)
        decay = None
        if self.decay_logit is not None:
            decay = ops.cast(ops.sigmoid(self.decay_logit), inputs.dtype)
        start = _native_state(self.spec, state)
        first = self.initial_potential if self.running_potential is None else self.running_potential
        if state is None and first is not None:
            start = self._initial_state(self.spec, inputs[:, 0], ops.cast(first, inputs.dtype))
        output, final = self._lif(inputs, self.spec, start, decay=decay, time_axis=1)
        if state is None and self.running_potential is not None and training and self.trainable:
            self._follow(final.potential, output, mask)
        if state is None and not self.return_state:
            return output
        return output, _keras_state(self.spec, final)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of the steps, which a neuron passes on; a state has none."""
        return [previous_mask, *(None for _ in self.spec.state_parts)] if self.return_state else previous_mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return ``input_shape``: a neuron keeps it."""
        return input_shape

    def compute_output_spec(self, inputs: Any, state: Any = None, training: Any = None, mask: Any = None) -> Any:
        """Return symbolic tensors for what a call gives."""
        self._check(inputs)
        output = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if state is None and not self.return_state:
            return output
        part = (inputs.shape[0], *inputs.shape[2:])
        names = self.spec.state_parts
        return output, _state_type(names)(*(keras.KerasTensor(part, dtype=self.compute_dtype) for _ in names))

    def get_config(self) -> dict[str, Any]:
        """Return the layer's configuration; the spec is a dictionary of JSON values."""
        config: dict[str, Any] = super().get_config()
        return config | {"spec": self.spec.to_dict(), "return_state": self.return_state}

    def _follow(self, potential: Any, output: Any, mask: Any) -> None:
        dtype = self.running_potential.dtype
        output, potential = (ops.cast(ops.stop_gradient(x), dtype) for x in (output, potential))
        if mask is not None:
            kept = ops.reshape(ops.cast(mask, dtype), (*ops.shape(mask), *[1] * (len(output.shape) - 2)))
            output = output * kept * kept[:, -1:]
        running = ops.convert_to_tensor(self.running_potential)
        sums = dynamics.ends(potential, ops.sum(output, axis=1), ops)
        self.running_potential.assign(dynamics.follow(running, *sums, ops))

    def _check(self, inputs: Any) -> None:
        check_input(tuple(inputs.shape), keras.backend.standardize_dtype(inputs.dtype), time_axis=1)


@keras.saving.register_keras_serializable(package="sbp")
class IF(LIF):
    """The integrate-and-fire neuron, :class:`LIF` with decay 1 (Guo et al. 2024, Eq. 1 with tau = 1)."""

    _defaults = LIFSpec.integrate_and_fire


@keras.saving.register_keras_serializable(package="sbp")
class LeakyIntegrator(LIF):
    """A read-out that never fires: :class:`LIF` that gives its potential."""

    _defaults = LIFSpec.leaky_integrator


@keras.saving.register_keras_serializable(package="sbp")
class PLIF(LIF):
    """The PLIF neuron, which learns its decay, one scalar a layer (Fang et al. 2021; ``LIFSpec.parametric``)."""

    _defaults = LIFSpec.parametric


@keras.saving.register_keras_serializable(package="sbp")
class CurrentLIF(LIF):
    """A :class:`LIF` neuron whose input passes a decaying synaptic current."""

    _defaults = LIFSpec.current_based


@keras.saving.register_keras_serializable(package="sbp")
class CLIF(LIF):
    """The CLIF neuron, a second state of which remembers spikes (Huang et al. 2024; ``LIFSpec.complementary``)."""

    _defaults = LIFSpec.complementary


@functools.cache
def _state_type(parts: tuple[str, ...]) -> Any:
    # Keras's symbolic calls take no None among a layer's outputs, so the state has only the parts that exist
    return namedtuple("LIFState", parts)


def _keras_state(spec: LIFSpec, state: LIFState) -> Any:
    parts = spec.state_parts
    return _state_type(parts)(*(getattr(state, name) for name in parts))


def _native_state(spec: LIFSpec, state: Any) -> LIFState | None:
    if state is None or isinstance(state, LIFState):
        return state
    parts = spec.state_parts
    if not isinstance(state, tuple | list):
        raise TypeError(f"state must be a tuple of {', '.join(parts)}, or None; got {type(state).__name__}")
    if len(state) != len(parts):
        raise ValueError(f"state must have {len(parts)} parts for this neuron ({', '.join(parts)}), got {len(state)}")
    return LIFState(**dict(zip(parts, state, strict=True)))
