"""What is seen of a network in one pass forward and backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sbp_core import dynamics
from sbp_core.reference.neuron import initial_state
from sbp_core.specs.neurons import LIFSpec

Array = NDArray[np.floating]

#: Where a surrogate lets the gradient through: where it has this share of its greatest value. A rectangle ends there;
#: one with long tails has no end, but its tails do not carry.
INSIDE = 0.1


class Firing(NamedTuple):
    """A spiking neuron in one pass; arrays are ``(time, batch, ...)``.

    Attributes:
        path: its name.
        spikes: 1 where it fired.
        inside: whether the potential was where the surrogate lets the gradient through.
        gradient: of the loss with respect to the neuron's input.
    """

    path: str
    spikes: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    gradient: Array


class Pass(NamedTuple):
    """One batch forward and backward.

    Attributes:
        neurons: in the order in which they ran.
        gradients: of each weight by its name, from the input to the output.
        loss: the mean over the batch.
    """

    neurons: Sequence[Firing]
    gradients: Mapping[str, Array]
    loss: float


class Observe(Protocol):
    """What an adapter offers: passes that leave nothing behind on the network."""

    def __call__(self, images: Array, labels: NDArray[np.integer]) -> Pass:
        """Run a batch forward and backward."""


@runtime_checkable
class ObserveMoved(Observe, Protocol):
    """An observer that also runs the network with other weights."""

    def weight(self, name: str) -> Array:
        """Return a weight by the name that its gradient has."""

    def moved(self, images: Array, labels: NDArray[np.integer], name: str, move: Array) -> float:
        """Return the loss of a batch with ``move`` added to a weight."""


def fired(path: str, spec: LIFSpec, x: Array, gradient: Array, decay: float | None = None) -> Firing:
    """Return what a neuron did with its input, by the neuron's own equations.

    Args:
        path: its name.
        spec: the neuron; its output must be spikes.
        x: its input, ``(time, batch, ...)``.
        gradient: of the loss with respect to ``x``.
        decay: a learnt one.

    Example:
        >>> ramp = np.array([[[0.4]], [[0.9]], [[2.0]]])
        >>> found = fired("neuron", LIFSpec(), ramp, np.zeros_like(ramp))
        >>> found.spikes.ravel().tolist(), found.inside.ravel().tolist()
        ([False, True, True], [False, True, False])
    """
    least = INSIDE * max(spec.surrogate.peak, 0.0)
    spikes, inside = np.zeros(x.shape, np.bool_), np.zeros(x.shape, np.bool_)
    state = initial_state(spec, x[0])
    for t, now in enumerate(x):
        before: list[Any] = []

        def spike(u: Any, before: list[Any] = before) -> Any:
            before.append(u)
            return (u >= 0 if spec.inclusive else u > 0).astype(u.dtype)

        # a delayed neuron does not ask in this step whether its new potential fires
        _, state = dynamics.step(spec, state, now, spike=spike, detach=lambda value: value, decay=decay)
        asks = not spec.output_delay or spec.stores_spikes
        u = before[-1] if asks else state.potential - spec.threshold
        spikes[t] = u >= 0 if spec.inclusive else u > 0
        inside[t] = spec.surrogate.derivative(u, np) >= least
    return Firing(path, spikes, inside, gradient)
