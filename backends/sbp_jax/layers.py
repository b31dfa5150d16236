"""The layers of networks and branches, channels last: one table from their specs to ``flax.nnx``, one for joins."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core.specs import layers as kinds
from sbp_core.specs import structure
from sbp_core.specs.layers import Shape
from sbp_jax.neurons import LIF


class Build(TypedDict):
    """What every layer is made with.

    Attributes:
        dtype: of the computation; None to follow from input and parameters.
        param_dtype: of the parameters.
        rngs: random keys of the initial weights, and of dropout.
    """

    dtype: Any
    param_dtype: Any
    rngs: nnx.Rngs


class BatchNorm(nnx.BatchNorm):
    """Batch norm over every axis but the last, time included, whose running variance is unbiased.

    With n values per channel, the batch's variance enters the running one times ``n / (n - 1)``, as in PyTorch;
    ``nnx.BatchNorm`` leaves the factor out. ``model.train()`` and ``model.eval()`` switch it.

    Args:
        channels: size of the last axis.
        epsilon: added to the variance.
        momentum: weight of the new statistics in the running ones, 1 minus what ``nnx.BatchNorm`` calls momentum.
        scale: what its weight starts at.
        dtype: dtype of the result; None to follow from input and parameters.
        param_dtype: dtype of weight and bias; running statistics have at least float32.
        rngs: as for every nnx module.

    Example:
        >>> norm = BatchNorm(1, momentum=1.0, rngs=nnx.Rngs(0))
        >>> normalised = norm(jnp.array([[0.0], [2.0]]))
        >>> norm.mean[...].tolist(), norm.var[...].tolist()
        ([1.0], [2.0])
    """

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.1,
        scale: float = 1.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            channels,
            momentum=1.0 - momentum,
            epsilon=epsilon,
            dtype=dtype,
            param_dtype=param_dtype,
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels
            scale_init=nnx.initializers.constant(scale),
            rngs=rngs,
        )
        running_dtype = jnp.promote_types(jnp.float32, param_dtype)
        self.mean = nnx.BatchStat(jnp.zeros(channels, running_dtype))
        self.var = nnx.BatchStat(jnp.ones(channels, running_dtype))

    def __call__(self, x: jax.Array, use_running_average: bool | None = None, **options: Any) -> jax.Array:
        """Normalise ``x``, shape ``(..., channels)``; in training, update the running statistics.

        Raises:
            ValueError: one value per channel in training, which has no variance.
        """
        if self.use_running_average if use_running_average is None else use_running_average:
            normalised: jax.Array = super().__call__(x, True, **options)
            return normalised
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ValueError(f"x must hold more than one value per channel in training, got shape {x.shape}")
        kept = self.momentum * self.var[...]
        normalised = super().__call__(x, False, **options)
        self.var[...] = kept + (self.var[...] - kept) * (count / (count - 1))
        return normalised


class Dropout(nnx.Dropout):
    """Dropout whose mask is the same at all steps of a sample.

    Args:
        rate: share of what is dropped.
        space: axes of space of its input.
        rngs: random keys of the masks.
    """

    def __init__(self, rate: float, *, space: int, rngs: nnx.Rngs) -> None:
        super().__init__(rate, rngs=rngs)
        self.space = space

    def __call__(self, inputs: jax.Array, **options: Any) -> jax.Array:
        """Return ``inputs``, ``([time,] batch, *space, channels)``, with some dropped and the others larger."""
        timed = inputs.ndim == self.space + 3
        step = jnp.ones(inputs.shape[1:] if timed else inputs.shape, inputs.dtype)
        return inputs * super().__call__(step, **options)


class TimeScale(nnx.Module):
    """A learnt factor for each step, ``weight``.

    Args:
        time_steps: how many.
        dtype: dtype of the computation; None to follow from input and parameters.
        param_dtype: dtype of the factors.
    """

    def __init__(self, time_steps: int, *, dtype: Any = None, param_dtype: Any = jnp.float32) -> None:
        self.weight = nnx.Param(jnp.ones(time_steps, param_dtype))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return ``x``, ``(time, ...)``, scaled.

        Raises:
            ValueError: another number of steps.
        """
        weight = self.weight[...].astype(self.dtype or self.weight.dtype)
        if len(x) != len(weight):
            raise ValueError(f"x must have the {len(weight)} steps that there are factors for, got shape {x.shape}")
        return x * weight.reshape(-1, *[1] * (x.ndim - 1))


class Function(nnx.Module):
    """A layer without weights: ``function(spec, x, space)``, of a layer's spec and the number of axes of space."""

    def __init__(self, function: Callable[[Any, jax.Array, int], jax.Array], spec: kinds.LayerSpec, space: int) -> None:
        self.function, self.spec, self.space = function, spec, space

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return its output."""
        return self.function(self.spec, x, self.space)


class Chain(nnx.Module):
    """Layers one after the other, attributes by their names.

    Args:
        layers: name and spec, in order.
        shape: of the input of the first.
        build: what they are made with.

    Raises:
        ValueError: a name that every nnx module has already.
        NotImplementedError: a kind that is not in :data:`LAYERS`.
    """

    def __init__(self, layers: structure.Named, shape: Shape, build: Build) -> None:
        self._names = tuple(name for name, _ in layers)
        hold(self, layers, shape, build)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the last one's output."""
        return run(self, self._names, x)


class Residual(nnx.Module):
    """``after(join(downsample(x), body(x)))``: attributes by the names of the layers, ``downsample`` None for x.

    Args:
        spec: the block.
        shape: of its input.
        build: what its layers are made with.
    """

    def __init__(self, spec: structure.Residual, shape: Shape, build: Build) -> None:
        after = spec.after.layers if spec.after else ()
        self._body, self._after = (tuple(name for name, _ in layers) for layers in (spec.body.layers, after))
        self._join = spec.joined
        inner = hold(self, spec.body.layers, shape, build)
        self._space = len(inner.space)
        self.downsample = None if spec.shortcut is None else make(spec.shortcut, shape, build)
        identity = shape if spec.shortcut is None else spec.shortcut.output(shape)
        hold(self, after, self._join.output([identity, inner]), build)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return its output."""
        identity = run(self, ("downsample",), x) if self.downsample is not None else x
        return run(self, self._after, joined(self._join, [identity, run(self, self._body, x)], self._space))


class Parallel(nnx.Module):
    """Several paths of one input that join: attributes by their names.

    Args:
        spec: the paths and their join.
        shape: of the input.
        build: what the layers are made with.
    """

    def __init__(self, spec: structure.Parallel, shape: Shape, build: Build) -> None:
        self._names = tuple(name for name, _ in spec.paths)
        self._join = spec.joined
        for path in spec.paths:
            self._space = len(hold(self, (path,), shape, build).space)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return what becomes of their outputs."""
        return joined(self._join, [run(self, (name,), x) for name in self._names], self._space)


def make(spec: kinds.LayerSpec, shape: Shape, build: Build) -> nnx.Module:
    """Return a layer for an input of ``shape``.

    Raises:
        NotImplementedError: a kind that is not in :data:`LAYERS`.

    Example:
        >>> build = Build(dtype=None, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> make(kinds.MaxPool(), Shape(2, (4, 4)), build)(jnp.ones((3, 1, 4, 4, 2))).shape
        (3, 1, 2, 2, 2)
    """
    if type(spec) not in LAYERS:
        raise NotImplementedError(f"there is no layer of the kind {spec.kind!r} in sbp_jax.layers.LAYERS")
    return LAYERS[type(spec)](spec, shape, build)


def hold(owner: nnx.Module, layers: structure.Named, shape: Shape, build: Build) -> Shape:
    """Make layers that run one after the other attributes of ``owner``; return the shape that comes out.

    Raises:
        ValueError: a name that ``owner`` has already.
        NotImplementedError: a kind that is not in :data:`LAYERS`.
    """
    for name, spec in layers:
        if hasattr(owner, name):
            raise ValueError(f"layers must not be named {name!r} here: a {type(owner).__name__} has it already")
        setattr(owner, name, make(spec, shape, build))
        shape = spec.output(shape)
    return shape


def run(owner: nnx.Module, names: Sequence[str], x: jax.Array) -> jax.Array:
    """Return ``x`` behind the layers of those names."""
    for name in names:
        x = getattr(owner, name)(x)
    return x


def joined(join: kinds.JoinSpec, ends: list[jax.Array], space: int) -> jax.Array:
    """Return what becomes of the ends of several paths.

    Raises:
        NotImplementedError: a join that is not in :data:`JOINS`.
    """
    if type(join) not in JOINS:
        raise NotImplementedError(f"there is no join of the kind {join.kind!r} in sbp_jax.layers.JOINS")
    return JOINS[type(join)](join, ends, space)


def pool(x: jax.Array) -> jax.Array:
    """Return the mean over space of ``(time, batch, ..., channels)``: any number of axes, none included."""
    return x.mean(axis=tuple(range(2, x.ndim - 1)))


def uniform(inputs: int) -> Callable[..., jax.Array]:
    """Return the initialiser of a layer of that many inputs, ``(key, shape, dtype)`` to an array."""
    bound = 1.0 / math.sqrt(inputs)

    def draw(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


def _convolution(spec: kinds.Conv, shape: Shape, build: Build) -> nnx.Conv:
    space = len(shape.space)
    initial = uniform(shape.channels // spec.groups * spec.kernel**space)
    kaiming = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
    return nnx.Conv(
        shape.channels,
        spec.channels,
        (spec.kernel,) * space,
        strides=spec.stride,
        padding=spec.pad,  # alike on all sides, which "SAME" is not at stride 2
        feature_group_count=spec.groups,
        use_bias=spec.bias,
        kernel_init=kaiming if spec.initial == "kaiming" else initial,
        bias_init=initial,
        **build,
    )


def _batch_norm(spec: kinds.BatchNorm, shape: Shape, build: Build) -> BatchNorm:
    return BatchNorm(shape.channels, epsilon=spec.epsilon, momentum=spec.momentum, scale=spec.scale, **build)


def _linear(spec: kinds.Linear, shape: Shape, build: Build) -> nnx.Linear:
    initial = uniform(shape.channels)
    return nnx.Linear(
        shape.channels, spec.features, use_bias=spec.bias, kernel_init=initial, bias_init=initial, **build
    )


def _neuron(spec: kinds.Neuron, shape: Shape, build: Build) -> LIF:
    return LIF(spec.spec, param_dtype=build["param_dtype"])


def _dropout(spec: kinds.Dropout, shape: Shape, build: Build) -> Dropout:
    return Dropout(spec.rate, space=len(shape.space), rngs=build["rngs"])


def _time_scale(spec: kinds.TimeScale, shape: Shape, build: Build) -> TimeScale:
    return TimeScale(spec.time_steps, dtype=build["dtype"], param_dtype=build["param_dtype"])


def _sequence(spec: structure.Sequence, shape: Shape, build: Build) -> nnx.Module:
    if [name for name, _ in spec.layers] != [str(index) for index in range(len(spec.layers))]:
        return Chain(spec.layers, shape, build)
    layers = []
    for _, layer in spec.layers:
        layers.append(make(layer, shape, build))
        shape = layer.output(shape)
    return nnx.Sequential(*layers)


def _function(function: Callable[[Any, jax.Array, int], jax.Array]) -> Callable[..., Function]:
    return lambda spec, shape, build: Function(function, spec, len(shape.space))


def _max_pool(spec: kinds.MaxPool, x: jax.Array, space: int) -> jax.Array:
    return _windows(nnx.max_pool, spec, x, space)


def _avg_pool(spec: kinds.AvgPool, x: jax.Array, space: int) -> jax.Array:
    return _windows(nnx.avg_pool, spec, x, space)


def _windows(
    function: Callable[..., jax.Array], spec: kinds.MaxPool | kinds.AvgPool, x: jax.Array, space: int
) -> jax.Array:
    frames = x.reshape(-1, *x.shape[x.ndim - space - 1 :])  # flax pads one batch axis only
    pooled = function(frames, (spec.kernel,) * space, (spec.step,) * space, ((spec.padding,) * 2,) * space)
    return pooled.reshape(*x.shape[: x.ndim - space - 1], *pooled.shape[1:])


def _global_pool(spec: kinds.GlobalPool, x: jax.Array, space: int) -> jax.Array:
    return x.mean(axis=tuple(range(x.ndim - space - 1, x.ndim - 1)))


def _flatten(spec: kinds.Flatten, x: jax.Array, space: int) -> jax.Array:
    before = x.ndim - space - 1
    return jnp.moveaxis(x, -1, before).reshape(*x.shape[:before], math.prod(x.shape[before:]))


def _relu(spec: kinds.Relu, x: jax.Array, space: int) -> jax.Array:
    return jax.nn.relu(x)


def _vote(spec: kinds.Vote, x: jax.Array, space: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], x.shape[-1] // spec.voters, spec.voters).mean(axis=-1)


def _head_sum(spec: kinds.HeadSum, x: jax.Array, space: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], spec.heads, x.shape[-1] // spec.heads).sum(axis=-1)


def _repeat(spec: kinds.Repeat, x: jax.Array, space: int) -> jax.Array:
    return x if x.ndim == space + 3 else jnp.broadcast_to(x, (spec.time_steps, *x.shape))


def _time_mean(spec: kinds.TimeMean, x: jax.Array, space: int) -> jax.Array:
    return x.mean(axis=0)


def _add(join: kinds.Add, ends: list[jax.Array], space: int) -> jax.Array:
    return reduce(operator.add, ends)


def _and(join: kinds.And, ends: list[jax.Array], space: int) -> jax.Array:
    return reduce(operator.mul, ends)


def _and_not(join: kinds.AndNot, ends: list[jax.Array], space: int) -> jax.Array:
    return ends[0] * (1.0 - ends[1])


def _gate(join: kinds.Gate, ends: list[jax.Array], space: int) -> jax.Array:
    given, gate = ends
    return given * jnp.repeat(gate, given.shape[-1] // gate.shape[-1], axis=-1)


def _attention(join: kinds.Attention, ends: list[jax.Array], space: int) -> jax.Array:
    shape, before = ends[0].shape, ends[0].ndim - space - 1
    tokens = (*shape[:before], math.prod(shape[before:-1]), join.heads, shape[-1] // join.heads)
    q, k, v = (end.reshape(tokens) for end in ends)
    scores = jnp.einsum("...nhd,...mhd->...hnm", q, k)
    return (jnp.einsum("...hnm,...mhd->...nhd", scores, v) * join.scale).reshape(shape)


#: The layer of each kind: a function of its spec, the shape of its input and what it is made with.
LAYERS: Mapping[type[kinds.LayerSpec], Callable[..., nnx.Module]] = {
    kinds.Conv: _convolution,
    kinds.BatchNorm: _batch_norm,
    kinds.Linear: _linear,
    kinds.Neuron: _neuron,
    kinds.Dropout: _dropout,
    kinds.TimeScale: _time_scale,
    kinds.MaxPool: _function(_max_pool),
    kinds.AvgPool: _function(_avg_pool),
    kinds.GlobalPool: _function(_global_pool),
    kinds.Flatten: _function(_flatten),
    kinds.Relu: _function(_relu),
    kinds.Vote: _function(_vote),
    kinds.HeadSum: _function(_head_sum),
    kinds.Repeat: _function(_repeat),
    kinds.TimeMean: _function(_time_mean),
    structure.Sequence: _sequence,
    structure.Residual: Residual,
    structure.Parallel: Parallel,
}

#: What becomes of several paths: a function of the join, their ends and the number of axes of space.
JOINS: Mapping[type[kinds.JoinSpec], Callable[..., jax.Array]] = {
    kinds.Add: _add,
    kinds.And: _and,
    kinds.AndNot: _and_not,
    kinds.Gate: _gate,
    kinds.Attention: _attention,
}
