"""A pass through the reference, for :mod:`sbp_core.signal`: float64, gradients derived by hand."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sbp_core.backend import ShortcutNetwork
from sbp_core.reference.network import Logits, ReferenceNetwork, Weights
from sbp_core.signal.calibration import Factor, RunScaled
from sbp_core.signal.passes import Array, Observe, Pass, fired
from sbp_core.specs.layers import Neuron
from sbp_core.specs.losses import LossSpec
from sbp_core.specs.networks import NetworkSpec


def observer(spec: NetworkSpec, weights: Weights) -> Observe:
    """Return what runs batches of images, channels first, through a network without branches, in training.

    Args:
        spec: the network.
        weights: by canonical name.
    """
    neurons = {placed.path: placed.layer.spec for placed in spec.outline() if isinstance(placed.layer, Neuron)}
    start = {f"main.{name}": value for name, value in weights.items()}

    def observe(images: Array, labels: NDArray[np.integer]) -> Pass:
        # a network of its own for each pass: training moves the running statistics
        net = ReferenceNetwork(ShortcutNetwork(spec, (), LossSpec()), start)
        logits = net.forward(np.asarray(images, np.float64), training=True).main
        shifted = logits - logits.max(-1, keepdims=True)
        log = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        right = np.eye(log.shape[-1])[labels]
        net.backward(Logits((np.exp(log) - right) / len(labels), ()))
        gradients = {name.removeprefix("main."): value for name, value in net.gradients.items()}
        firing = []
        for path, (x, gradient) in net.neurons.items():
            if neurons[path].output == "spikes":
                logit = start.get(f"main.{path}.decay_logit")
                decay = None if logit is None else 1.0 / (1.0 + math.exp(-float(logit)))
                firing.append(fired(path, neurons[path], x, gradient, decay))
        order = [name for name in spec.parameter_shapes() if name in gradients]
        loss = float(-np.mean(np.sum(log * right, -1)))
        return Pass(firing, {name: gradients[name] for name in order}, loss)

    return observe


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
