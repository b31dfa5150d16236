"""The layers of networks and branches, channels last: one table from their specs to ``flax.nnx``, one for joins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core.specs import layers as kinds
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_core.specs.structure import Named, Parallel, Residual, Sequence, placed_in
from sbp_jax.initial import he_normal, kaiming_normal, uniform
from sbp_jax.joins import Join
from sbp_jax.neurons import LIF


class Options(TypedDict):
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
            raise ValueError(f"there is a factor for each of {len(weight)} steps, got {len(x)} steps")
        return x * weight.reshape(-1, *[1] * (x.ndim - 1))


class Function(nnx.Module):
    """A layer without weights.

    Args:
        function: of the layer, its input and how many axes of space that has.
        layer: the layer.
        space: axes of space.
    """

    def __init__(self, function: Callable[[Any, jax.Array, int], jax.Array], layer: LayerSpec, space: int) -> None:
        self.function, self.layer, self.space = function, layer, space

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the function's value."""
        return self.function(self.layer, x, self.space)


class Chain(nnx.Module):
    """Layers in sequence, attributes by their names.

    Args:
        layers: name and layer, in order.
        path: its name, for messages.
        shape: of its input.
        options: what the layers are made with.
    """

    def __init__(self, layers: Named, path: str, shape: Shape, options: Options) -> None:
        self._names = tuple(name for name, _ in layers)
        add_layers(self, layers, path, shape, options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run them."""
        return run(self, self._names, x)


class ResidualBlock(nnx.Module):
    """Two paths that join: the layers of one are attributes of the block, the other is ``downsample``, None for x.

    Args:
        layer: what it is made of.
        path: its name, for messages.
        shape: of its input.
        options: what the layers are made with.
    """

    def __init__(self, layer: Residual, path: str, shape: Shape, options: Options) -> None:
        after = layer.after.layers if layer.after else ()
        self._body, self._after = (tuple(name for name, _ in part) for part in (layer.body.layers, after))
        end = add_layers(self, layer.body.layers, path, shape, options)
        projection, place, identity = layer.shortcut, f"{path}.downsample", shape
        if projection is not None:
            identity = _output(projection, place, shape)
        self.downsample = None if projection is None else build(projection, place, shape, options)
        self._join = Join(layer.joined, len(end.space))
        add_layers(self, after, path, layer.joined.output([identity, end]), options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run both paths, join them, and run what follows."""
        identity = x if self.downsample is None else run(self, ("downsample",), x)
        return run(self, self._after, self._join(identity, run(self, self._body, x)))


class ParallelPaths(nnx.Module):
    """Several paths of one input that join, attributes by their names.

    Args:
        layer: what it is made of.
        path: its name, for messages.
        shape: of its input.
        options: what the layers are made with.
    """

    def __init__(self, layer: Parallel, path: str, shape: Shape, options: Options) -> None:
        self._names = tuple(name for name, _ in layer.paths)
        ends = [add_layers(self, (part,), path, shape, options) for part in layer.paths]
        self._join = Join(layer.joined, len(ends[0].space))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Run the paths, and join them."""
        return self._join(*(run(self, (name,), x) for name in self._names))


def build(layer: LayerSpec, path: str, shape: Shape, options: Options) -> nnx.Module:
    """Return the module of a layer.

    Args:
        layer: which.
        path: its name, for messages.
        shape: of its input.
        options: what it is made with.

    Raises:
        TypeError: a kind of layer that is not in :data:`LAYERS`.

    Example:
        >>> options = Options(dtype=None, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
        >>> build(kinds.MaxPool(), "pool", Shape(2, (4, 4)), options)(jnp.ones((3, 1, 4, 4, 2))).shape
        (3, 1, 2, 2, 2)
    """
    make = LAYERS.get(type(layer))
    if make is None:
        raise TypeError(f"layer {path!r}: JAX has no module for the kind {layer.kind!r}; add one to LAYERS")
    return make(layer, path, shape, options)


def add_layers(owner: nnx.Module, layers: Named, path: str, shape: Shape, options: Options) -> Shape:
    """Make the modules of layers in sequence attributes of ``owner``; return the last shape.

    Raises:
        ValueError: layers that do not fit each other, or a name that ``owner`` has for something else.
        TypeError: a kind of layer that is not in :data:`LAYERS`.
    """
    for name, layer in layers:
        inner = _inner(path, name)
        if hasattr(owner, name):
            raise ValueError(f"layer {inner!r}: a {type(owner).__name__} in JAX has another {name!r}; rename the layer")
        setattr(owner, name, build(layer, inner, shape, options))
        shape = _output(layer, inner, shape)
    return shape


def run(owner: nnx.Module, names: Iterable[str], x: jax.Array) -> jax.Array:
    """Run attributes of ``owner`` in sequence."""
    for name in names:
        x = getattr(owner, name)(x)
    return x


def pool(x: jax.Array) -> jax.Array:
    """Return the mean over space of ``(time, batch, ..., channels)``: any number of axes, none included."""
    return x.mean(axis=tuple(range(2, x.ndim - 1)))


def _convolution(layer: kinds.Conv, path: str, shape: Shape, options: Options) -> nnx.Conv:
    space = len(shape.space)
    initial = uniform(shape.channels // layer.groups * layer.kernel**space)
    return nnx.Conv(
        shape.channels,
        layer.channels,
        (layer.kernel,) * space,
        strides=layer.stride,
        padding=layer.pad,  # alike on all sides, which "SAME" is not at stride 2
        feature_group_count=layer.groups,
        use_bias=layer.bias,
        kernel_init=kaiming_normal if layer.initial == "kaiming" else initial,
        bias_init=initial,
        **options,
    )


def _batch_norm(layer: kinds.BatchNorm, path: str, shape: Shape, options: Options) -> BatchNorm:
    return BatchNorm(shape.channels, epsilon=layer.epsilon, momentum=layer.momentum, scale=layer.scale, **options)


def _linear(layer: kinds.Linear, path: str, shape: Shape, options: Options) -> nnx.Linear:
    initial = uniform(shape.channels)
    return nnx.Linear(
        shape.channels,
        layer.features,
        use_bias=layer.bias,
        kernel_init=he_normal if layer.initial == "kaiming" else initial,
        bias_init=initial,
        **options,
    )


def _neuron(layer: kinds.Neuron, path: str, shape: Shape, options: Options) -> LIF:
    return LIF(layer.spec, param_dtype=options["param_dtype"])


def _dropout(layer: kinds.Dropout, path: str, shape: Shape, options: Options) -> Dropout:
    return Dropout(layer.rate, space=len(shape.space), rngs=options["rngs"])


def _time_scale(layer: kinds.TimeScale, path: str, shape: Shape, options: Options) -> TimeScale:
    return TimeScale(layer.time_steps, dtype=options["dtype"], param_dtype=options["param_dtype"])


def _sequence(layer: Sequence, path: str, shape: Shape, options: Options) -> nnx.Module:
    if any(name != str(index) for index, (name, _) in enumerate(layer.layers)):
        return Chain(layer.layers, path, shape, options)
    parts = []
    for name, part in layer.layers:
        parts.append(build(part, _inner(path, name), shape, options))
        shape = _output(part, _inner(path, name), shape)
    return nnx.Sequential(*parts)


def _inner(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _output(layer: LayerSpec, path: str, shape: Shape) -> Shape:
    for placed in placed_in(layer, path, shape):
        shape = placed.output
    return shape


def _function(function: Callable[[Any, jax.Array, int], jax.Array]) -> Callable[..., Function]:
    return lambda layer, path, shape, options: Function(function, layer, len(shape.space))


def _max_pool(layer: kinds.MaxPool, x: jax.Array, space: int) -> jax.Array:
    return _windows(nnx.max_pool, layer, x, space)


def _avg_pool(layer: kinds.AvgPool, x: jax.Array, space: int) -> jax.Array:
    return _windows(nnx.avg_pool, layer, x, space)


def _windows(
    function: Callable[..., jax.Array], layer: kinds.MaxPool | kinds.AvgPool, x: jax.Array, space: int
) -> jax.Array:
    frames = x.reshape(-1, *x.shape[x.ndim - space - 1 :])  # flax pads one batch axis only
    pooled = function(frames, (layer.kernel,) * space, (layer.step,) * space, ((layer.padding,) * 2,) * space)
    return pooled.reshape(*x.shape[: x.ndim - space - 1], *pooled.shape[1:])


def _global_pool(layer: kinds.GlobalPool, x: jax.Array, space: int) -> jax.Array:
    return x.mean(axis=tuple(range(x.ndim - space - 1, x.ndim - 1)))


def _flatten(layer: kinds.Flatten, x: jax.Array, space: int) -> jax.Array:
    before = x.ndim - space - 1
    return jnp.moveaxis(x, -1, before).reshape(*x.shape[:before], math.prod(x.shape[before:]))


def _relu(layer: kinds.Relu, x: jax.Array, space: int) -> jax.Array:
    return jax.nn.relu(x)


def _vote(layer: kinds.Vote, x: jax.Array, space: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], x.shape[-1] // layer.voters, layer.voters).mean(axis=-1)


def _head_sum(layer: kinds.HeadSum, x: jax.Array, space: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], layer.heads, x.shape[-1] // layer.heads).sum(axis=-1)


def _repeat(layer: kinds.Repeat, x: jax.Array, space: int) -> jax.Array:
    return x if x.ndim == space + 3 else jnp.broadcast_to(x, (layer.time_steps, *x.shape))


def _time_mean(layer: kinds.TimeMean, x: jax.Array, space: int) -> jax.Array:
    return x.mean(axis=0)


#: The module of each kind of layer: a function of the layer, its path, the shape of its input and the options.
LAYERS: dict[type[LayerSpec], Callable[[Any, str, Shape, Options], nnx.Module]] = {
    Sequence: _sequence,
    Residual: ResidualBlock,
    Parallel: ParallelPaths,
    kinds.Conv: _convolution,
    kinds.BatchNorm: _batch_norm,
    kinds.Linear: _linear,
    kinds.MaxPool: _function(_max_pool),
    kinds.AvgPool: _function(_avg_pool),
    kinds.GlobalPool: _function(_global_pool),
    kinds.Flatten: _function(_flatten),
    kinds.Relu: _function(_relu),
    kinds.Vote: _function(_vote),
    kinds.HeadSum: _function(_head_sum),
    kinds.Neuron: _neuron,
    kinds.Dropout: _dropout,
    kinds.Repeat: _function(_repeat),
    kinds.TimeScale: _time_scale,
    kinds.TimeMean: _function(_time_mean),
}
