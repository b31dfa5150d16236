"""What a tapped block is read out by: the paper's branch, a convolutional one, or one of your own."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
from keras import ops

from sbp_core import validation
from sbp_core.taps import TapLayout
from sbp_keras.readout import Readout
from sbp_keras.steps import BatchNormalization

BranchMaker = Callable[[int, int], keras.layers.Layer]
#: A branch by name, a function of (channels, num_classes) that makes the layer, or the layer of each tap.
Branch = Literal["linear", "convolutional"] | BranchMaker | Mapping[str, keras.layers.Layer]

_CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


@keras.saving.register_keras_serializable(package="sbp")
class ConvolutionalReadout(Readout):
    """A small convolutional head: 3-wide convolution, batch norm and ReLU, and then :class:`~sbp_keras.Readout`.

    One convention for all frameworks: stride 1, padding 1, no bias, as many channels as before; batch norm over time,
    batch and space, as in :class:`~sbp_keras.BatchNormalization`, with epsilon 1e-5 and momentum 0.9. The convolution
    starts Kaiming normal over what goes out.

    Args:
        num_classes: number of logits.
        time_axis: axis of time in the input, None for an input without one, or "merged".
        channels: where the channels are; the others but the batch, one to three, are space.
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
        self.norm = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy)
        maps = (None, *space, channels)
        self.convolution.build(maps)
        self.norm.build(maps)
        super().build(input_shape)

    def call(self, inputs: Any, per_step: bool | None = None, mask: Any = None, training: bool | None = None) -> Any:
        """Convolve, normalise over batch and time, rectify, and read out."""
        time, channel = self._axes(len(inputs.shape))
        order = [axis for axis in range(len(inputs.shape)) if axis not in (0, time, channel)]
        leading = [0] if time is None else [0, time]
        moved = ops.transpose(inputs, [*leading, *order, channel])
        sizes = ops.shape(moved)
        maps = ops.reshape(moved, (-1, *sizes[len(leading) :]))
        valid = None if mask is None or self.time_axis != 1 else ops.reshape(mask, (-1,))
        maps = ops.relu(self.norm(self.convolution(maps), training=training, mask=valid))
        back = [*leading, *order, channel]
        maps = ops.reshape(maps, sizes)
        return super().call(ops.transpose(maps, [back.index(axis) for axis in range(len(back))]), per_step, mask)


_NAMED: dict[str, type[Readout]] = {"linear": Readout, "convolutional": ConvolutionalReadout}


def make_branches(
    branch: Branch,
    tensors: Mapping[str, Any],
    num_classes: int,
    dtype: Any,
    *,
    layouts: Mapping[str, TapLayout],
    per_step: bool,
) -> list[keras.layers.Layer]:
    """Return a built layer for each tap.

    Args:
        branch: which.
        tensors: the symbolic output of each tapped block.
        num_classes: of the logits.
        dtype: dtype policy of the branches that have a name.
        layouts: how each tapped output lies.
        per_step: whether the logits are those of every step.

    Raises:
        ValueError: an unknown name, a tap without a layer or a layer without a tap, a tapped output that does not lie
            so, or a layer whose output is not logits.
        TypeError: neither a name, a function nor a mapping; or no layer where there should be one.
    """
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
        layout = layouts[tap]
        if isinstance(branch, str):
            name = f"branch_{tap}".replace("/", "_").replace(":", "_")
            where: dict[str, Any] = {"time_axis": layout.time_axis, "channels": _channel_axis(tap, tensor, layout)}
            options: dict[str, Any] = {
                "time_steps": layout.time_steps,
                "per_step": per_step,
                "name": name,
                "dtype": dtype,
            }
            layer = _NAMED[branch](num_classes, **where, **options)
        elif isinstance(branch, Mapping):
            layer = branch[tap]
        else:
            layer = branch(_channels(tap, tensor, layout), num_classes)
        _check(tap, layer, tensor, num_classes, per_step)
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


def _channel_axis(tap: str, tensor: Any, layout: TapLayout) -> int:
    axis = layout.check_tap(tap, tuple(tensor.shape)).channels
    # the layout counts with merged time split
    return axis - 1 if layout.time_axis == "merged" else axis


def _channels(tap: str, tensor: Any, layout: TapLayout) -> int:
    size = tensor.shape[_channel_axis(tap, tensor, layout)]
    if size is None:
        raise ValueError(f"the channels of tap {tap!r} must be of known size, got shape {tuple(tensor.shape)}")
    return int(size)
