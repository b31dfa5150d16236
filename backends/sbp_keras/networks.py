"""The spiking ResNet of a :class:`~sbp_core.ResNetSpec` as a functional Keras model."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from sbp_core.specs.networks import BlockShape, ResNetSpec, resnet18_spec, resnet34_spec
from sbp_keras.layers import BatchNormalization, Readout, RepeatTime, StepConv2D, StepMaxPooling2D
from sbp_keras.neurons import LIF


@keras.saving.register_keras_serializable(package="sbp")
class ResNet(keras.Model):
    """A spiking ResNet, functional, channels last; conventions and parameters: :class:`~sbp_core.ResNetSpec`.

    The layers named ``stem``, ``layer1``, ``layer2``, ... give each stage's output, ``(batch, time, height, width,
    channels)``, and can be tapped or fetched with ``get_layer``; ``head`` gives the logits, ``(batch, num_classes)``.

    Args:
        spec: the network, or its ``to_dict()``.
        input_shape: ``(height, width, channels)`` of a still image, which is encoded once and repeated
            ``spec.time_steps`` times; or ``(time, height, width, channels)`` of frames, each encoded, with
            ``spec.time_steps`` or None, any number, for ``time``.
        name: of the model.
        dtype: dtype or dtype policy of every layer.

    Raises:
        ValueError: a shape of another rank, or with other channels or steps than the spec's.
        TypeError: not a spec.

    Example:
        >>> net = ResNet(resnet18_spec(widths=(4, 4, 8, 8), time_steps=2), (8, 8, 3))
        >>> net.get_layer("layer3").output.shape, net.output_shape
        ((None, 2, 2, 2, 8), (None, 10))
    """

    def __init__(
        self,
        spec: ResNetSpec | Mapping[str, Any],
        input_shape: Sequence[int | None] = (32, 32, 3),
        *,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if isinstance(spec, Mapping):
            spec = ResNetSpec.from_dict(spec)
        if not isinstance(spec, ResNetSpec):
            raise TypeError(f"spec must be a ResNetSpec, got {spec!r} of type {type(spec).__name__}")
        shape = tuple(input_shape)
        if len(shape) not in (3, 4):
            raise ValueError(f"input_shape must be (height, width, channels) or (time, height, ...), got {shape}")
        if shape[-1] != spec.in_channels:
            raise ValueError(f"input_shape must end in the spec's in_channels, {spec.in_channels}; got {shape}")
        if len(shape) == 4 and shape[0] not in (None, spec.time_steps):
            raise ValueError(
                f"input_shape of frames must be (time, height, width, channels) with the spec's time_steps="
                f"{spec.time_steps}, got {shape}; pass time_steps={shape[0]}, or None for any number of steps"
            )
        inputs = keras.Input(shape, name="image" if len(shape) == 3 else "frames", dtype=keras.config.floatx())
        super().__init__(inputs=inputs, outputs=_Layers(spec, dtype).network(inputs), name=name)
        self.spec = spec
        self._input_dims = shape
        self._layer_dtype = dtype

    def get_config(self) -> dict[str, Any]:
        """Return the configuration: the spec as a dictionary of JSON values, and the input's shape."""
        return {
            "spec": self.spec.to_dict(),
            "input_shape": list(self._input_dims),
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.get_layer("head").dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ResNet:
        """Return the network that :meth:`get_config` describes, with new weights."""
        spec, shape = config["spec"], config["input_shape"]
        if len(shape) == 4 and shape[0] is not None:
            # an earlier version took frames of another number of steps than the spec's
            spec = {**spec, "time_steps": shape[0]}
        return cls(**(config | {"spec": spec, "dtype": keras.dtype_policies.deserialize(config["dtype"])}))


def resnet(spec: ResNetSpec, input_shape: Sequence[int | None] = (32, 32, 3), **arguments: Any) -> ResNet:
    """Return :class:`ResNet` of any spec; ``arguments`` are its ``name`` and ``dtype``."""
    return ResNet(spec, input_shape, **arguments)


def resnet18(
    input_shape: Sequence[int | None] = (32, 32, 3),
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    name: str | None = None,
    dtype: Any = None,
    **fields: Any,
) -> ResNet:
    """Return a spiking ResNet-18; ``fields`` are those of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range, or a shape that does not fit.
        TypeError: a field of the wrong type.
    """
    fields = {"in_channels": input_shape[-1], "num_classes": num_classes, "time_steps": time_steps} | fields
    return ResNet(resnet18_spec(**fields), input_shape, name=name or "resnet18", dtype=dtype)


def resnet34(
    input_shape: Sequence[int | None] = (32, 32, 3),
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    name: str | None = None,
    dtype: Any = None,
    **fields: Any,
) -> ResNet:
    """Return a spiking ResNet-34; ``fields`` are those of :class:`~sbp_core.ResNetSpec`.

    Raises:
        ValueError: a field out of range, or a shape that does not fit.
        TypeError: a field of the wrong type.
    """
    fields = {"in_channels": input_shape[-1], "num_classes": num_classes, "time_steps": time_steps} | fields
    return ResNet(resnet34_spec(**fields), input_shape, name=name or "resnet34", dtype=dtype)


def layer_name(spec: ResNetSpec, module: str) -> str:
    """Return the name of the Keras layer that holds a canonical module, ``layer1.0.conv1`` say.

    Dots become underscores, but the neuron that ends a stage carries the stage's name.

    Example:
        >>> layer_name(resnet18_spec(), "layer1.0.conv1"), layer_name(resnet18_spec(), "layer1.1.neuron2")
        ('layer1_0_conv1', 'layer1')
    """
    ends = {f"{stage}.{len(blocks) - 1}.neuron2": stage for stage, blocks in spec.stages()}
    if spec.stem == "cifar":
        ends["stem.neuron"] = "stem"
    return ends.get(module, module.replace(".", "_"))


class _Layers:
    """Makes the layers of one network and applies them."""

    def __init__(self, spec: ResNetSpec, dtype: Any) -> None:
        self.spec = spec
        self.dtype = dtype

    def network(self, x: Any) -> Any:
        spec = self.spec
        large = spec.stem == "imagenet"
        x = self.convolution(x, "stem.conv", spec.widths[0], 7 if large else 3, 2 if large else 1)
        x = self.batch_norm(x, "stem.bn")
        if len(x.shape) == 4:
            x = RepeatTime(spec.time_steps, name="repeat", dtype=self.dtype)(x)
        x = self.neuron(x, "stem.neuron")
        if large:
            x = StepMaxPooling2D(3, 2, name="stem", dtype=self.dtype)(x)
        for stage, blocks in spec.stages():
            for index, block in enumerate(blocks):
                x = self.block(x, f"{stage}.{index}", block)
        return Readout(spec.num_classes, name="head", dtype=self.dtype)(x)

    def block(self, x: Any, prefix: str, block: BlockShape) -> Any:
        identity = x
        x = self.convolution(x, f"{prefix}.conv1", block.outputs, 3, block.stride)
        x = self.neuron(self.batch_norm(x, f"{prefix}.bn1"), f"{prefix}.neuron1")
        x = self.convolution(x, f"{prefix}.conv2", block.outputs, 3, 1)
        x = self.batch_norm(x, f"{prefix}.bn2")
        if block.projects:
            identity = self.convolution(identity, f"{prefix}.downsample.conv", block.outputs, 1, block.stride)
            identity = self.batch_norm(identity, f"{prefix}.downsample.bn")
        x = keras.layers.Add(name=layer_name(self.spec, f"{prefix}.add"), dtype=self.dtype)([x, identity])
        return self.neuron(x, f"{prefix}.neuron2")

    def convolution(self, x: Any, module: str, filters: int, size: int, stride: int) -> Any:
        return StepConv2D(filters, size, stride, name=layer_name(self.spec, module), dtype=self.dtype)(x)

    def batch_norm(self, x: Any, module: str) -> Any:
        return BatchNormalization(
            momentum=1.0 - self.spec.batch_norm_momentum,
            epsilon=self.spec.batch_norm_epsilon,
            name=layer_name(self.spec, module),
            dtype=self.dtype,
        )(x)

    def neuron(self, x: Any, module: str) -> Any:
        return LIF(self.spec.neuron, name=layer_name(self.spec, module), dtype=self.dtype)(x)
