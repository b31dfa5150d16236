"""What a network costs: parameters and operations of each layer; with data also spikes, accumulates and energy.

A layer whose input is spikes adds a weight for each of them (an accumulate), one whose input is numbers multiplies (a
multiply-accumulate). The field's habit counts 0.9 pJ for the one and 4.6 pJ for the other, in 45 nm (Horowitz 2014),
and nothing for memory, which is why it is contested: beside it stands an estimate with the traffic to on-chip memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_core.backend import ShortcutNetwork
from sbp_core.reference.network import ReferenceNetwork
from sbp_core.specs.joins import JoinSpec
from sbp_core.specs.layers import Neuron, Shape
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.structure import Placed

#: Energy in picojoules of a 32-bit multiply-accumulate and of an addition, in 45 nm (Horowitz 2014).
MULTIPLY_ACCUMULATE, ACCUMULATE = 4.6, 0.9
#: Size in bytes of an on-chip memory, and the picojoules of a 32-bit access to it, in 45 nm (Horowitz 2014, halved from
#: 64 bits); between these the logarithms are interpolated.
MEMORY = ((8 * 1024, 5.0), (32 * 1024, 10.0), (1024 * 1024, 50.0))


class Cost(NamedTuple):
    """Of a layer, for one image, over all time steps.

    Attributes:
        path: its name.
        kind: of layer.
        output: shape of what it gives.
        parameters: trained numbers.
        operations: multiply-accumulates, were every input a number.
        updates: of neurons: each at each step.
        active: share of its inputs that are not 0; None without data.
        spikes: whether its inputs are whole numbers, spikes or sums of them; None without data.
        rate: of a neuron, spikes a step; None for another layer, or without data.
    """

    path: str
    kind: str
    output: Shape
    parameters: int
    operations: int
    updates: int = 0
    active: float | None = None
    spikes: bool | None = None
    rate: float | None = None

    @property
    def synaptic(self) -> float | None:
        """Accumulates that spikes cause; 0 where the inputs are numbers, None without data."""
        if self.active is None:
            return None
        return self.operations * self.active if self.spikes else 0.0

    @property
    def energy(self) -> float | None:
        """Picojoules of arithmetic alone, by the field's habit; None without data."""
        if self.synaptic is None:
            return None
        return ACCUMULATE * self.synaptic if self.spikes else MULTIPLY_ACCUMULATE * self.operations

    @property
    def memory(self) -> float | None:
        """Picojoules of on-chip memory: a weight is read, a sum is read and written, for each operation.

        A neuron reads and writes its potential at each step.
        """
        if self.synaptic is None:
            return None
        sums = access(4 * self.output.channels * (self.output.positions or 1))
        done = self.synaptic if self.spikes else self.operations
        return done * (access(4 * self.parameters) + 2.0 * sums) + 2.0 * self.updates * sums


def access(size: float) -> float:
    """Return the picojoules of a 32-bit access to an on-chip memory of that many bytes.

    Example:
        >>> [round(access(size * 1024), 2) for size in (8, 16, 32)]
        [5.0, 7.07, 10.0]
    """
    sizes, energies = (np.log([row[column] for row in MEMORY]) for column in (0, 1))
    place = math.log(max(size, MEMORY[0][0]))
    if place > sizes[-1]:
        slope = (energies[-1] - energies[-2]) / (sizes[-1] - sizes[-2])
        return float(np.exp(energies[-1] + slope * (place - sizes[-1])))
    return float(np.exp(np.interp(place, sizes, energies)))


def costs(
    spec: NetworkSpec,
    size: tuple[int, ...] | None = None,
    *,
    weights: Mapping[str, NDArray[np.floating]] | None = None,
    images: NDArray[np.floating] | None = None,
    training: bool = False,
) -> list[Cost]:
    """Return the cost of every layer, in the order in which they run.

    Args:
        spec: the network.
        size: height and width of the image; the spec's, or that of ``images``, unless given.
        weights: by canonical name; with ``images``, what is counted in.
        images: still images, ``(batch, channels, height, width)``, or event frames, with time before that. The network
            runs in float64 NumPy.
        training: whether batch norm takes the images' statistics, as in a network that was never trained.

    Raises:
        ValueError: the size is not known; ``images`` without ``weights``, or the other way round.

    Example:
        >>> from sbp_core import network_spec
        >>> sum(cost.operations for cost in costs(network_spec("convnet", time_steps=4), (32, 32)))
        5162240
    """
    if (weights is None) != (images is None):
        raise ValueError("weights and images must be given together, or neither")
    timed = None if images is None else images.ndim == len(spec.image_size) + 3
    if size is None:
        size = tuple(extent or 0 for extent in spec.image_size) if images is None else images.shape[-2:]
    if 0 in size:
        raise ValueError(f"size must be given: the {spec.kind} takes images of any")
    steps = spec.time_steps if images is None or not timed else len(images)
    found = [_static(placed, steps) for placed in spec.outline(size, timed=timed)]
    if images is None or weights is None:
        return found
    network = ReferenceNetwork(ShortcutNetwork(spec, (), LossSpec()), {f"main.{n}": w for n, w in weights.items()})
    network.counts = True
    network.forward(np.asarray(images, np.float64), training=training)
    inputs, outputs = network.activity, network.outputs
    return [
        cost._replace(
            active=inputs[cost.path].active,
            spikes=inputs[cost.path].whole,
            rate=float(outputs[cost.path].mean()) if cost.kind == Neuron.kind else None,
        )
        if cost.path in inputs
        else cost
        for cost in found
    ]


def _static(placed: Placed, steps: int) -> Cost:
    shape = placed.output
    parameters = sum(math.prod(p.shape) for name, p in placed.parameters().items() if ".running_" not in name)
    times = steps if shape.timed or placed.layer.kind == "time_mean" else 1
    operations = placed.operations() * times
    updates = shape.channels * (shape.positions or 1) * steps if isinstance(placed.layer, Neuron) else 0
    kind = placed.layer.kind if not isinstance(placed.layer, JoinSpec) else f"join: {placed.layer.kind}"
    return Cost(placed.path, kind, shape, parameters, operations, updates)
