"""A pass through the reference, for :mod:`sbp_core.signal`: float64, gradients derived by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbp_core.backend import ShortcutNetwork
from sbp_core.reference.network import Logits, ReferenceNetwork, Weights
from sbp_core.signal.calibration import Factor, RunScaled
from sbp_core.signal.passes import Array, Met, Observe, Pass, learnt_in
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.networks import NetworkSpec
from sbp_core.specs.neurons import LIFSpec


def observer(spec: NetworkSpec, weights: Weights) -> Observe:
    """Return what runs batches of images, channels first, through a network without branches, in training.

    Args:
        spec: the network.
        weights: by canonical name.
    """
    return _Observer(spec, weights)


class _Observer:
    """Runs batches, each through a network of its own: training moves the running statistics."""

    def __init__(self, spec: NetworkSpec, weights: Weights) -> None:
        self._spec = spec
        self._neurons = dict(spec.neurons())
        self._start = {f"main.{name}": value for name, value in weights.items()}

    def __call__(self, images: Array, labels: NDArray[np.integer]) -> Pass:
        """See :class:`sbp_core.signal.Observe`."""
        net, log = self._forward(images, self._start)
        right = np.eye(log.shape[-1])[labels]
        net.backward(Logits((np.exp(log) - right) / len(labels), ()))
        gradients = {name.removeprefix("main."): value for name, value in net.gradients.items()}
        met = (Met(path, self._learnt(path), *arrays) for path, arrays in net.neurons.items())
        order = [name for name in self._spec.parameter_shapes() if name in gradients]
        return Pass.of(met, {name: gradients[name] for name in order}, _loss(log, labels))

    def _learnt(self, path: str) -> LIFSpec:
        return learnt_in(self._start, f"main.{path}", self._neurons[path])

    def weight(self, name: str) -> Array:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        return np.asarray(self._start[f"main.{name}"])

    def moved(self, images: Array, labels: NDArray[np.integer], name: str, move: Array) -> float:
        """See :class:`sbp_core.signal.ObserveMoved`."""
        weights = self._start | {f"main.{name}": np.asarray(self.weight(name), np.float64) + move}
        return _loss(self._forward(images, weights)[1], labels)

    def _forward(self, images: Array, weights: Weights) -> tuple[ReferenceNetwork, Array]:
        """Return the network, and the logarithms of the classes' probabilities."""
        net = ReferenceNetwork(ShortcutNetwork(self._spec, (), LossSpec()), weights)
        logits = net.forward(np.asarray(images, np.float64), training=True).main
        shifted = logits - logits.max(-1, keepdims=True)
        return net, shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _loss(log: Array, labels: NDArray[np.integer]) -> float:
    return float(-np.mean(log[np.arange(len(labels)), labels]))


def scaled_runner(spec: NetworkSpec, images: Array) -> RunScaled:
    """Return what runs a batch of images, channels first, for :func:`sbp_core.signal.calibrate`.

    Args:
        spec: the network.
        images: the batch.
    """

    def run(weights: Weights, factor: Factor) -> None:
        net = ReferenceNetwork(
            ShortcutNetwork(spec, (), LossSpec()), {f"main.{name}": value for name, value in weights.items()}
        )
        net.factor = lambda path, x: factor(path.removeprefix("main."), x)
        net.forward(np.asarray(images, np.float64), training=True)

    return run
