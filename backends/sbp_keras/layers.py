"""The Keras layer of each kind of layer and join; time is axis 1, channels are last."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from sbp_core.specs import joins
from sbp_core.specs import layers as kinds
from sbp_core.specs.joins import JoinSpec
from sbp_core.specs.layers import LayerSpec, Shape
from sbp_keras import steps
from sbp_keras.neurons import LIF
from sbp_keras.numerics import Constant
from sbp_keras.weightless import Weightless

#: The layer's ``name`` and ``dtype``.
Options = Mapping[str, Any]

_CONVOLUTIONS: Any = (steps.StepConv1D, steps.StepConv2D, steps.StepConv3D)
_POOLS: Mapping[type[LayerSpec], Any] = {
    kinds.MaxPool: (steps.StepMaxPooling1D, steps.StepMaxPooling2D, steps.StepMaxPooling3D),
    kinds.AvgPool: (steps.StepAveragePooling1D, steps.StepAveragePooling2D, steps.StepAveragePooling3D),
}


def _uniform(inputs: int) -> keras.initializers.Initializer:
    bound = 1.0 / math.sqrt(inputs)
    return keras.initializers.RandomUniform(-bound, bound)


def _convolution(layer: kinds.Conv, shape: Shape, options: Options) -> keras.layers.Layer:
    inputs = math.prod(layer.parameters(shape)["weight"].shape[1:])
    initial = {"kernel_initializer": _uniform(inputs)} if layer.initial == "uniform" else {}
    if layer.bias:
        initial |= {"use_bias": True, "bias_initializer": _uniform(inputs)}
    make = _CONVOLUTIONS[len(shape.space) - 1]
    return make(layer.channels, layer.kernel, layer.stride, pad=layer.pad, groups=layer.groups, **initial, **options)


def _batch_norm(layer: kinds.BatchNorm, shape: Shape, options: Options) -> keras.layers.Layer:
    return steps.BatchNormalization(
        momentum=1.0 - layer.momentum, epsilon=layer.epsilon, gamma_initializer=Constant(layer.scale), **options
    )


def _linear(layer: kinds.Linear, shape: Shape, options: Options) -> keras.layers.Layer:
    kernel, bias = (_uniform(shape.channels) for _ in range(2))
    if layer.initial == "kaiming":
        kernel = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    return steps.StepDense(
        layer.features, use_bias=layer.bias, kernel_initializer=kernel, bias_initializer=bias, **options
    )


def _pool(layer: kinds.MaxPool | kinds.AvgPool, shape: Shape, options: Options) -> keras.layers.Layer:
    make = _POOLS[type(layer)][len(shape.space) - 1]
    return make(layer.kernel, layer.step, pad=layer.padding, **options)


def _dropout(layer: kinds.Dropout, shape: Shape, options: Options) -> keras.layers.Layer:
    # one mask for all steps
    mask = (None, 1, *(None for _ in shape.space), None) if shape.timed else None
    return keras.layers.Dropout(layer.rate, noise_shape=mask, **options)


def _weightless(layer: LayerSpec | JoinSpec, shape: Shape, options: Options) -> keras.layers.Layer:
    return Weightless(layer, len(shape.space), **options)


def _repeat(layer: kinds.Repeat, shape: Shape, options: Options) -> keras.layers.Layer | None:
    return None if shape.timed else steps.RepeatTime(layer.time_steps, **options)


#: The layer of each kind that is not made of others: a function of the spec, the shape of its input, and name and
#: dtype; None for what leaves its input as it is.
LAYERS: dict[type[LayerSpec], Callable[[Any, Shape, Options], keras.layers.Layer | None]] = {
    kinds.Conv: _convolution,
    kinds.BatchNorm: _batch_norm,
    kinds.Linear: _linear,
    kinds.MaxPool: _pool,
    kinds.AvgPool: _pool,
    kinds.GlobalPool: _weightless,
    kinds.Flatten: _weightless,
    kinds.Relu: lambda layer, shape, options: keras.layers.ReLU(**options),
    kinds.Vote: _weightless,
    kinds.HeadSum: _weightless,
    kinds.Neuron: lambda layer, shape, options: LIF(layer.spec, **options),
    kinds.Dropout: _dropout,
    kinds.Repeat: _repeat,
    kinds.TimeScale: lambda layer, shape, options: steps.TimeScale(layer.time_steps, **options),
    kinds.TimeMean: lambda layer, shape, options: steps.TimeMean(**options),
}

#: The layer of each join, called with the list of the paths' ends.
JOINS: dict[type[JoinSpec], Callable[[Any, Shape, Options], keras.layers.Layer]] = {
    joins.Add: lambda join, shape, options: keras.layers.Add(**options),
    joins.And: lambda join, shape, options: keras.layers.Multiply(**options),
    joins.AndNot: _weightless,
    joins.Gate: _weightless,
    joins.Attention: _weightless,
}
