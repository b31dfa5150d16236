"""The network of a :class:`~sbp_core.ResNetSpec` with its branches, forward and adjoint by hand, in float64 NumPy.

Each layer returns its output and its adjoint, a function from the cotangent of the output to that of the input which
also keeps the gradients of the layer's weights. The networks of the adapters are held to this one; its adjoint is
checked against finite differences of the smooth twin (every step replaced by the surrogate's antiderivative). Arrays
are ``(time, batch, channels, height, width)``, or ``(batch, ...)`` before an image is repeated over time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sbp_core.backend import Batch, MomentumSGD, NetworkResult, ShortcutNetwork, TrainingResult
from sbp_core.composition import sum_logits
from sbp_core.reference import losses, neuron
from sbp_core.specs.networks import BlockShape
from sbp_core.specs.neurons import LIFState
from sbp_core.specs.schedules import Schedule

Float64 = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.floating]]
Back = Callable[[Float64], Float64]
_MOVING = (".running_mean", ".running_var")


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
        spikes: the output of each block, after :meth:`forward`.
        margin: how far the last :meth:`forward` stayed from every jump (:func:`sbp_core.reference.neuron.margin`).
    """

    def __init__(self, network: ShortcutNetwork, weights: Weights, *, smooth: bool = False) -> None:
        self.network = network
        self.spec = network.spec
        self.weights: dict[str, Float64] = {name: np.array(value, np.float64) for name, value in weights.items()}
        self.gradients: dict[str, Float64] = {}
        self.spikes: dict[str, Float64] = {}
        self.margin = math.inf
        self._step_function = self.spec.neuron.surrogate.antiderivative if smooth else None
        self._blocks: list[tuple[str, Back]] = []
        self._heads: dict[str, Back] = {}
        self._training = True

    def forward(self, images: Float64, *, training: bool) -> Logits:
        """Return the logits of still images, ``(batch, channels, height, width)``."""
        self._training, self.margin, self._blocks, self._heads = training, math.inf, [], {}
        x, back = self._stem(images)
        self._blocks.append(("stem", back))
        self.spikes = {"stem": x}
        for stage, shapes in self.spec.stages():
            backs = []
            for index, shape in enumerate(shapes):
                x, back = self._block(f"main.{stage}.{index}", x, shape)
                backs.append(back)
            self._blocks.append((stage, _in_turn(backs)))
            self.spikes[stage] = x
        main, self._heads["main"] = self._readout("main.head", x)
        branches = []
        for tap in self.network.taps:
            logits, self._heads[tap] = self._readout(f"branches.{tap}", self.spikes[tap])
            branches.append(logits)
        return Logits(main, tuple(branches))

    def backward(self, cotangents: Logits) -> None:
        """Fill :attr:`gradients` with those of ``sum(logits * cotangents)`` over main and branches (Eq. 9)."""
        self.gradients = {}
        a = self._heads["main"](cotangents.main)
        into = dict(zip(self.network.taps, cotangents.branches, strict=True))
        for block, back in reversed(self._blocks):
            if block in into:
                a = a + self._heads[block](into[block])
            a = back(a)

    def _stem(self, images: Float64) -> tuple[Float64, Back]:
        spec = self.spec
        small = spec.stem == "cifar"
        x, back_convolution = self._convolution("main.stem.conv", images, 1 if small else 2)
        x, back_norm = self._batch_norm("main.stem.bn", x)
        x, back_neuron = self._neuron("main.stem.neuron", np.stack([x] * spec.time_steps))
        back_pool: Back = _same
        if not small:
            x, back_pool = _max_pool(x)

        def repeated(a: Float64) -> Float64:
            total: Float64 = a.sum(0)
            return total

        return x, _in_turn([back_convolution, back_norm, repeated, back_neuron, back_pool])

    def _block(self, name: str, x: Float64, shape: BlockShape) -> tuple[Float64, Back]:
        y, convolution1 = self._convolution(f"{name}.conv1", x, shape.stride)
        y, norm1 = self._batch_norm(f"{name}.bn1", y)
        y, neuron1 = self._neuron(f"{name}.neuron1", y)
        y, convolution2 = self._convolution(f"{name}.conv2", y, 1)
        y, norm2 = self._batch_norm(f"{name}.bn2", y)
        identity = x
        back_identity: Back = _same
        if shape.projects:
            identity, convolution = self._convolution(f"{name}.downsample.conv", x, shape.stride)
            identity, norm = self._batch_norm(f"{name}.downsample.bn", identity)
            back_identity = _in_turn([convolution, norm])
        out, neuron2 = self._neuron(f"{name}.neuron2", y + identity)
        residual = _in_turn([convolution1, norm1, neuron1, convolution2, norm2])

        def back(a: Float64) -> Float64:
            a = neuron2(a)
            return residual(a) + back_identity(a)

        return out, back

    def _convolution(self, name: str, x: Float64, stride: int) -> tuple[Float64, Back]:
        kernel = self.weights[f"{name}.weight"]
        size = kernel.shape[-1]
        images = x.reshape(-1, *x.shape[-3:])
        padded = np.pad(images, [(0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2])
        windows = sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
        y = np.moveaxis(np.tensordot(windows, kernel, ([1, 4, 5], [1, 2, 3])), -1, 1)
        height, width = y.shape[2:]

        def back(a: Float64) -> Float64:
            a = a.reshape(y.shape)
            self.gradients[f"{name}.weight"] = np.tensordot(a, windows, ([0, 2, 3], [0, 2, 3]))
            into = np.zeros_like(padded)
            for row, column in np.ndindex(size, size):
                given = np.moveaxis(np.tensordot(a, kernel[:, :, row, column], (1, 0)), -1, 1)
                into[:, :, row : row + stride * height : stride, column : column + stride * width : stride] += given
            inner = slice(size // 2, -(size // 2) or None)
            return into[:, :, inner, inner].reshape(x.shape)

        return y.reshape(*x.shape[:-3], *y.shape[1:]), back

    def _batch_norm(self, name: str, x: Float64) -> tuple[Float64, Back]:
        axes = tuple(axis for axis in range(x.ndim) if axis != x.ndim - 3)

        def wide(statistic: Float64) -> Float64:
            return statistic[:, None, None]

        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        n = x.size // len(weight)
        if self._training:
            mean, variance = x.mean(axes), x.var(axes)
            unbiased = variance * n / max(n - 1, 1)
            for part, new in zip(_MOVING, (mean, unbiased), strict=True):
                old = self.weights[name + part]
                self.weights[name + part] = old + self.spec.batch_norm_momentum * (new - old)
        else:
            mean, variance = (self.weights[name + part] for part in _MOVING)
        scale = 1.0 / np.sqrt(variance + self.spec.batch_norm_epsilon)
        normal = (x - wide(mean)) * wide(scale)

        def back(a: Float64) -> Float64:
            self.gradients[f"{name}.weight"] = np.sum(a * normal, axes)
            self.gradients[f"{name}.bias"] = np.sum(a, axes)
            centred = a - wide(a.mean(axes)) - normal * wide((a * normal).mean(axes))
            return centred * wide(weight * scale)

        return normal * wide(weight) + wide(bias), back

    def _neuron(self, name: str, x: Float64) -> tuple[Float64, Back]:
        spec, decay = self.spec.neuron, None
        if spec.learn_decay:
            decay = 1.0 / (1.0 + math.exp(-float(self.weights[f"{name}.decay_logit"])))
        zero = np.zeros_like(x[0])
        nothing = LIFState(
            zero, zero if spec.synaptic_decay is not None else None, zero if spec.stores_spikes else None
        )

        def differentiate(a: Float64) -> neuron.Adjoint:
            return neuron.adjoint(spec, x, None, a, nothing, decay=decay, step_function=self._step_function)

        def back(a: Float64) -> Float64:
            found = differentiate(a)
            if decay is not None:
                self.gradients[f"{name}.decay_logit"] = np.array(found.grad_decay * decay * (1.0 - decay))
            return found.grad_input

        self.margin = min(self.margin, neuron.margin(spec, x, decay=decay))
        return differentiate(np.zeros_like(x)).output, back

    def _readout(self, name: str, x: Float64) -> tuple[Float64, Back]:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        pooled = x.mean((0, 3, 4))  # over time too: the layer is linear
        share = 1.0 / (x.size // pooled.size)

        def back(a: Float64) -> Float64:
            self.gradients[f"{name}.weight"] = a.T @ pooled
            self.gradients[f"{name}.bias"] = a.sum(0)
            return np.broadcast_to(share * (a @ weight)[..., None, None], x.shape)

        return pooled @ weight.T + bias, back


def differentiate(
    network: ReferenceNetwork, images: Float64, labels: NDArray[np.integer], coefficient: float
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
    spikes = reference.spikes
    evaluated = reference.forward(np.asarray(images, np.float64), training=False).main
    statistics = {name: value for name, value in reference.weights.items() if name.endswith(_MOVING)}
    return NetworkResult(tuple(given), loss, reference.gradients, statistics, evaluated, spikes, "float64")


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
    return TrainingResult(tuple(found), reference.weights, "float64"), margin


def _in_turn(backs: Sequence[Back]) -> Back:
    """Return the adjoint of layers that run in the order given."""

    def back(a: Float64) -> Float64:
        for layer in reversed(backs):
            a = layer(a)
        return a

    return back


def _same(a: Float64) -> Float64:
    return a


def _max_pool(x: Float64) -> tuple[Float64, Back]:
    """Pool 3x3 with stride 2; where several are largest, the first in reading order gets the gradient."""
    images = x.reshape(-1, *x.shape[-2:])
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    flat = windows.reshape(*windows.shape[:3], 9)
    chosen = flat.argmax(-1)
    image, row, column = np.indices(chosen.shape)

    def back(a: Float64) -> Float64:
        into = np.zeros_like(padded)
        np.add.at(into, (image, 2 * row + chosen // 3, 2 * column + chosen % 3), a.reshape(chosen.shape))
        return into[:, 1:-1, 1:-1].reshape(x.shape)

    return flat.max(-1).reshape(*x.shape[:-2], *chosen.shape[1:]), back
