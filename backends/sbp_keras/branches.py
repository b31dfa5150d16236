"""What a tapped block is read out by: the paper's branch, a convolutional one, or one of your own."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import keras
from keras import ops

from sbp_core import validation
from sbp_keras.readout import Readout

BranchMaker = Callable[[int, int], keras.layers.Layer]
#: A branch by name, a function of (channels, num_classes) that makes the layer, or the layer of each tap.
Branch = Literal["linear", "convolutional"] | BranchMaker | Mapping[str, keras.layers.Layer]

_CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


@keras.saving.register_keras_serializable(package="sbp")
class ConvolutionalReadout(Readout):
    """A small convolutional head: 3-wide convolution, batch norm, ReLU, and then :class:`~sbp_keras.Readout`.

    The convolution keeps channels and map, and has no bias; it starts Kaiming normal over what goes out.

    Args:
        num_classes: number of logits.
        time_axis: axis of time in the input, None for an input without one.
        channel_axis: axis of the channels; the others but the batch, one to three, are space.
        **arguments: those of :class:`~sbp_keras.Readout`.

    Raises:
        ValueError: as of :class:`~sbp_keras.Readout`, or no axis of space, or more than three.

    Example:
        >>> import numpy as np
        >>> tuple(ConvolutionalReadout(10)(np.ones((2, 4, 8, 8, 16), "float32")).shape)
        (2, 10)
    """

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        time, channel = self._axes(len(input_shape))
        channels = input_shape[channel]
        space = [size for axis, size in enumerate(input_shape) if axis not in (0, time, channel)]
        if len(space) not in _CONVOLUTIONS:
            raise ValueError(
                f"the input must have 1 to 3 axes of space, got {len(space)} in shape {tuple(input_shape)}; "
                "without any, take a linear branch"
            )
        self.convolution = _CONVOLUTIONS[len(space)](
            channels,
            3,
            padding="same",
            use_bias=False,
            data_format="channels_last",
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            dtype=self.dtype_policy,
        )
        self.norm = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy)
        maps = (None, *space, channels)
        self.convolution.build(maps)
        self.norm.build(maps)
        super().build(input_shape)

    def call(self, inputs: Any, per_step: bool | None = None, training: bool | None = None) -> Any:
        """Convolve, normalise over batch and time, rectify, and read out."""
        time, channel = self._axes(len(inputs.shape))
        order = [axis for axis in range(len(inputs.shape)) if axis not in (0, time, channel)]
        leading = [0] if time is None else [0, time]
        moved = ops.transpose(inputs, [*leading, *order, channel])
        maps = ops.reshape(moved, (-1, *moved.shape[len(leading) :]))
        maps = ops.relu(self.norm(self.convolution(maps), training=training))
        moved = ops.reshape(maps, (-1, *moved.shape[1 : len(leading)], *moved.shape[len(leading) :]))
        back = [*leading, *order, channel]
        return super().call(ops.transpose(moved, [back.index(axis) for axis in range(len(back))]), per_step)


class _Axes(NamedTuple):
    """What the branches that have a name need to know."""

    time_axis: int | None
    channel_axis: int
    per_step: bool


_NAMED: dict[str, type[Readout]] = {"linear": Readout, "convolutional": ConvolutionalReadout}


def make_branches(
    branch: Branch, tensors: Mapping[str, Any], num_classes: int, dtype: Any, **axes: Any
) -> list[keras.layers.Layer]:
    """Return a built layer for each tap.

    Args:
        branch: which.
        tensors: the symbolic output of each tapped block.
        num_classes: of the logits.
        dtype: dtype policy of the branches that have a name.
        **axes: ``time_axis``, ``channel_axis`` and ``per_step``.

    Raises:
        ValueError: an unknown name, a tap without a layer or a layer without a tap, axes that a tapped output has
            not, or a layer whose output is not logits.
        TypeError: neither a name, a function nor a mapping; or no layer where there should be one.
    """
    where = _Axes(**axes)
    if isinstance(branch, str):
        validation.choice("branch", branch, _NAMED)
    elif isinstance(branch, keras.layers.Layer) or not (callable(branch) or isinstance(branch, Mapping)):
        raise TypeError(
            f"branch must be {' or '.join(map(repr, _NAMED))}, a function of (channels, num_classes) that returns a "
            f"layer, or a mapping from each tap to its layer; got {branch!r}"
        )
    if isinstance(branch, Mapping) and set(branch) != set(tensors):
        raise ValueError(f"branch must have the taps {sorted(tensors)} as its keys, got {sorted(branch)}")
    made: list[keras.layers.Layer] = []
    for tap, tensor in tensors.items():
        if isinstance(branch, str):
            name = f"branch_{tap}".replace("/", "_").replace(":", "_")
            layer = _NAMED[branch](num_classes, name=name, dtype=dtype, **where._asdict())
        elif isinstance(branch, Mapping):
            layer = branch[tap]
        else:
            layer = branch(_channels(tap, tensor, where.channel_axis), num_classes)
        _check(tap, layer, tensor, num_classes, where.per_step)
        if any(layer is other for other in made):
            raise ValueError(f"branch of tap {tap!r} must be a layer of its own, got {layer.name!r} again")
        made.append(layer)
    return made


def _check(tap: str, layer: Any, tensor: Any, num_classes: int, per_step: bool) -> None:
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(f"branch of tap {tap!r} must be a keras.layers.Layer, got {layer!r}")
    # a symbolic tensor of its own: the tapped one would keep a trace of the call
    shape = tuple(layer(keras.KerasTensor(tensor.shape, dtype=tensor.dtype)).shape)
    wanted = "(batch, time, {})" if per_step else "(batch, {})"
    if len(shape) != 2 + per_step or shape[-1] != num_classes:
        raise ValueError(f"branch of tap {tap!r} must give {wanted.format(num_classes)}, logits; it gives {shape}")


def _channels(tap: str, tensor: Any, channel_axis: int) -> int:
    if not -len(tensor.shape) <= channel_axis < len(tensor.shape) or tensor.shape[channel_axis] is None:
        raise ValueError(
            f"channel_axis must be an axis of tap {tap!r} of known size, got {channel_axis} for {tensor.shape}"
        )
    return int(tensor.shape[channel_axis])
