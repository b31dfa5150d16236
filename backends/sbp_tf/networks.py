"""The spiking ResNet of a :class:`~sbp_core.ResNetSpec`."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from sbp_core import validation
from sbp_core.inputs import check_floating
from sbp_core.specs.networks import BlockShape, ResNetSpec, resnet18_spec, resnet34_spec
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_tf.layers import LIF
from sbp_tf.modules import BatchNorm, Conv2D, Readout, each_step, pad


class ResNet(tf.Module):
    """A spiking ResNet, channels last; conventions and parameters: :class:`~sbp_core.ResNetSpec`.

    ``stem``, ``layer1``, ``layer2``, ... and ``head`` are its stages; each but the head can be tapped. Initial weights
    follow ``tf.random.set_seed``.

    Args:
        spec: the network.
        per_step: give the logits of each step, ``(time, batch, num_classes)``, and not their average.
        dtype: of the variables. It computes in the dtype of the images, with statistics in float32 at least.
        name: of the module.

    Raises:
        TypeError: not a spec, or ``per_step`` not a bool.

    Example:
        >>> import tensorflow as tf
        >>> net = ResNet(resnet18_spec(widths=(4, 4, 8, 8), time_steps=2))
        >>> logits, tapped = net(tf.ones((3, 8, 8, 3)), taps=["layer3"])
        >>> tuple(logits.shape), tuple(tapped["layer3"].shape)
        ((3, 10), (2, 3, 2, 2, 8))
    """

    def __init__(
        self, spec: ResNetSpec, *, per_step: bool = False, dtype: tf.DType = tf.float32, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        if not isinstance(spec, ResNetSpec):
            raise TypeError(f"spec must be a ResNetSpec, got {spec!r} of type {type(spec).__name__}")
        self.spec = spec
        self.stem = Stem(spec, dtype=dtype, name="stem")
        for stage, blocks in spec.stages():
            setattr(self, stage, Stage(spec, blocks, dtype=dtype, name=stage))
        self.head = Readout(spec.widths[-1], spec.num_classes, per_step=per_step, dtype=dtype, name="head")

    @property
    def tap_channels(self) -> Mapping[str, int]:
        """Channels of each stage that can be tapped."""
        return self.spec.tap_channels

    # nothing here branches on a tensor, and AutoGraph would make tracing several times slower
    @tf.autograph.experimental.do_not_convert
    def __call__(
        self, images: tf.Tensor, training: bool = False, taps: Sequence[str] | None = None
    ) -> tf.Tensor | tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return the logits, ``(batch, num_classes)``, or ``(time, batch, num_classes)`` if they are ``per_step``.

        Args:
            images: still images, ``(batch, height, width, channels)``, each encoded once and repeated
                ``spec.time_steps`` times; or frames, ``(time, batch, height, width, channels)``, each encoded.
            training: use the batch's statistics, and update the running ones.
            taps: names of stages whose outputs, ``(time, batch, height, width, channels)``, to return as well.

        Returns:
            The logits, or with ``taps`` the logits and a dictionary of outputs.

        Raises:
            ValueError: a wrong shape, or a tap that does not exist (those that do are listed).
            TypeError: integer images, or ``training`` that is not a bool.
        """
        images = self._checked(images)
        validation.flag("training", training)
        wanted = () if taps is None else ShortcutSpec(taps=tuple(taps)).taps if len(taps) else ()
        if wanted:
            ShortcutSpec(taps=wanted).check_taps(self.tap_channels)
        tapped = {}
        x = images
        for name in self.tap_channels:
            x = getattr(self, name)(x, training)
            if name in wanted:
                tapped[name] = x
        logits = self.head(x)
        return logits if taps is None else (logits, tapped)

    def _checked(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        if images.shape.rank not in (4, 5):
            raise ValueError(
                "images must have shape (batch, height, width, channels) or (time, batch, height, width, channels), "
                f"got {images.shape}"
            )
        if images.shape[-1] != self.spec.in_channels:
            raise ValueError(f"images must have {self.spec.in_channels} channels, their last axis; got {images.shape}")
        check_floating("images", images.dtype.name)
        return images


class Stem(tf.Module):
    """The encoder: convolution, batch norm and neuron; "imagenet" pools the spikes after it."""

    def __init__(self, spec: ResNetSpec, *, dtype: tf.DType, name: str | None = None) -> None:
        super().__init__(name=name)
        self.time_steps = spec.time_steps
        self.pools = spec.stem == "imagenet"
        size, stride = (7, 2) if self.pools else (3, 1)
        self.conv = Conv2D(spec.in_channels, spec.widths[0], size, stride, dtype=dtype, name="conv")
        self.bn = _batch_norm(spec, spec.widths[0], dtype, "bn")
        self.neuron = LIF(spec.neuron, dtype=dtype, name="neuron")

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Encode still images, ``(batch, ...)``, or frames, ``(time, batch, ...)``; time leads in what comes out."""
        if len(images.shape) == 4:
            x = self.bn(self.conv(images), training)
            x = tf.stack([x] * self.time_steps)
        else:
            x = self.bn(each_step(self.conv, images), training)
        x = self.neuron(x)
        return each_step(_max_pool, x) if self.pools else x


class Stage(tf.Module):
    """Residual blocks in a row."""

    def __init__(
        self, spec: ResNetSpec, shapes: Sequence[BlockShape], *, dtype: tf.DType, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.blocks = [Block(spec, shape, dtype=dtype, name=f"block{index}") for index, shape in enumerate(shapes)]

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Run the blocks over ``x``, shape ``(time, batch, height, width, channels)``."""
        for block in self.blocks:
            x = block(x, training)
        return x


class Block(tf.Module):
    """A basic block: two convolutions, each with batch norm and neuron; the identity joins before the second neuron."""

    def __init__(self, spec: ResNetSpec, shape: BlockShape, *, dtype: tf.DType, name: str | None = None) -> None:
        super().__init__(name=name)
        self.conv1 = Conv2D(shape.inputs, shape.outputs, 3, shape.stride, dtype=dtype, name="conv1")
        self.bn1 = _batch_norm(spec, shape.outputs, dtype, "bn1")
        self.neuron1 = LIF(spec.neuron, dtype=dtype, name="neuron1")
        self.conv2 = Conv2D(shape.outputs, shape.outputs, 3, dtype=dtype, name="conv2")
        self.bn2 = _batch_norm(spec, shape.outputs, dtype, "bn2")
        self.downsample = Downsample(spec, shape, dtype=dtype, name="downsample") if shape.projects else None
        self.neuron2 = LIF(spec.neuron, dtype=dtype, name="neuron2")

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Run the block over ``x``, shape ``(time, batch, height, width, channels)``."""
        identity = x if self.downsample is None else self.downsample(x, training)
        x = self.neuron1(self.bn1(each_step(self.conv1, x), training))
        x = self.bn2(each_step(self.conv2, x), training)
        return self.neuron2(x + identity)


class Downsample(tf.Module):
    """The identity path where a block changes the shape: a 1x1 convolution and batch norm."""

    def __init__(self, spec: ResNetSpec, shape: BlockShape, *, dtype: tf.DType, name: str | None = None) -> None:
        super().__init__(name=name)
        self.conv = Conv2D(shape.inputs, shape.outputs, 1, shape.stride, dtype=dtype, name="conv")
        self.bn = _batch_norm(spec, shape.outputs, dtype, "bn")

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Project ``x``, shape ``(time, batch, height, width, channels)``."""
        return self.bn(each_step(self.conv, x), training)


def resnet18(
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
    dtype: tf.DType = tf.float32,
    name: str | None = None,
    **fields: Any,
) -> ResNet:
    """Return a spiking ResNet-18; ``fields`` are those of :class:`~sbp_core.ResNetSpec`, the rest :class:`ResNet`'s.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """
    spec = resnet18_spec(num_classes=num_classes, time_steps=time_steps, **fields)
    return ResNet(spec, per_step=per_step, dtype=dtype, name=name)


def resnet34(
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
    dtype: tf.DType = tf.float32,
    name: str | None = None,
    **fields: Any,
) -> ResNet:
    """Return a spiking ResNet-34; ``fields`` are those of :class:`~sbp_core.ResNetSpec`, the rest :class:`ResNet`'s.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """
    spec = resnet34_spec(num_classes=num_classes, time_steps=time_steps, **fields)
    return ResNet(spec, per_step=per_step, dtype=dtype, name=name)


def _batch_norm(spec: ResNetSpec, channels: int, dtype: tf.DType, name: str) -> BatchNorm:
    return BatchNorm(
        channels, epsilon=spec.batch_norm_epsilon, momentum=spec.batch_norm_momentum, dtype=dtype, name=name
    )


def _max_pool(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(pad(x, 1, x.dtype.min), 3, 2, "VALID")
