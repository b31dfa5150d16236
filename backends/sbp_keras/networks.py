"""Networks of a :class:`~sbp_core.NetworkSpec` as functional Keras models, channels last."""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from sbp_core import validation
from sbp_core.inputs import check_size
from sbp_core.specs import structure
from sbp_core.specs.joins import Add, JoinSpec
from sbp_core.specs.layers import GlobalPool, LayerSpec, Linear, Repeat, Shape, TimeMean
from sbp_core.specs.networks import NetworkSpec, ResNetSpec, network_spec, resnet18_spec, resnet34_spec
from sbp_keras.layers import JOINS, LAYERS
from sbp_keras.readout import Readout

#: A tensor, and the shape that it has for one sample.
_End = tuple[Any, Shape]
#: Height and width of the input where neither the caller nor the spec says.
_SIZE = 32


@keras.saving.register_keras_serializable(package="sbp")
class Network(keras.Model):
    """A spiking network, functional, channels last; conventions and parameters: :class:`~sbp_core.NetworkSpec`.

    Its parts, ``stem``, ``layer1``, ... of a ResNet, are layers of these names that give the part's output, ``(batch,
    time, height, width, channels)``, and can be tapped or fetched with ``get_layer``; the others are named by
    :func:`layer_names`. A global pool, a linear layer and a mean over time at the end are one :class:`Readout`.

    Args:
        spec: the network, or its ``to_dict()``.
        input_shape: ``(height, width, channels)`` of a still image, which is encoded once and repeated
            ``spec.time_steps`` times; or ``(time, height, width, channels)`` of event frames, each encoded, with
            ``spec.time_steps`` or None, any number, for ``time``. Without it, what the spec takes, of 32 x 32 if it
            takes any size.
        per_step: give the logits of each step, ``(batch, time, num_classes)``, and not their average.
        name: of the model.
        dtype: dtype or dtype policy of every layer.

    Raises:
        ValueError: a shape of another rank, of a size that the layers do not take, or with other channels or steps than
            the spec's; ``per_step`` of a network that does not end in a mean over time.
        TypeError: not a spec, or a layer of a kind that is not in :data:`sbp_keras.layers.LAYERS`.

    Example:
        >>> net = Network(resnet18_spec(widths=(4, 4, 8, 8), time_steps=2), (8, 8, 3))
        >>> net.get_layer("layer3").output.shape, net.output_shape
        ((None, 2, 2, 2, 8), (None, 10))
    """

    def __init__(
        self,
        spec: NetworkSpec | Mapping[str, Any],
        input_shape: Sequence[int | None] | None = None,
        *,
        per_step: bool = False,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        if isinstance(spec, Mapping):
            spec = NetworkSpec.from_dict(spec)
        if not isinstance(spec, NetworkSpec):
            raise TypeError(f"spec must be a NetworkSpec, got {spec!r} of type {type(spec).__name__}")
        spec.layers_of(per_step=validation.flag("per_step", per_step))
        shape, timed = _input_shape(spec, input_shape)
        double = keras.dtype_policies.get(dtype).compute_dtype == "float64"
        precision = "float64" if double else keras.config.floatx()
        inputs = keras.Input(shape, name="frames" if timed else "image", dtype=precision)
        super().__init__(inputs=inputs, outputs=_Graph(spec, dtype).logits(inputs, timed, per_step), name=name)
        self.spec = spec
        self.per_step = per_step
        self._input_dims = shape

    def get_config(self) -> dict[str, Any]:
        """Return the configuration: the spec as a dictionary of JSON values, and the input's shape."""
        return {
            "spec": self.spec.to_dict(),
            "input_shape": list(self._input_dims),
            "per_step": self.per_step,
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.layers[-1].dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Return the network that :meth:`get_config` describes, with new weights."""
        spec, shape = config["spec"], config["input_shape"]
        if len(shape) == 4 and shape[0] is not None:
            # an earlier version took frames of another number of steps than the spec's
            spec = {**spec, "time_steps": shape[0]}
        return cls(**(config | {"spec": spec, "dtype": keras.dtype_policies.deserialize(config["dtype"])}))


@keras.saving.register_keras_serializable(package="sbp")
class ResNet(Network):
    """A :class:`Network` of a :class:`~sbp_core.ResNetSpec`, under the name that its files have had from the first."""


def network(
    name_or_spec: str | NetworkSpec,
    input_shape: Sequence[int | None] | None = None,
    *,
    per_step: bool = False,
    name: str | None = None,
    dtype: Any = None,
    **fields: Any,
) -> Network:
    """Return a network of the zoo by its name, or of a spec.

    Args:
        name_or_spec: one of :data:`sbp_core.specs.networks.ZOO`'s names, or a spec.
        input_shape: as of :class:`Network`; its channels are the spec's ``in_channels`` unless ``fields`` say them.
        per_step: give the logits of each step.
        name: of the model.
        dtype: dtype or dtype policy of every layer.
        **fields: of the spec, what is to be otherwise.

    Raises:
        ValueError: an unknown name, a field out of range, or a shape that does not fit.
        TypeError: an unknown field, or one of the wrong type.

    Example:
        >>> network("resnet20", (8, 8, 1), num_classes=4).output_shape
        (None, 4)
    """
    if input_shape is not None and isinstance(name_or_spec, str):
        fields = {"in_channels": input_shape[-1]} | fields
    given = name_or_spec
    spec = given.replace(**fields) if isinstance(given, NetworkSpec) else network_spec(given, **fields)
    kind = ResNet if isinstance(spec, ResNetSpec) else Network
    return kind(spec, input_shape, per_step=per_step, name=name, dtype=dtype)


def resnet(spec: ResNetSpec, input_shape: Sequence[int | None] = (32, 32, 3), **arguments: Any) -> ResNet:
    """Return :class:`ResNet` of any spec; ``arguments`` are its ``per_step``, ``name`` and ``dtype``."""
    return ResNet(spec, input_shape, **arguments)


def resnet18(
    input_shape: Sequence[int | None] = (32, 32, 3),
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
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
    return ResNet(resnet18_spec(**fields), input_shape, per_step=per_step, name=name or "resnet18", dtype=dtype)


def resnet34(
    input_shape: Sequence[int | None] = (32, 32, 3),
    num_classes: int = 10,
    time_steps: int = 4,
    *,
    per_step: bool = False,
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
    return ResNet(resnet34_spec(**fields), input_shape, per_step=per_step, name=name or "resnet34", dtype=dtype)


def layer_names(spec: NetworkSpec) -> dict[str, str]:
    """Return the name of the Keras layer that holds each layer of a spec, by its path.

    Dots become underscores, but the last layer of each part carries the part's name; what repeats over time is called
    by its own name alone.

    Example:
        >>> names = layer_names(resnet18_spec())
        >>> names["layer1.0.conv1"], names["layer1.1.neuron2"], names["stem.repeat"]
        ('layer1_0_conv1', 'layer1', 'repeat')
    """
    outline = [(found.path, isinstance(found.layer, Repeat)) for found in spec.outline()]
    # the last of each part
    ends = {path.partition(".")[0]: path for path, repeats in outline if not repeats or "." not in path}
    parts = {path: part for part, path in ends.items()}
    names: dict[str, str] = {}
    for path, repeats in outline:
        name = path.rpartition(".")[2] if repeats else path.replace(".", "_")
        while path not in parts and name in {*ends, *names.values()}:
            name += "_"
        names[path] = parts.get(path, name)
    return names


def _input_shape(spec: NetworkSpec, given: Sequence[int | None] | None) -> tuple[tuple[int | None, ...], bool]:
    """Return the shape of the input, checked, and whether it has time."""
    if given is None:
        steps = [] if spec.repeats else [spec.time_steps]
        given = (*steps, *(extent or _SIZE for extent in spec.image_size), spec.in_channels)
    shape, axes = tuple(given), len(spec.image_size)
    if len(shape) not in (axes + 1, axes + 2):
        raise ValueError(f"input_shape must be (height, width, channels) or (time, height, ...), got {shape}")
    if shape[-1] != spec.in_channels:
        raise ValueError(f"input_shape must end in the spec's in_channels, {spec.in_channels}; got {shape}")
    timed = len(shape) == axes + 2
    if timed and shape[0] not in (None, spec.time_steps):
        raise ValueError(
            f"input_shape of frames must be (time, height, width, channels) with the spec's time_steps="
            f"{spec.time_steps}, got {shape}; pass time_steps={shape[0]}, or None for any number of steps"
        )
    # what the spec says, where the caller does not
    sizes = zip(spec.image_size, shape[-1 - axes : -1], strict=True)
    size = tuple(want if got is None else got for want, got in sizes)
    try:
        check_size(spec, size, timed=timed)
    except ValueError as error:
        raise ValueError(f"input_shape {shape} does not fit: {error}") from error
    return (*shape[:timed], *size, shape[-1]), timed


class _Graph:
    """Makes the layers of one network and applies them."""

    def __init__(self, spec: NetworkSpec, dtype: Any) -> None:
        self._spec, self._dtype = spec, dtype
        self._names = layer_names(spec)

    def logits(self, inputs: Any, timed: bool, per_step: bool) -> Any:
        """Return the network's output."""
        layers = self._spec.body.layers
        end = inputs, Shape(inputs.shape[-1], tuple(inputs.shape[1 + timed : -1]), timed)
        kinds = [type(layer) for _, layer in layers[-3:]]
        # one layer in the files of before, which knows masks
        if kinds == [GlobalPool, Linear, TimeMean] and layers[-2][1].parameters(Shape(1)).get("bias"):
            x, _ = self._sequence(layers[:-3], "", end)
            return Readout(self._spec.num_classes, per_step=per_step, **self._options(layers[-2][0]))(x)
        return self._sequence(self._spec.layers_of(per_step=per_step), "", end)[0]

    def _run(self, layer: LayerSpec, path: str, end: _End) -> _End:
        if isinstance(layer, structure.Sequence):
            return self._sequence(layer.layers, path, end)
        if isinstance(layer, structure.Residual):
            body = self._run(layer.body, path, end)
            identity = end if layer.shortcut is None else self._run(layer.shortcut, f"{path}.downsample", end)
            joined = self._join(layer.joined, path, [identity, body])
            return joined if layer.after is None else self._run(layer.after, path, joined)
        if isinstance(layer, structure.Parallel):
            ends = [self._run(part, f"{path}.{name}", end) for name, part in layer.paths]
            return self._join(layer.joined, path, ends)
        if type(layer) not in LAYERS:
            raise TypeError(f"layer {path!r}: Keras has no layer for the kind {layer.kind!r}; add one to LAYERS")
        x, shape = end
        made = LAYERS[type(layer)](layer, shape, self._options(path))
        return x if made is None else made(x), layer.output(shape)

    def _sequence(self, layers: structure.Named, path: str, end: _End) -> _End:
        for name, layer in layers:
            end = self._run(layer, f"{path}.{name}" if path else name, end)
        return end

    def _join(self, join: JoinSpec, path: str, ends: list[_End]) -> _End:
        path = f"{path}.{join.kind}"
        if type(join) not in JOINS:
            raise TypeError(f"layer {path!r}: Keras has no layer for the join {join.kind!r}; add one to JOINS")
        shapes = [shape for _, shape in ends]
        made = JOINS[type(join)](join, shapes[0], self._options(path))
        tensors = [x for x, _ in ends]
        # the order in which layers are saved follows from that of the paths: a sum has always had the residual first
        return made(tensors[::-1] if isinstance(join, Add) else tensors), join.output(shapes)

    def _options(self, path: str) -> dict[str, Any]:
        return {"name": self._names[path], "dtype": self._dtype}
