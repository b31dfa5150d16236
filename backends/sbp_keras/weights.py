"""Weights in and out under the names and layouts that all frameworks share (:mod:`sbp_core.weights`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import keras
import numpy as np

from sbp_core import weights as shared
from sbp_core.weights import Array
from sbp_keras.branches import ConvolutionalReadout
from sbp_keras.networks import Network, layer_names
from sbp_keras.shortcut import ShortcutModel

# Keras's name of a weight, to the shared one
_PARTS = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "decay_logit": "decay_logit",
    "initial_potential": "initial_potential",
    "running_potential": "running_potential",
    "factors": "weight",
}


class _Slot(NamedTuple):
    """A variable, and the axes that turn its layout into the shared one."""

    variable: Any
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape[axis] for axis in self.axes)


def export_weights(net_or_model: keras.Model) -> dict[str, Array]:
    """Return every weight and running statistic by its canonical name, in the layout of ``NetworkSpec``.

    Convolutions are OIHW, linear layers (classes, channels). A :class:`Network` has the names of
    ``spec.parameter_shapes()``; any other functional model those of its layers, ``layer.weight``, with the names of
    models in front where they are nested. A :class:`ShortcutModel` has ``main.<name>`` and ``branches.<tap>.weight``
    and ``.bias``, or ``branches.<tap>.conv.weight``, ``.bn.weight`` and so on, and ``.linear.weight``.
    :func:`sbp_core.weights.save` writes them to a file.

    Raises:
        ValueError: a layer holds a weight that has no shared name, or two would have the same.

    Example:
        >>> from sbp_keras import resnet18
        >>> weights = export_weights(resnet18((8, 8, 3), widths=(4, 4, 8, 8)))
        >>> weights["stem.conv.weight"].shape, weights["head.weight"].shape
        ((4, 3, 3, 3), (10, 8))
    """
    return {name: np.transpose(_to_numpy(slot.variable), slot.axes) for name, slot in _slots(net_or_model).items()}


def import_weights(net_or_model: keras.Model, weights: Mapping[str, Array]) -> None:
    """Write what :func:`export_weights` returned, of this or another framework, in the dtypes that the model has.

    Everything is checked before anything is written.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
        TypeError: weights that are not floating.
    """
    slots = _slots(net_or_model)
    for name, array in shared.checked({name: slot.shape for name, slot in slots.items()}, weights).items():
        slots[name].variable.assign(np.transpose(array, np.argsort(slots[name].axes)))


def variables(net_or_model: keras.Model) -> dict[str, Any]:
    """Return the variables that :func:`export_weights` copies, by the same names.

    Raises:
        ValueError: as there.
    """
    return {name: slot.variable for name, slot in _slots(net_or_model).items()}


def save(path: str | PathLike[str], model: keras.Model, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a network to one safetensors file: weights, running statistics, branches if there are any, and its spec.

    Args:
        path: the file; a failure leaves what was there.
        model: a :class:`Network`, or a :class:`ShortcutModel` of one.
        notes: text by name, kept with it.

    Raises:
        TypeError: another model.
        OSError: the file cannot be written.
    """
    net = model.main if isinstance(model, ShortcutModel) else model
    shared.save_network(path, export_weights(model), getattr(net, "spec", None), notes)


def load(
    path: str | PathLike[str], input_shape: Sequence[int | None] | None = None, *, per_step: bool = False
) -> Network:
    """Build the network that :func:`save` of any adapter wrote, with its weights; branches are left out.

    Args:
        path: the file.
        input_shape: ``(height, width, channels)`` of still images, or ``(time, height, width, channels)`` of event
            frames; what the spec says unless given, of any size where it says none.
        per_step: give the logits of each step.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, of a newer version, or not a network's; the message names the file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from sbp_keras.networks import network
        >>> net = network("mlp", (8, 8, 1), size=(8, 8))
        >>> with TemporaryDirectory() as folder:
        ...     save(f"{folder}/net.safetensors", net)
        ...     again = load(f"{folder}/net.safetensors")
        >>> bool((again.get_weights()[0] == net.get_weights()[0]).all())
        True
    """
    spec, weights = shared.load_network(path)
    shape = (*([] if spec.repeats else [spec.time_steps]), *spec.image_size, spec.in_channels)
    net = Network(spec, shape if input_shape is None else input_shape, per_step=per_step)
    import_weights(net, weights)
    return net


def _slots(model: keras.Model) -> dict[str, _Slot]:
    slots: dict[str, _Slot] = {}
    for name, slot in _walk(model, ""):
        if name in slots:
            raise ValueError(
                f"weights {slots[name].variable.path!r} and {slot.variable.path!r} would share the name {name!r}. "
                "Use model.save_weights for a model with such layers"
            )
        slots[name] = slot
    return slots


def _walk(model: keras.Model, prefix: str) -> Iterator[tuple[str, _Slot]]:
    if isinstance(model, ShortcutModel):
        yield from _walk(model.main, f"{prefix}main.")
        for tap, branch in zip(model.spec.taps, model.branches, strict=True):
            yield from _branch(branch, f"{prefix}branches.{tap}")
    elif isinstance(model, Network):
        names = layer_names(model.spec)
        for name in model.spec.parameter_shapes():
            module = name.rpartition(".")[0]
            yield prefix + name, dict(_layer(model.get_layer(names[module]), module))[name]
    else:
        for layer in model.layers:
            inner = prefix + layer.name
            yield from _walk(layer, f"{inner}.") if isinstance(layer, keras.Model) else _layer(layer, inner)


def _branch(branch: keras.layers.Layer, prefix: str) -> Iterator[tuple[str, _Slot]]:
    if isinstance(branch, keras.Model):
        yield from _walk(branch, f"{prefix}.")
    elif isinstance(branch, ConvolutionalReadout):
        yield from _layer(branch.convolution, f"{prefix}.conv")
        yield from _layer(branch.norm, f"{prefix}.bn")
        yield from _named([branch.kernel, branch.bias], f"{prefix}.linear")
    else:
        yield from _layer(branch, prefix)


def _layer(layer: keras.layers.Layer, prefix: str) -> Iterator[tuple[str, _Slot]]:
    yield from _named(layer.weights, prefix)


def _named(variables: Iterable[Any], prefix: str) -> Iterator[tuple[str, _Slot]]:
    for variable in variables:
        if variable.name not in _PARTS:
            raise ValueError(
                f"weight {variable.path!r} has no shared name; known are {', '.join(_PARTS)}. "
                "Use model.save_weights for a model with other layers"
            )
        yield f"{prefix}.{_PARTS[variable.name]}", _Slot(variable, shared.to_canonical(len(variable.shape)))


def _to_numpy(variable: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(variable))
