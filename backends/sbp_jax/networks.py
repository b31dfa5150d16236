"""The spiking ResNet of a :class:`~sbp_core.ResNetSpec` as ``flax.nnx`` modules, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, overload

import jax
import jax.numpy as jnp
from flax import nnx

from sbp_core import validation
from sbp_core.inputs import check_floating, frames_time_axis
from sbp_core.specs.networks import BlockShape, ResNetSpec, resnet18_spec, resnet34_spec
from sbp_core.specs.shortcut import ShortcutSpec
from sbp_jax.layers import BatchNorm, convolution, linear, max_pool
from sbp_jax.neurons import LIF


class _Build(TypedDict):
    """What every layer is made with."""

    dtype: Any
    param_dtype: Any
    rngs: nnx.Rngs


class ResNet(nnx.Module):
    """A spiking ResNet; its conventions and parameters: :class:`~sbp_core.ResNetSpec`.

    The stages are its attributes ``stem``, ``layer1``, ``layer2``, ..., and ``head``. ``model.train()`` and
    ``model.eval()`` switch batch norm.

    Args:
        spec: the network.
        per_step: give the logits of each step, ``(time, batch, num_classes)``, and not their average.
        dtype: dtype of the computation; None to follow from images and parameters.
        param_dtype: dtype of the parameters.
        rngs: random keys of the initial weights.

    Raises:
        TypeError: not a spec, or ``per_step`` not a bool.

    Example:
        >>> net = ResNet(resnet18_spec(widths=(4, 4, 8, 8), time_steps=2), rngs=nnx.Rngs(0))
        >>> logits, tapped = net(jnp.ones((2, 8, 8, 3)), taps=("layer3",))
        >>> logits.shape, tapped["layer3"].shape
        ((2, 10), (2, 2, 2, 2, 8))
    """

    def __init__(
        self,
        spec: ResNetSpec,
        *,
        per_step: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if not isinstance(spec, ResNetSpec):
            raise TypeError(f"spec must be a ResNetSpec, got {spec!r} of type {type(spec).__name__}")
        build = _Build(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.spec = spec
        self.per_step = validation.flag("per_step", per_step)
        self.stem = Stem(spec, build)
        for name, blocks in spec.stages():
            setattr(self, name, nnx.Sequential(*(BasicBlock(spec, shape, build) for shape in blocks)))
        self.head = linear(spec.widths[-1], spec.num_classes, **build)

    @overload
    def __call__(
        self, images: jax.Array, *, taps: None = None, time_axis: Literal[0, 1] | None = None
    ) -> jax.Array: ...

    @overload
    def __call__(
        self, images: jax.Array, *, taps: Sequence[str], time_axis: Literal[0, 1] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...

    def __call__(
        self, images: jax.Array, *, taps: Sequence[str] | None = None, time_axis: Literal[0, 1] | None = None
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Return the logits, ``(batch, num_classes)``; with ``taps``, also the spikes of those stages.

        The logits are ``(time, batch, num_classes)`` if they are ``per_step``.

        Args:
            images: still images ``(batch, height, width, channels)``, each encoded once and repeated
                ``spec.time_steps`` times; or event frames ``(time, batch, height, width, channels)``, each encoded.
            taps: stages whose output, ``(time, batch, height, width, channels)``, is returned by name.
            time_axis: where time is in event frames, 0 or 1; needed where they are batch first, have another number of
                steps than the spec, or as many samples as steps.

        Raises:
            ValueError: images of another rank or with other channels, frames whose time is not where it should be, or a
                tap that does not exist.
            TypeError: integer images.
        """
        images = jnp.asarray(images)
        place = frames_time_axis(images.shape, time_steps=self.spec.time_steps, time_axis=time_axis)
        if images.shape[-1] != self.spec.in_channels:
            raise ValueError(
                f"images must have {self.spec.in_channels} channels in their last axis, got shape {images.shape}"
            )
        if place is not None and images.shape[place] == 0:
            raise ValueError(f"images must have at least one time step, got shape {images.shape}")
        check_floating("images", images.dtype.name)
        wanted = tuple(taps or ())
        if wanted:
            ShortcutSpec(taps=wanted).check_taps(self.spec.tap_channels)
        tapped = {}
        x = self.stem(images if place is None else jnp.moveaxis(images, place, 0))
        if "stem" in wanted:
            tapped["stem"] = x
        for name in self.spec.stage_names:
            x = getattr(self, name)(x)
            if name in wanted:
                tapped[name] = x
        logits: jax.Array = self.head(x.mean(axis=(2, 3)))
        if not self.per_step:
            logits = logits.mean(axis=0)
        return logits if taps is None else (logits, tapped)


class Stem(nnx.Module):
    """The encoder: convolution, batch norm and neuron, and for "imagenet" a max pool of the spikes."""

    def __init__(self, spec: ResNetSpec, build: _Build) -> None:
        self.time_steps = spec.time_steps
        self.pools = spec.stem == "imagenet"
        size, stride = (7, 2) if self.pools else (3, 1)
        self.conv = convolution(spec.in_channels, spec.widths[0], size, stride, **build)
        self.bn = _batch_norm(spec, spec.widths[0], build)
        self.neuron = LIF(spec.neuron, param_dtype=build["param_dtype"])

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return spikes ``(time, batch, height, width, channels)`` of still images or of frames."""
        x: jax.Array = self.bn(self.conv(images))
        if images.ndim == 4:
            x = jnp.broadcast_to(x, (self.time_steps, *x.shape))
        x = self.neuron(x)
        return max_pool(x) if self.pools else x


class BasicBlock(nnx.Module):
    """conv3x3-BN-LIF-conv3x3-BN plus the identity (or conv1x1-BN), then LIF."""

    def __init__(self, spec: ResNetSpec, shape: BlockShape, build: _Build) -> None:
        self.conv1 = convolution(shape.inputs, shape.outputs, 3, shape.stride, **build)
        self.bn1 = _batch_norm(spec, shape.outputs, build)
        self.neuron1 = LIF(spec.neuron, param_dtype=build["param_dtype"])
        self.conv2 = convolution(shape.outputs, shape.outputs, 3, 1, **build)
        self.bn2 = _batch_norm(spec, shape.outputs, build)
        self.downsample = Projection(spec, shape, build) if shape.projects else None
        self.neuron2 = LIF(spec.neuron, param_dtype=build["param_dtype"])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return spikes ``(time, batch, height, width, channels)``."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.neuron1(self.bn1(self.conv1(x)))
        return self.neuron2(self.bn2(self.conv2(x)) + identity)


class Projection(nnx.Module):
    """conv1x1-BN on the identity path, where a block changes the map or its channels."""

    def __init__(self, spec: ResNetSpec, shape: BlockShape, build: _Build) -> None:
        self.conv = convolution(shape.inputs, shape.outputs, 1, shape.stride, **build)
        self.bn = _batch_norm(spec, shape.outputs, build)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the identity in the shape of the block's output."""
        return self.bn(self.conv(x))


def resnet18(
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **fields: Any,
) -> ResNet:
    """Return a spiking ResNet-18; ``fields`` are those of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """
    spec = resnet18_spec(num_classes=num_classes, time_steps=time_steps, **fields)
    return ResNet(spec, per_step=per_step, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def resnet34(
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    **fields: Any,
) -> ResNet:
    """Return a spiking ResNet-34; ``fields`` are those of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range.
        TypeError: a field of the wrong type.
    """
    spec = resnet34_spec(num_classes=num_classes, time_steps=time_steps, **fields)
    return ResNet(spec, per_step=per_step, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def _batch_norm(spec: ResNetSpec, channels: int, build: _Build) -> BatchNorm:
    return BatchNorm(channels, epsilon=spec.batch_norm_epsilon, momentum=spec.batch_norm_momentum, **build)
