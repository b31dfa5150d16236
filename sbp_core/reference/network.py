"""A network of layers with its branches, forward and adjoint by hand, in float64 NumPy.

The networks of the adapters are held to this one; its adjoint is checked against finite differences of the smooth twin
(every step replaced by the surrogate's antiderivative).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbp_core.backend import Batch, MomentumSGD, NetworkResult, ShortcutNetwork, TrainingResult
from sbp_core.composition import sum_logits
from sbp_core.reference import losses
from sbp_core.reference.layers import Activity, Back, Float64, Tape, in_turn, run
from sbp_core.specs.branches import branch_layers
from sbp_core.specs.layers import Shape
from sbp_core.specs.schedules import Schedule
from sbp_core.specs.structure import placed_in

Weights = Mapping[str, NDArray[np.floating]]
_MOVING = (".running_mean", ".running_var", ".running_potential")


class Logits(NamedTuple):
    """Logits of the main output and of each branch, ``(batch, classes)``."""

    main: Float64
    branches: tuple[Float64, ...]


class ReferenceNetwork:
    """A network and its branches, with weights named as :func:`~sbp_core.reference.networks.initial_weights` does.

    Args:
        network: what it is made of.
        weights: parameters and running statistics, ``main.<name>`` and ``branches.<tap>.<name>``.
        smooth: the smooth twin, whose true gradients finite differences can check.

    Attributes:
        weights: in float64; :meth:`forward` in training moves the running statistics.
        gradients: of each parameter, after :meth:`backward`.
        spikes: the output of each part that can be tapped, after :meth:`forward`.
        outputs: of each layer by its path, after :meth:`forward`.
        counts: whether :attr:`activity` is asked for.
        factor: by its path, what :meth:`forward` multiplies a neuron's input by; its adjoint knows nothing of it.
        margin: how far the last :meth:`forward` stayed from every jump.
    """

    def __init__(self, network: ShortcutNetwork, weights: Weights, *, smooth: bool = False) -> None:
        self.network = network
        self.spec = network.spec
        self.weights: dict[str, Float64] = {name: np.array(value, np.float64) for name, value in weights.items()}
        self.smooth = smooth
        self.counts = False
        self.factor: Callable[[str, Float64], float] | None = None
        self.spikes: dict[str, Float64] = {}
        self._tape = Tape(self.weights, training=True)
        self._parts: list[tuple[str, Back]] = []
        self._heads: dict[str, Back] = {}

    @property
    def gradients(self) -> dict[str, Float64]:
        """Of each parameter, after :meth:`backward`."""
        return self._tape.gradients

    @property
    def outputs(self) -> dict[str, Float64]:
        """Of each layer by its path."""
        return {path.removeprefix("main."): output for path, output in self._tape.outputs.items()}

    @property
    def activity(self) -> dict[str, Activity]:
        """Of each layer's input by its path, after :meth:`forward`, where it ``counts``."""
        return {path.removeprefix("main."): found for path, found in self._tape.activity.items()}

    @property
    def neurons(self) -> dict[str, tuple[Float64, Float64]]:
        """What went into each layer of neurons by its path, and its gradient, after :meth:`backward`."""
        tape = self._tape
        return {path.removeprefix("main."): (x, tape.neuron_gradients[path]) for path, x in tape.neurons.items()}

    @property
    def margin(self) -> float:
        """How far the last :meth:`forward` stayed from every jump."""
        return self._tape.margin

    def forward(self, images: Float64, *, training: bool) -> Logits:
        """Return the logits of still images, ``(batch, channels, height, width)``, or of frames, time before them."""
        self._tape = Tape(self.weights, training=training, smooth=self.smooth)
        self._tape.counts, self._tape.factor = self.counts, self.factor
        self._parts, self._heads, self.spikes = [], {}, {}
        x, available = images, self.spec.tap_channels
        shape = self.spec.input_shape()
        sizes = images.shape[images.ndim - len(shape.space) :]
        shape = shape._replace(space=sizes, timed=images.ndim == len(sizes) + 3)
        shapes: dict[str, Shape] = {}
        for name, layer in self.spec.body.layers:
            x, back = run(self._tape, layer, f"main.{name}", x, len(shape.space))
            self._parts.append((name, back))
            for placed in placed_in(layer, name, shape):
                shape = placed.output
            if name in available:
                self.spikes[name], shapes[name] = x, shape
        branches = []
        for tap in self.network.taps:
            logits, self._heads[tap] = self._branch(tap, self.spikes[tap], len(shapes[tap].space))
            branches.append(logits)
        return Logits(x, tuple(branches))

    def backward(self, cotangents: Logits) -> None:
        """Fill :attr:`gradients` with those of ``sum(logits * cotangents)`` over main and branches (Eq. 9)."""
        self._tape.gradients.clear()
        a = cotangents.main
        into = dict(zip(self.network.taps, cotangents.branches, strict=True))
        for name, back in reversed(self._parts):
            if name in into:
                a = a + self._heads[name](into[name])
            a = back(a)

    def _branch(self, tap: str, x: Float64, space: int) -> tuple[Float64, Back]:
        backs = []
        for name, layer in branch_layers(self.network.branch, x.shape[2], self.spec.num_classes):
            path = f"branches.{tap}.{name}" if name else f"branches.{tap}"
            x, back = run(self._tape, layer, path, x, space)
            backs.append(back)
            space = space if x.ndim == space + 3 else 0
        steps = len(x)
        return x.mean(0), in_turn([*backs, lambda a: np.broadcast_to(a / steps, (steps, *a.shape))])


def differentiate(
    network: ReferenceNetwork, images: Float64, labels: losses.Labels, coefficient: float
) -> tuple[Logits, float]:
    """Run a training step's forward and backward pass; return the logits and the loss, gradients are in the network."""
    logits = network.forward(np.asarray(images, np.float64), training=True)
    loss, of_main, of_branches = losses.loss_of(network.network.loss, *logits, labels, coefficient)
    network.backward(Logits(of_main, of_branches))
    return logits, loss


def network_step(network: ShortcutNetwork, weights: Weights, batch: Batch, coefficient: float) -> NetworkResult:
    """Return what :meth:`sbp_core.backend.TrainsNetworks.network` asks for."""
    reference = ReferenceNetwork(network, weights)
    images, labels = batch
    logits, loss = differentiate(reference, images, labels, coefficient)
    given = [logits.main, *logits.branches]
    if network.loss.combine == "logits":
        given = [sum_logits(logits.main, logits.branches, coefficient)]
    spikes, gradients = reference.spikes, reference.gradients
    evaluated = reference.forward(np.asarray(images, np.float64), training=False).main
    statistics = {name: value for name, value in reference.weights.items() if name.endswith(_MOVING)}
    return NetworkResult(tuple(given), loss, gradients, statistics, evaluated, spikes, "float64")


def train(
    network: ShortcutNetwork, weights: Weights, batches: Sequence[Batch], schedule: Schedule, optimizer: MomentumSGD
) -> tuple[TrainingResult, float]:
    """Return what :meth:`sbp_core.backend.TrainsNetworks.training` asks for, and the least distance to a jump."""
    reference = ReferenceNetwork(network, weights)
    velocity = {name: 0.0 * value for name, value in reference.weights.items() if not name.endswith(_MOVING)}
    found, margin = [], math.inf
    for step, (images, labels) in enumerate(batches, start=1):
        found.append(differentiate(reference, images, labels, float(schedule(step)))[1])
        margin = min(margin, reference.margin)
        for name, gradient in reference.gradients.items():
            velocity[name] = optimizer.momentum * velocity[name] + gradient
            reference.weights[name] = reference.weights[name] - optimizer.learning_rate * velocity[name]
    return TrainingResult(tuple(found), dict(reference.weights), "float64"), margin
