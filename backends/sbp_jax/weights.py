"""Weights in and out under the names and layouts that all frameworks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from sbp_jax.networks import ResNet
from sbp_jax.shortcut import Shortcut

Array = NDArray[Any]

# the shared name of a part, to the attribute that holds it in flax
_CONVOLUTION = {"weight": "kernel"}
_LINEAR = {"weight": "kernel", "bias": "bias"}
_BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class _Slot(NamedTuple):
    """A variable, and the axes that turn its layout into the shared one."""

    variable: nnx.Variable[Any]
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape[axis] for axis in self.axes)


def export_weights(net_or_model: ResNet | Shortcut[Any]) -> dict[str, Array]:
    """Return every parameter and running statistic by its canonical name, in the layout of ``ResNetSpec``.

    Convolutions are OIHW, linear layers (classes, channels). A :class:`ResNet` has the names of
    ``spec.parameter_shapes()``; a :class:`Shortcut` of one has ``main.<name>``, ``branches.<tap>.weight`` and
    ``branches.<tap>.bias``.

    Raises:
        TypeError: another network, whose weights have no shared names.

    Example:
        >>> from sbp_jax import resnet18
        >>> weights = export_weights(resnet18(widths=(4, 4, 8, 8), rngs=nnx.Rngs(0)))
        >>> weights["stem.conv.weight"].shape, weights["head.weight"].shape
        ((4, 3, 3, 3), (10, 8))
    """
    return {
        name: np.transpose(np.asarray(slot.variable[...]), slot.axes) for name, slot in _slots(net_or_model).items()
    }


def import_weights(net_or_model: ResNet | Shortcut[Any], weights: Mapping[str, Array]) -> None:
    """Write what :func:`export_weights` returned, of this or another framework, in the dtypes that the network has.

    Everything is checked before anything is written. The network may be one that has shapes only,
    ``nnx.eval_shape(lambda: resnet18(rngs=nnx.Rngs(0)))``, which spares drawing and compiling initial weights.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
        TypeError: another network, or weights that are not floating.
    """
    slots = _slots(net_or_model)
    missing, unknown = sorted(set(slots) - set(weights)), sorted(set(weights) - set(slots))
    if missing or unknown:
        raise ValueError(f"weights must have the names of the network; missing: {missing}, unknown: {unknown}")
    arrays = {name: np.asarray(weights[name]) for name in slots}
    for name, slot in slots.items():
        if arrays[name].shape != slot.shape:
            raise ValueError(f"weights[{name!r}] must have shape {slot.shape}, got {arrays[name].shape}")
        if not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            raise TypeError(f"weights[{name!r}] must hold floating-point numbers, got {arrays[name].dtype}")
    for name, slot in slots.items():
        native = np.transpose(arrays[name], np.argsort(slot.axes))
        slot.variable.set_value(jnp.array(native, slot.variable.dtype))


def _slots(model: object) -> dict[str, _Slot]:
    if isinstance(model, Shortcut):
        slots = {f"main.{name}": slot for name, slot in _slots(model.main).items()}
        for tap, branch in zip(model.spec.taps, model.branches, strict=True):
            for path, layer in nnx.iter_modules(branch):
                slots |= _layer(".".join(("branches", tap, *map(str, path))), layer)
        return slots
    if not isinstance(model, ResNet):
        raise TypeError(f"net_or_model must be a ResNet, or a Shortcut of one; got {type(model).__name__}")
    found: dict[str, _Slot] = {}
    for name, layer in _modules(model):
        found |= _layer(name, layer)
    return {name: found[name] for name in model.spec.parameter_shapes()}


def _modules(net: ResNet) -> Iterator[tuple[str, nnx.Module]]:
    """Yield the canonical name of each module of a ResNet."""
    for path, module in nnx.iter_modules(net):
        # a stage is a Sequential: its list of blocks has no place in the canonical name
        yield ".".join(str(part) for part in path if part != "layers"), module


def _layer(name: str, layer: nnx.Module) -> dict[str, _Slot]:
    parts: dict[str, str] = {}
    kernel_axes: tuple[int, ...] = ()
    if isinstance(layer, nnx.Conv):
        parts, kernel_axes = _CONVOLUTION, (3, 2, 0, 1)
    elif isinstance(layer, nnx.Linear):
        parts, kernel_axes = _LINEAR, (1, 0)
    elif isinstance(layer, nnx.BatchNorm):
        parts = _BATCH_NORM
    elif hasattr(layer, "decay_logit"):
        parts = {"decay_logit": "decay_logit"}
    slots = {}
    for part, attribute in parts.items():
        variable = getattr(layer, attribute)
        axes = kernel_axes if attribute == "kernel" else tuple(range(variable.ndim))
        slots[f"{name}.{part}"] = _Slot(variable, axes)
    return slots
