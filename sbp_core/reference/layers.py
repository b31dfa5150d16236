"""Every layer in float64 NumPy, forward and adjoint derived by hand.

A layer's function returns its output and its adjoint: a function from the cotangent of the output to that of the input,
which also keeps the gradients of the layer's weights on the :class:`Tape`. Arrays are ``(time, batch, channels,
*space)``, or ``(batch, channels, *space)`` where there is no time yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sbp_core.reference import neuron
from sbp_core.reference.joins import JOINS
from sbp_core.specs import layers as kinds
from sbp_core.specs.neurons import LIFState
from sbp_core.specs.structure import Parallel, Residual
from sbp_core.specs.structure import Sequence as Chain

Float64 = NDArray[np.float64]
Back = Callable[[Float64], Float64]
Run = tuple[Float64, Back]


class Activity(NamedTuple):
    """Of a layer's input: the share that is not 0, and whether all are whole numbers, as sums of spikes are."""

    active: float
    whole: bool


class Tape:
    """What a pass through a network reads and leaves.

    Args:
        weights: by canonical name; training moves the running statistics.
        training: whether batch norm takes the batch's statistics.
        smooth: the smooth twin: every step is replaced by the surrogate's antiderivative.

    Attributes:
        gradients: of each parameter, once the adjoints have run.
        outputs: of each layer by its path.
        activity: of each layer's input by its path, where it ``counts``.
        counts: whether that is asked for.
        neurons: what went into each layer of neurons, by its path.
        neuron_gradients: of what went into it, once the adjoints have run.
        factor: by its path, what a neuron's input is multiplied by; None for nothing.
        margin: how far the pass stayed from every jump: of the step function, of a maximum between two, of a ReLU.
    """

    def __init__(self, weights: dict[str, Float64], *, training: bool, smooth: bool = False) -> None:
        self.weights, self.training, self.smooth = weights, training, smooth
        self.gradients: dict[str, Float64] = {}
        self.outputs: dict[str, Float64] = {}
        self.activity: dict[str, Activity] = {}
        self.counts = False
        self.factor: Callable[[str, Float64], float] | None = None
        self.neurons: dict[str, Float64] = {}
        self.neuron_gradients: dict[str, Float64] = {}
        self.margin = math.inf

    def count(self, path: str, *inputs: Float64) -> None:
        """Take note of what goes into a layer, or into a join, if that is asked for."""
        if self.counts:
            active = sum(np.count_nonzero(x) for x in inputs) / sum(x.size for x in inputs)
            self.activity[path] = Activity(float(active), all(np.array_equal(x, np.round(x)) for x in inputs))

    def keep_off(self, distances: Float64) -> None:
        """Take note of distances to a jump."""
        if distances.size:
            self.margin = min(self.margin, float(distances.min()))


def run(tape: Tape, layer: kinds.LayerSpec, path: str, x: Float64, space: int) -> Run:
    """Run a layer, or the layers that it is made of.

    Args:
        tape: weights, and what is kept.
        layer: which.
        path: its name.
        x: its input.
        space: how many axes of space the input has.

    Raises:
        NotImplementedError: a kind of layer without an oracle here.
    """
    function = _COMPOSITES.get(type(layer)) or LAYERS.get(type(layer))
    if function is None:
        raise NotImplementedError(f"layer {path!r}: there is no oracle for the kind {layer.kind!r}")
    tape.count(path, x)
    y, back = function(tape, layer, path, x, space)
    tape.outputs[path] = y
    return y, back


def in_turn(backs: Sequence[Back]) -> Back:
    """Return the adjoint of layers that run in the order given."""

    def back(a: Float64) -> Float64:
        for layer in reversed(backs):
            a = layer(a)
        return a

    return back


def _same(a: Float64) -> Float64:
    return a


def _chain(tape: Tape, layer: Chain, path: str, x: Float64, space: int) -> Run:
    backs = []
    for name, part in layer.layers:
        x, back = run(tape, part, f"{path}.{name}" if path else name, x, space)
        backs.append(back)
        space = _left(part, space)
    return x, in_turn(backs)


def _left(layer: kinds.LayerSpec, space: int) -> int:
    """Return how many axes of space are left behind a layer."""
    if isinstance(layer, kinds.GlobalPool | kinds.Flatten):
        return 0
    if isinstance(layer, Chain):
        for _, part in layer.layers:
            space = _left(part, space)
    return space


def _residual(tape: Tape, layer: Residual, path: str, x: Float64, space: int) -> Run:
    y, back_body = _chain(tape, layer.body, path, x, space)
    identity: Float64 = x
    back_identity: Back = _same
    if layer.shortcut is not None:
        identity, back_identity = run(tape, layer.shortcut, f"{path}.downsample", x, space)
    space = _left(layer.body, space)
    tape.count(f"{path}.{layer.joined.kind}", identity, y)
    y, back_join = JOINS[type(layer.joined)](layer.joined, [identity, y], space)
    backs: list[Back] = []
    if layer.after is not None:
        y, back_after = _chain(tape, layer.after, path, y, space)
        backs.append(back_after)

    def back(a: Float64) -> Float64:
        of_identity, of_body = back_join(in_turn(backs)(a))
        return back_body(of_body) + back_identity(of_identity)

    return y, back


def _parallel(tape: Tape, layer: Parallel, path: str, x: Float64, space: int) -> Run:
    runs = [run(tape, part, f"{path}.{name}" if path else name, x, space) for name, part in layer.paths]
    tape.count(f"{path}.{layer.joined.kind}", *(end for end, _ in runs))
    y, back_join = JOINS[type(layer.joined)](layer.joined, [end for end, _ in runs], _left(layer.paths[0][1], space))

    def back(a: Float64) -> Float64:
        into = np.zeros_like(x)
        for (_, path_back), of_end in zip(runs, back_join(a), strict=True):
            into = into + path_back(of_end)
        return into

    return y, back


def _merged(x: Float64, space: int) -> Float64:
    """Return ``(items, channels, *space)``."""
    return x.reshape(-1, *x.shape[x.ndim - space - 1 :])


def _convolution(tape: Tape, layer: kinds.Conv, path: str, x: Float64, space: int) -> Run:
    kernel = tape.weights[f"{path}.weight"]
    size, stride, pad = layer.kernel, layer.stride, layer.pad
    images = _merged(x, space)
    axes = tuple(range(2, 2 + space))
    padded = np.pad(images, [(0, 0), (0, 0), *[(pad, pad)] * space])
    windows = sliding_window_view(padded, (size,) * space, axis=axes)
    windows = windows[(slice(None), slice(None), *[slice(None, None, stride)] * space)]
    of_kernel = tuple(range(2 + space, 2 + 2 * space))
    given, made = (
        [slice(part * n // layer.groups, (part + 1) * n // layer.groups) for part in range(layer.groups)]
        for n in (images.shape[1], layer.channels)
    )
    parts = [
        np.moveaxis(np.tensordot(windows[:, i], kernel[o], ([1, *of_kernel], [1, *axes])), -1, 1)
        for i, o in zip(given, made, strict=True)
    ]
    y = np.concatenate(parts, 1) if len(parts) > 1 else parts[0]
    if layer.bias:
        y = y + tape.weights[f"{path}.bias"].reshape(-1, *[1] * space)

    def back(a: Float64) -> Float64:
        a = a.reshape(y.shape)
        over = (0, *axes)
        if layer.bias:
            tape.gradients[f"{path}.bias"] = a.sum(over)
        tape.gradients[f"{path}.weight"] = np.concatenate(
            [np.tensordot(a[:, o], windows[:, i], (over, over)) for i, o in zip(given, made, strict=True)]
        )
        into = np.zeros_like(padded)
        for place in np.ndindex(*[size] * space):
            taken = tuple(
                slice(start, start + stride * extent, stride) for start, extent in zip(place, y.shape[2:], strict=True)
            )
            for i, o in zip(given, made, strict=True):
                back_at = np.tensordot(a[:, o], kernel[(o, slice(None), *place)], (1, 0))
                into[(slice(None), i, *taken)] += np.moveaxis(back_at, -1, 1)
        inner = slice(pad, -pad or None)
        return into[(slice(None), slice(None), *[inner] * space)].reshape(x.shape)

    return y.reshape(*x.shape[: x.ndim - space - 1], *y.shape[1:]), back


def _batch_norm(tape: Tape, layer: kinds.BatchNorm, path: str, x: Float64, space: int) -> Run:
    weight, bias = tape.weights[f"{path}.weight"], tape.weights[f"{path}.bias"]
    axes = tuple(axis for axis in range(x.ndim) if axis != x.ndim - space - 1)

    def wide(values: Float64) -> Float64:
        return values.reshape(-1, *[1] * space)

    if tape.training:
        mean, variance = x.mean(axes), x.var(axes)
        count = x.size / mean.size
        for part, new in (("running_mean", mean), ("running_var", variance * (count / (count - 1.0)))):
            old = tape.weights[f"{path}.{part}"]
            tape.weights[f"{path}.{part}"] = old + layer.momentum * (new - old)
    else:
        mean, variance = (tape.weights[f"{path}.running_{part}"] for part in ("mean", "var"))
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    normal = (x - wide(mean)) * wide(scale)

    def back(a: Float64) -> Float64:
        tape.gradients[f"{path}.weight"] = np.sum(a * normal, axes)
        tape.gradients[f"{path}.bias"] = np.sum(a, axes)
        centred = a - wide(a.mean(axes)) - normal * wide((a * normal).mean(axes))
        return centred * wide(weight * scale)

    return normal * wide(weight) + wide(bias), back


def _linear(tape: Tape, layer: kinds.Linear, path: str, x: Float64, space: int) -> Run:
    weight = tape.weights[f"{path}.weight"]
    y = x @ weight.T
    if layer.bias:
        y = y + tape.weights[f"{path}.bias"]

    def back(a: Float64) -> Float64:
        given, back_to = x.reshape(-1, x.shape[-1]), a.reshape(-1, a.shape[-1])
        tape.gradients[f"{path}.weight"] = back_to.T @ given
        if layer.bias:
            tape.gradients[f"{path}.bias"] = back_to.sum(0)
        return a @ weight

    return y, back


def _windows(x: Float64, layer: kinds.MaxPool | kinds.AvgPool, space: int, fill: float) -> tuple[Float64, Back]:
    """Return the windows with their values in one last axis, and the function that adds such values where they lie."""
    size, stride, pad = layer.kernel, layer.step, layer.padding
    planes = x.reshape(-1, *x.shape[x.ndim - space :])
    padded = np.pad(planes, [(0, 0), *[(pad, pad)] * space], constant_values=fill)
    axes = tuple(range(1, 1 + space))
    windows = sliding_window_view(padded, (size,) * space, axis=axes)
    windows = windows[(slice(None), *[slice(None, None, stride)] * space)]
    flat = windows.reshape(*windows.shape[: 1 + space], -1)

    def spread(values: Float64) -> Float64:
        into = np.zeros_like(padded)
        for index, place in enumerate(np.ndindex(*[size] * space)):
            taken = tuple(
                slice(start, start + stride * extent, stride)
                for start, extent in zip(place, flat.shape[1:-1], strict=True)
            )
            into[(slice(None), *taken)] += values[..., index]
        inner = slice(pad, -pad or None)
        return into[(slice(None), *[inner] * space)].reshape(x.shape)

    return flat, spread


def _max_pool(tape: Tape, layer: kinds.MaxPool, path: str, x: Float64, space: int) -> Run:
    flat, spread = _windows(x, layer, space, -np.inf)
    chosen = flat.argmax(-1)[..., None]
    if flat.shape[-1] > 1:
        second, first = np.moveaxis(np.sort(flat, -1)[..., -2:], -1, 0)
        # spikes that are equal are so exactly
        tape.keep_off((first - second)[first != second])

    def back(a: Float64) -> Float64:
        values = np.zeros_like(flat)
        np.put_along_axis(values, chosen, a.reshape(chosen.shape), -1)
        return spread(values)

    y: Float64 = np.take_along_axis(flat, chosen, -1)[..., 0]
    return y.reshape(*x.shape[: x.ndim - space], *y.shape[1:]), back


def _avg_pool(tape: Tape, layer: kinds.AvgPool, path: str, x: Float64, space: int) -> Run:
    flat, spread = _windows(x, layer, space, 0.0)
    y: Float64 = flat.mean(-1)

    def back(a: Float64) -> Float64:
        return spread(np.broadcast_to(a.reshape(*y.shape, 1) / flat.shape[-1], flat.shape))

    return y.reshape(*x.shape[: x.ndim - space], *y.shape[1:]), back


def _global_pool(tape: Tape, layer: kinds.GlobalPool, path: str, x: Float64, space: int) -> Run:
    axes = tuple(range(x.ndim - space, x.ndim))
    y: Float64 = x.mean(axes)
    share = y.size / x.size
    return y, lambda a: np.broadcast_to(share * a.reshape(*y.shape, *[1] * space), x.shape)


def _flatten(tape: Tape, layer: kinds.Flatten, path: str, x: Float64, space: int) -> Run:
    return x.reshape(*x.shape[: x.ndim - space - 1], -1), lambda a: a.reshape(x.shape)


def _relu(tape: Tape, layer: kinds.Relu, path: str, x: Float64, space: int) -> Run:
    # what is 0 exactly, of no spikes, is so everywhere
    tape.keep_off(np.abs(x[x != 0]))
    passes = x > 0
    return x * passes, lambda a: a * passes


def _vote(tape: Tape, layer: kinds.Vote, path: str, x: Float64, space: int) -> Run:
    y: Float64 = x.reshape(*x.shape[:-1], -1, layer.voters).mean(-1)
    return y, lambda a: np.repeat(a / layer.voters, layer.voters, -1)


def _head_sum(tape: Tape, layer: kinds.HeadSum, path: str, x: Float64, space: int) -> Run:
    axis = x.ndim - space - 1
    size = x.shape[axis] // layer.heads
    y: Float64 = x.reshape(*x.shape[:axis], layer.heads, size, *x.shape[axis + 1 :]).sum(axis + 1)
    return y, lambda a: np.repeat(a, size, axis)


def _neuron(tape: Tape, layer: kinds.Neuron, path: str, x: Float64, space: int) -> Run:
    spec, decay = layer.spec, None
    if tape.factor is not None:
        x = x * tape.factor(path, x)
    if spec.learn_decay:
        decay = 1.0 / (1.0 + math.exp(-float(tape.weights[f"{path}.decay_logit"])))
    first = None
    if spec.learn_initial or spec.initial_follows:
        first = float(tape.weights[f"{path}.{'initial' if spec.learn_initial else 'running'}_potential"])
    start = neuron.initial_state(spec, x[0], first)
    nothing = LIFState(**{name: np.zeros_like(x[0]) for name in spec.state_parts})
    step_function = spec.surrogate.antiderivative if tape.smooth else None

    def differentiate(a: Float64) -> neuron.Adjoint:
        return neuron.adjoint(spec, x, start, a, nothing, decay=decay, step_function=step_function)

    def back(a: Float64) -> Float64:
        found = differentiate(a)
        if decay is not None:
            tape.gradients[f"{path}.decay_logit"] = np.array(found.grad_decay * decay * (1.0 - decay))
        if spec.learn_initial:
            tape.gradients[f"{path}.initial_potential"] = np.array(np.sum(found.grad_state.potential))
        tape.neuron_gradients[path] = found.grad_input
        return found.grad_input

    tape.neurons[path] = x
    tape.keep_off(np.array([neuron.margin(spec, x, start, decay=decay, ties=False)]))
    found = differentiate(np.zeros_like(x))
    fired = found.output.any(0)
    if tape.training and spec.initial_follows and fired.any():
        name, last = f"{path}.running_potential", found.state.potential[fired]
        tape.weights[name] = 0.9 * tape.weights[name] + 0.1 * last.mean()
    return found.output, back


def _dropout(tape: Tape, layer: kinds.Dropout, path: str, x: Float64, space: int) -> Run:
    if tape.training and layer.rate:
        raise NotImplementedError(f"layer {path!r}: dropout draws at random, which has no oracle; rate must be 0 here")
    return x, _same


def _repeat(tape: Tape, layer: kinds.Repeat, path: str, x: Float64, space: int) -> Run:
    if x.ndim == space + 3:
        return x, _same

    def back(a: Float64) -> Float64:
        total: Float64 = a.sum(0)
        return total

    return np.stack([x] * layer.time_steps), back


def _time_scale(tape: Tape, layer: kinds.TimeScale, path: str, x: Float64, space: int) -> Run:
    weight = tape.weights[f"{path}.weight"].reshape(-1, *[1] * (x.ndim - 1))

    def back(a: Float64) -> Float64:
        tape.gradients[f"{path}.weight"] = np.sum(a * x, tuple(range(1, x.ndim)))
        return a * weight

    return x * weight, back


def _time_mean(tape: Tape, layer: kinds.TimeMean, path: str, x: Float64, space: int) -> Run:
    y: Float64 = x.mean(0)
    return y, lambda a: np.broadcast_to(a / len(x), x.shape)


_COMPOSITES: Mapping[type, Callable[..., Run]] = {Chain: _chain, Residual: _residual, Parallel: _parallel}

#: The oracle of each kind of layer.
LAYERS: Mapping[type, Callable[..., Run]] = {
    kinds.Conv: _convolution,
    kinds.BatchNorm: _batch_norm,
    kinds.Linear: _linear,
    kinds.MaxPool: _max_pool,
    kinds.AvgPool: _avg_pool,
    kinds.GlobalPool: _global_pool,
    kinds.Flatten: _flatten,
    kinds.Relu: _relu,
    kinds.Vote: _vote,
    kinds.HeadSum: _head_sum,
    kinds.Neuron: _neuron,
    kinds.Dropout: _dropout,
    kinds.Repeat: _repeat,
    kinds.TimeScale: _time_scale,
    kinds.TimeMean: _time_mean,
}
