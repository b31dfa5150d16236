"""What is seen of a network in one pass forward and backward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, SupportsFloat, runtime_checkable

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


class Met(NamedTuple):
    """What went into a layer of neurons in one pass; arrays are ``(time, batch, ...)``.

    Attributes:
        path: its name.
        spec: the neuron, as it has :func:`learnt`.
        x: its input.
        gradient: of the loss with respect to that.
    """

    path: str
    spec: LIFSpec
    x: Array
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

    @classmethod
    def of(cls, met: Iterable[Met | Firing], gradients: Mapping[str, Array], loss: float) -> Self:
        """Return a pass from what went into the neurons, in the order in which they ran; read-outs are left out."""
        fires = [each for each in met if isinstance(each, Firing) or each.spec.output == "spikes"]
        return cls([each if isinstance(each, Firing) else fired(*each) for each in fires], gradients, loss)


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


def learnt(spec: LIFSpec, decay_logit: SupportsFloat | None, initial_potential: SupportsFloat | None) -> LIFSpec:
    """Return the neuron that a layer has become, with the values that it has learnt; None where it learns none.

    A start that follows is its ``initial_potential`` here.

    Example:
        >>> learnt(LIFSpec(learn_decay=True, decay=0.25), np.zeros(()), None).decay
        0.5
    """
    changes: dict[str, Any] = {}
    if decay_logit is not None:
        changes |= {"decay": 1.0 / (1.0 + math.exp(-float(decay_logit))), "learn_decay": False}
    if initial_potential is not None:
        changes |= {"initial_potential": float(initial_potential), "learn_initial": False, "initial_follows": False}
    return spec.replace(**changes)


def learnt_in(weights: Mapping[str, SupportsFloat], path: str, spec: LIFSpec) -> LIFSpec:
    """Return the neuron that the layer at ``path`` has become, by a network's weights.

    Example:
        >>> learnt_in({"neuron.running_potential": 0.25}, "neuron", LIFSpec(initial_follows=True)).start
        {'potential': 0.25}
    """
    decay, initial, running = (
        weights.get(f"{path}.{part}") for part in ("decay_logit", "initial_potential", "running_potential")
    )
    return learnt(spec, decay, running if initial is None else initial)


def fired(path: str, spec: LIFSpec, x: Array, gradient: Array) -> Firing:
    """Return what a neuron did with its input, by the neuron's own equations.

    Its output must be spikes; for the arguments see :class:`Met`.

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
        _, state = dynamics.step(spec, state, now, spike=spike, detach=lambda value: value)
        asks = not spec.output_delay or spec.stores_spikes
        u = before[-1] if asks else state.potential - spec.threshold
        spikes[t] = u >= 0 if spec.inclusive else u > 0
        inside[t] = spec.surrogate.derivative(u, np) >= least
    return Firing(path, spikes, inside, gradient)
